from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, create_engine, inspect, text
from sqlalchemy.exc import IntegrityError

import activities.record.migrations
from activities.record.store import HEAD, Store
from activities.record.tables import METADATA
from schemas.error import InfrastructureError, InputError, Refused
from tests.record.conftest import on_sqlite

INSERT = (
    "INSERT INTO cursor (cursor_key, tenant_id, trace_id, session_id, task_id, version, value_json, created_at_ms, updated_at_ms)"
    " VALUES (:key, 'acme', 't', 's', 'k', '1', '{}', 0, 0)"
)


def add(connection: Connection, key: str) -> None:
    connection.execute(text(INSERT), {"key": key})


def count(store: Store) -> int:
    return int(store.read(lambda connection: connection.execute(text("SELECT count(*) FROM cursor")).scalar_one()))


def test_migrations_make_the_tables_that_the_code_uses(store: Store, url: str) -> None:
    def ours(_object: object, name: str | None, _type: str, _reflected: bool, _compared: object) -> bool:
        return name != "tenant_role"  # of PostgreSQL's row-level security; no row of the fabric's

    with create_engine(url.replace("postgresql:", "postgresql+psycopg:")).connect() as connection:
        context = MigrationContext.configure(connection, opts={"include_object": ours})
        assert compare_metadata(context, METADATA) == []
        columns = {table: {column["name"] for column in inspect(connection).get_columns(table)} for table in METADATA.tables}
    for table, names in columns.items():
        assert {"tenant_id", "trace_id", "session_id", "task_id", "capability_id", "version"} <= names, table


def test_head_is_the_last_migration() -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(activities.record.migrations.__file__ or "").parent))
    assert ScriptDirectory.from_config(config).get_current_head() == HEAD


@on_sqlite
def test_file_is_durable_and_shared(store: Store) -> None:
    def pragmas(connection: Connection) -> tuple[str, int, int]:
        journal, synchronous, busy = (
            connection.exec_driver_sql(f"PRAGMA {name}").scalar_one() for name in ("journal_mode", "synchronous", "busy_timeout")
        )
        return journal, synchronous, busy

    assert store.write(pragmas) == ("wal", 2, 30_000)


def test_failed_write_leaves_nothing(store: Store) -> None:
    def fail(connection: Connection) -> None:
        add(connection, "a")
        raise ValueError("mistake")

    with pytest.raises(ValueError, match="mistake"):
        store.write(fail)
    assert count(store) == 0
    store.write(lambda connection: add(connection, "a"))
    with pytest.raises(IntegrityError):
        store.write(lambda connection: add(connection, "a"))
    assert count(store) == 1


def test_writes_run_on_one_thread_in_turn(store: Store) -> None:
    names: set[str] = set()

    def note(connection: Connection, key: str) -> None:
        names.add(threading.current_thread().name)
        add(connection, key)

    threads = [threading.Thread(target=lambda key=key: store.write(lambda c: note(c, key))) for key in map(str, range(20))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert names == {"store-writer"} and count(store) == 20


def test_write_inside_write_is_a_mistake_not_a_deadlock(store: Store) -> None:
    with pytest.raises(RuntimeError, match="pass the connection on"):
        store.write(lambda connection: store.write(lambda inner: None))


def test_readers_cannot_write(store: Store) -> None:
    with pytest.raises(InfrastructureError, match="STORE_UNAVAILABLE"):
        store.read(lambda connection: add(connection, "a"))


def test_reader_sees_a_snapshot_while_another_process_writes(store: Store, url: str) -> None:
    other = Store.open(url)

    def look(connection: Connection) -> tuple[int, int]:
        before = connection.execute(text("SELECT count(*) FROM cursor")).scalar_one()
        store.write(lambda writing: add(writing, "a"))
        return before, connection.execute(text("SELECT count(*) FROM cursor")).scalar_one()

    assert other.read(look) == (0, 0)
    assert count(other) == 1
    other.close()


def test_several_processes_open_and_write_at_once(url: str) -> None:
    program = (
        "import sys\nfrom activities.record.store import Store\nfrom activities.record.cursors import Cursors\n"
        "from schemas.task import TraceKeys\nstore = Store.open(sys.argv[1])\n"
        "keys = TraceKeys(tenant_id='acme', trace_id='t', session_id='s', task_id='k')\n"
        "for n in range(10): Cursors(store.tenant('acme')).save(keys, f'{sys.argv[2]}-{n}', {'n': n})\nstore.close()\n"
    )
    root = Path(__file__).parents[2]
    running = [subprocess.Popen([sys.executable, "-c", program, url, str(n)], cwd=root) for n in range(3)]
    assert [process.wait(60) for process in running] == [0, 0, 0]
    store = Store.open(url)
    assert count(store) == 30
    store.close()


def test_store_of_a_newer_program_is_refused(store: Store, url: str) -> None:
    store.write(lambda connection: connection.exec_driver_sql("UPDATE alembic_version SET version_num = 'r9999'"))
    with pytest.raises(Refused, match="STORE_NEWER"):
        Store.open(url)


@pytest.mark.parametrize(
    "wrong",
    ["", "db", "sqlite://", "sqlite:///:memory:", "postgresql://host", "postgresql+asyncpg://host/db", "mysql://host/db"],
)
def test_other_urls_are_refused(wrong: str) -> None:
    with pytest.raises(InputError, match="STORE_URL"):
        Store.open(wrong)


@pytest.mark.parametrize("wrong", ["postgresql://me:word@host/db", "postgresql://me@host/db?password=word"])
def test_a_password_in_the_address_is_refused_and_not_repeated(wrong: str) -> None:
    with pytest.raises(InputError, match="STORE_URL_SECRET") as caught:
        Store.open(wrong)
    assert "word@" not in str(caught.value) and "=word" not in str(caught.value)


def test_damaged_or_unreachable_file_is_an_infrastructure_error(tmp_path: Path) -> None:
    (tmp_path / "bad.db").write_bytes(b"this is no database, but long enough to be read as one" * 50)
    for url in (f"sqlite:///{tmp_path}/bad.db", f"sqlite:///{tmp_path}/missing/store.db"):
        with pytest.raises(InfrastructureError, match="STORE_UNAVAILABLE"):
            Store.open(url)


def test_closed_store_refuses(url: str) -> None:
    store = Store.open(url)
    store.close()
    store.close()
    with pytest.raises(InfrastructureError, match="STORE_CLOSED"):
        store.write(lambda connection: None)

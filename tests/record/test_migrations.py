"""A store of the first release, with sessions in flight, brought to today's shape; and what the database itself refuses."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, insert, text
from sqlalchemy.exc import IntegrityError

import activities.record.migrations
from activities.record.approvals import Approvals
from activities.record.chain import EventChain, commitment
from activities.record.cursors import Cursors
from activities.record.databases import PostgresDatabase, SqliteDatabase, open_database, parse_url, version_of
from activities.record.effects import Effects
from activities.record.executions import ExecutionRows
from activities.record.store import HEAD, Store
from activities.record.tables import (
    CHECKPOINT,
    CHECKPOINT_HEAD,
    COST_ATTRIBUTION,
    EVENT,
    EVENT_PAYLOAD,
    LEDGER_ENTRY,
    METADATA,
    PAYLOAD_ERASURE,
)  # fmt: skip
from schemas.canonical import jcs
from schemas.error import Refused
from schemas.event import GENESIS, EventDraft, event_hash
from tests.record.conftest import ACTOR, KEYS
from tests.record.postgres import Postgres
from tests.record.test_rows import request

TRACE = {"tenant_id": "acme", "trace_id": "trace", "session_id": "session", "task_id": "task", "version": "1"}


@pytest.fixture(params=["sqlite", "postgresql"])
def empty(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A database without any table."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/store.db"
        return
    postgres: Postgres = request.getfixturevalue("postgres")
    name = postgres.database()
    yield postgres.url(name)
    postgres.drop(name)


def first_release(url: str) -> None:
    """What the first release left: its schema, and a session that waits for its approval; written without today's code."""
    parsed = parse_url(url)
    sqlite = parsed.get_backend_name() == "sqlite"
    database = SqliteDatabase(parsed) if sqlite else PostgresDatabase(parsed)
    config = Config()
    config.set_main_option("script_location", str(Path(activities.record.migrations.__file__ or "").parent))
    with database.writer.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "r0001")
        assert version_of(connection) == "r0001"
        write_session(connection)
    database.dispose()


def write_session(connection: Connection) -> None:
    def put(table: str, **values: object) -> None:
        row = {**TRACE, **values}
        names, marks = ", ".join(row), ", ".join(f":{name}" for name in row)
        connection.execute(text(f"INSERT INTO {table} ({names}) VALUES ({marks})"), row)  # noqa: S608

    times = {"created_at_ms": 1, "updated_at_ms": 1}
    previous = GENESIS
    for seq, kind in enumerate(("session.opened", "gate.decision", "approval.requested"), 1):
        salt, body = bytes([seq]) * 32, jcs({"n": seq})
        fields = {
            **TRACE, "event_id": f"event-{seq}", "capability_id": None, "seq": seq, "kind": kind, "prev_hash": previous,
            "actor": ACTOR.model_dump(), "idempotency_key": f"k{seq}", "payload_commitment": commitment(salt, body),
            "recorded_at_ms": seq,
        }  # fmt: skip
        previous = event_hash(fields)
        actor = fields.pop("actor")
        put("event", **fields, hash=previous, actor_principal_id=ACTOR.principal_id, actor_kind=actor["kind"])  # type: ignore[index]
        put("event_payload", event_id=f"event-{seq}", salt=salt, payload=body, created_at_ms=seq)
    put(
        "execution", workflow_id="w", run_id="r", first_run_id="r", principal_id="operator", phase="control", generation=1,
        reset=False, created_at_ms=1,
    )  # fmt: skip
    put("effect", effect_key="e", attempt_key="r/1/1", attempts=1, outcome="started", capability_id="forge.deliver", **times)
    asked = request("a1")
    put(
        "approval", approval_id="a1", run_id="r", action_digest=asked.action_digest, status="pending",
        request_json=json.dumps(asked.model_dump(mode="json")), expires_at_ms=2, **times,
    )  # fmt: skip
    put("cursor", cursor_key="c", value_json='{"tried":7}', **times)


def test_sessions_of_the_first_release_go_on(empty: str) -> None:
    first_release(empty)
    store = Store.open(empty)
    tenant = store.tenant("acme")
    chain = EventChain(tenant)
    assert store.read(version_of) == HEAD
    assert list(chain.verify("session")) == []
    assert [(event.kind, payload) for event, payload in chain.read("session")] == [
        ("session.opened", {"n": 1}), ("gate.decision", {"n": 2}), ("approval.requested", {"n": 3}),
    ]  # fmt: skip
    row = ExecutionRows(tenant).get("w", "r")
    assert row is not None and (row.phase, row.principal_id, row.session_id) == ("control", "operator", "session")
    stored = Effects(tenant).get("e")
    assert stored is not None and (stored.outcome, stored.attempts) == ("started", 1)
    assert [item.request for item in Approvals(tenant).pending()] == [request("a1")]
    assert Cursors(tenant).load("c") == {"tried": 7}

    assert Approvals(tenant).set_status("a1", "pending", "approved", decided_by="uid:7", decision_json="{}")
    draft = EventDraft(kind="approval.decided", idempotency_key="k4", payload={})
    assert chain.append(KEYS, ACTOR, draft)[0].seq == 4
    assert list(chain.verify("session")) == []
    store.close()
    Store.open(empty).close()


def test_a_migration_that_fails_changes_nothing(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/store.db"
    first_release(url)
    plain = sqlite3.connect(tmp_path / "store.db")
    plain.execute("CREATE TABLE used_token (in_the_way)")
    plain.commit()
    with pytest.raises(Exception, match="used_token"):
        Store.open(url)
    assert plain.execute("SELECT version_num FROM alembic_version").fetchone() == ("r0001",)
    assert plain.execute("SELECT name FROM sqlite_master WHERE name = 'tenant'").fetchone() is None
    plain.execute("DROP TABLE used_token")
    plain.commit()
    plain.close()
    Store.open(url).close()


def test_a_store_of_a_newer_program_is_refused(store: Store, url: str) -> None:
    store.write(lambda connection: connection.exec_driver_sql("UPDATE alembic_version SET version_num = 'r9999'"))
    with pytest.raises(Refused, match="STORE_NEWER"):
        Store.open(url)


# --- what the database itself refuses --------------------------------------------------------------------------------------

APPEND_ONLY = (CHECKPOINT, CHECKPOINT_HEAD, COST_ATTRIBUTION, EVENT, EVENT_PAYLOAD, LEDGER_ENTRY, PAYLOAD_ERASURE)


def a_row(table: str) -> dict[str, object]:
    values: dict[type, object] = {str: "x", int: 1, bytes: b"x", bool: False}
    row = {column.name: values[column.type.python_type] for column in METADATA.tables[table].columns}
    return {**row, **TRACE}


@pytest.mark.parametrize("table", [table.name for table in APPEND_ONLY])
def test_rows_that_are_added_once_never_change(store: Store, table: str) -> None:
    made = METADATA.tables[table]
    store.write(lambda connection: connection.execute(insert(made), a_row(table)))
    attempts = [f"UPDATE {table} SET version = '2'", f"DELETE FROM {table}"]  # noqa: S608
    names = ", ".join(made.columns.keys())
    key = ", ".join(column.name for column in made.primary_key)
    if store._database.writer.dialect.name == "postgresql":
        attempts += [
            f"TRUNCATE {table}",
            f"INSERT INTO {table} SELECT * FROM {table} ON CONFLICT ({key}) DO UPDATE SET version = '2'",  # noqa: S608
        ]
    else:
        attempts += [f"INSERT OR REPLACE INTO {table} ({names}) SELECT {names} FROM {table}"]  # noqa: S608
    for attempt in attempts:
        with pytest.raises(IntegrityError, match="append-only"):
            store.write(lambda connection, attempt=attempt: connection.exec_driver_sql(attempt))
    assert store.read(lambda connection: connection.exec_driver_sql(f"SELECT version FROM {table}").scalars().all()) == ["1"]  # noqa: S608


def test_a_payload_goes_only_after_its_tombstone_and_never_returns(store: Store) -> None:
    first, second = ({**a_row("event_payload"), "event_id": name} for name in ("first", "second"))
    store.write(lambda connection: connection.execute(insert(EVENT_PAYLOAD), [first, second]))
    erase = "DELETE FROM event_payload WHERE event_id = 'first'"

    def with_tombstone(connection: Connection, tenant_id: str) -> None:
        tombstone = {**a_row("payload_erasure"), "event_id": "first", "tenant_id": tenant_id}
        connection.execute(insert(PAYLOAD_ERASURE), tombstone)
        connection.exec_driver_sql(erase)

    with pytest.raises(IntegrityError, match="append-only"):
        store.write(lambda connection: connection.exec_driver_sql(erase))
    with pytest.raises(IntegrityError, match="append-only"):
        store.write(lambda connection: with_tombstone(connection, "another"))
    store.write(lambda connection: with_tombstone(connection, "acme"))
    for refused in ("DELETE FROM event_payload", "UPDATE event_payload SET payload = salt"):
        with pytest.raises(IntegrityError, match="append-only"):
            store.write(lambda connection, refused=refused: connection.exec_driver_sql(refused))
    with pytest.raises(IntegrityError, match="append-only"):
        store.write(lambda connection: connection.execute(insert(EVENT_PAYLOAD), first))
    left = store.read(lambda connection: connection.exec_driver_sql("SELECT event_id FROM event_payload").scalars().all())
    assert left == ["second"]


@pytest.mark.parametrize("name", ["tenant_id", "trace_id", "session_id"])
@pytest.mark.parametrize("value", ["", None])
def test_an_event_without_a_required_id_cannot_be_written(store: Store, name: str, value: str | None) -> None:
    with pytest.raises(IntegrityError):
        store.write(lambda connection: connection.execute(insert(EVENT), {**a_row("event"), name: value}))
    store.write(lambda connection: connection.execute(insert(EVENT), {**a_row("event"), "task_id": None}))


def test_opening_again_changes_nothing(url: str) -> None:
    Store.open(url).close()
    open_database(url).dispose()

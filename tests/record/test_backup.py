"""Copies made while others write, put back, and what the restored store says about itself; on both databases."""

from __future__ import annotations

import sqlite3
import stat
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from activities.record.backup import back_up, declare_restored, replace, standings
from activities.record.chain import EventChain
from activities.record.merkle import EMPTY_ROOT
from activities.record.store import Store
from schemas.error import InfrastructureError, InputError, Refused
from schemas.event import Actor, EventDraft
from schemas.task import TENANT_CHAIN, TraceKeys
from tests.record.conftest import on_postgresql, on_sqlite
from tests.record.postgres import Postgres

ACTOR = Actor(principal_id="uid:0", kind="human")


def record(store: Store, tenant: str, session: str, key: str) -> None:
    keys = TraceKeys(tenant_id=tenant, trace_id=session, session_id=session, task_id="t")
    draft = EventDraft(kind="task.started", idempotency_key=f"{session}/{key}", payload={"key": key})
    EventChain(store.tenant(tenant)).append(keys, ACTOR, draft)


@contextmanager
def opened(url: str) -> Iterator[Store]:
    store = Store.open(url)
    try:
        yield store
    finally:
        store.close()


def chains(store: Store) -> dict[tuple[str, str], int]:
    """Length of every chain, each verified."""
    found = {}
    for tenant in standings(store):
        chain = EventChain(store.tenant(tenant))
        for session in chain.sessions():
            assert list(chain.verify(session)) == []
            found[tenant, session] = len(list(chain.read(session)))
    return found


def test_a_copy_made_under_load_is_whole_and_restores(url: str, tmp_path: Path) -> None:
    copy, kept, stop = tmp_path / "copy", tmp_path / "kept", threading.Event()
    acknowledged: dict[str, int] = {}

    def write(store: Store, tenant: str) -> None:
        while not stop.is_set():
            count = acknowledged.get(tenant, 0)
            record(store, tenant, f"s{count % 3}", str(count))
            acknowledged[tenant] = count + 1

    with opened(url) as store:
        threads = [threading.Thread(target=write, args=(store, tenant)) for tenant in ("acme", "other")]
        for thread in threads:
            thread.start()
        while min(acknowledged.get("acme", 0), acknowledged.get("other", 0)) < 20:
            pass
        before = dict(acknowledged)
        back_up(url, copy)
        after = dict(acknowledged)
        stop.set()
        for thread in threads:
            thread.join()
        replaced = standings(store)
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600

    replace(url, copy, kept)
    with opened(url) as store:
        held = standings(store)
        for tenant in ("acme", "other"):
            assert before[tenant] <= held[tenant].events <= after[tenant] + 1
        assert declare_restored(store, replaced, copy, ACTOR, 17) == held
        assert all(length > 0 for length in chains(store).values())
        for tenant in ("acme", "other"):
            [(event, payload)] = EventChain(store.tenant(tenant)).read(TENANT_CHAIN)
            assert (event.kind, event.actor, event.recorded_at_ms) == ("store.restored", ACTOR, 17)
            assert payload["events_backup"] == held[tenant].events
            assert payload["events_replaced"] == replaced[tenant].events == acknowledged[tenant]
            assert payload["backup_heads_root"] == held[tenant].heads_root
            assert payload["replaced_heads_root"] == replaced[tenant].heads_root != held[tenant].heads_root

    # What was replaced is kept whole, and can itself be put back.
    replace(url, kept, tmp_path / "kept again")
    with opened(url) as store:
        assert standings(store) == replaced
        assert sum(chains(store).values()) == sum(acknowledged.values())
        record(store, "acme", "s0", "afterwards")


def test_a_restored_store_refuses_changes_as_before(url: str, tmp_path: Path) -> None:
    with opened(url) as store:
        record(store, "acme", "s", "1")
    back_up(url, tmp_path / "copy")
    replace(url, tmp_path / "copy", tmp_path / "kept")
    with opened(url) as store:
        for statement in ("UPDATE event SET kind = 'x'", "DELETE FROM event_payload"):
            with pytest.raises(Exception, match="append-only"):
                store.write(lambda connection, statement=statement: connection.exec_driver_sql(statement))


def test_a_tenant_that_the_copy_lacks_is_told_too(url: str, tmp_path: Path) -> None:
    with opened(url) as store:
        record(store, "acme", "s", "1")
        back_up(url, tmp_path / "copy")
        record(store, "late", "s", "1")
        replaced = standings(store)
    replace(url, tmp_path / "copy", tmp_path / "kept")
    with opened(url) as store:
        declare_restored(store, replaced, tmp_path / "copy", ACTOR, 1)
        [(_, payload)] = EventChain(store.tenant("late")).read(TENANT_CHAIN)
        assert (payload["events_backup"], payload["events_replaced"]) == (0, 1)
        assert payload["backup_heads_root"] == EMPTY_ROOT.hex() != payload["replaced_heads_root"]


def test_a_store_in_use_is_not_replaced(url: str, tmp_path: Path) -> None:
    with opened(url) as store:
        record(store, "acme", "s", "1")
        back_up(url, tmp_path / "copy")
        store.tenant("acme").read(lambda connection: None)
        with pytest.raises(Refused, match="STORE_IN_USE"):
            replace(url, tmp_path / "copy", tmp_path / "kept")
        assert not (tmp_path / "kept").exists()
        record(store, "acme", "s", "2")
        assert chains(store) == {("acme", "s"): 2}


def test_files_that_are_no_copies_replace_nothing(url: str, tmp_path: Path) -> None:
    with opened(url) as store:
        record(store, "acme", "s", "1")
    (tmp_path / "text").write_text("no copy" * 1_000)
    (tmp_path / "empty").write_bytes(b"")
    with closing(sqlite3.connect(tmp_path / "foreign")) as foreign:
        foreign.execute("CREATE TABLE event (x)")
        foreign.commit()
    back_up(url, tmp_path / "copy")
    (tmp_path / "torn").write_bytes((tmp_path / "copy").read_bytes()[:-5_000])
    for name in ("text", "empty", "foreign", "missing", "torn"):
        with pytest.raises((InputError, InfrastructureError), match=r"BACKUP_UNREADABLE|RESTORE_FAILED"):
            replace(url, tmp_path / name, tmp_path / f"kept {name}")
        with opened(url) as store:
            assert chains(store) == {("acme", "s"): 1}


def test_no_file_is_overwritten(url: str, tmp_path: Path) -> None:
    Store.open(url).close()
    (tmp_path / "taken").write_text("mine")
    with pytest.raises(InputError, match="FILE_EXISTS"):
        back_up(url, tmp_path / "taken")
    with pytest.raises(InputError, match="FILE_UNWRITABLE"):
        back_up(url, tmp_path / "missing" / "copy")
    assert (tmp_path / "taken").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@on_sqlite
def test_a_damaged_file_is_replaced_and_kept(url: str, tmp_path: Path) -> None:
    file = Path(url.removeprefix("sqlite:///"))
    with opened(url) as store:
        record(store, "acme", "s", "1")
    back_up(url, tmp_path / "copy")
    file.write_bytes(b"damage" * 4_000)
    with pytest.raises(InfrastructureError, match="STORE_UNAVAILABLE"):
        Store.open(url)
    replace(url, tmp_path / "copy", tmp_path / "kept")
    assert (tmp_path / "kept").read_bytes().startswith(b"damage")
    with opened(url) as store:
        declare_restored(store, None, tmp_path / "copy", ACTOR, 1)
        [(_, payload)] = EventChain(store.tenant("acme")).read(TENANT_CHAIN)
        assert (payload["events_replaced"], payload["replaced_heads_root"], payload["events_backup"]) == (None, None, 1)


@on_postgresql
def test_a_role_bound_to_one_tenant_cannot_copy_a_part(url: str, tmp_path: Path, postgres: Postgres) -> None:
    with opened(url) as store:
        record(store, "acme", "s", "1")
    role = postgres.bound_role(url, "acme")
    with pytest.raises(InfrastructureError, match="BACKUP_FAILED"):
        back_up(url.replace("//gen4@", f"//{role}@"), tmp_path / "copy")
    assert not (tmp_path / "copy").exists()

"""Payloads at rest: unreadable without the home's key, erasable on record, and the chain verifies all the same."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import text

from activities.record.chain import EventChain
from activities.record.erasure import Erasures
from activities.record.payloads import PAYLOAD_KEY_FILE, PayloadVault
from activities.record.store import Store
from schemas.error import InputError, Refused
from schemas.event import Actor, EventDraft, EventKind
from schemas.task import TENANT_CHAIN, TraceKeys

KEYS = TraceKeys(tenant_id="acme", trace_id="trace", session_id="session", task_id="task")
ACTOR = Actor(principal_id="uid:1000", kind="human")
SECRET = "Jane Doe said"


def draft(key: str, kind: EventKind = "task.started", **payload: object) -> EventDraft:
    return EventDraft(kind=kind, idempotency_key=key, payload=dict(payload))


@pytest.fixture
def keys_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "keys"
    folder.mkdir(mode=0o700)
    return folder


@pytest.fixture
def sealed(url: str, keys_folder: Path) -> Iterator[Store]:
    store = Store.open(url, vault=PayloadVault(keys_folder))
    yield store
    store.close()


def fill(store: Store, keys: TraceKeys = KEYS) -> EventChain:
    chain = EventChain(store.tenant(keys.tenant_id))
    chain.append(keys, ACTOR, draft("a", "session.opened", text=SECRET), draft("b", text=SECRET), draft("c", "budget.settled"))
    return chain


def raw(store: Store, statement: str) -> None:
    store.write(lambda connection: connection.exec_driver_sql(statement))


def unguarded(store: Store) -> None:
    """What an attacker with the file does first."""
    postgres = store.read(lambda connection: connection.dialect.name) == "postgresql"
    for table, verb in (("event_payload", "update"), ("event_payload", "delete"), ("payload_erasure", "delete")):
        raw(store, f"DROP TRIGGER {table}_no_{verb}" + (f" ON {table}" if postgres else ""))


def stored(store: Store) -> list[bytes]:
    rows = store.read(lambda c: c.execute(text("SELECT salt, payload FROM event_payload")).all())
    return [bytes(value) for row in rows for value in row]


def test_nothing_that_was_said_is_readable_in_the_store(sealed: Store) -> None:
    chain = fill(sealed)
    assert [payload.get("text") for _, payload in chain.read("session")] == [SECRET, SECRET, None]
    assert not any(SECRET.encode() in value for value in stored(sealed))
    assert chain.verify("session") == []


def test_the_key_is_made_once_is_private_and_its_making_is_on_record(sealed: Store, keys_folder: Path) -> None:
    chain = fill(sealed)
    assert (keys_folder / PAYLOAD_KEY_FILE).stat().st_mode & 0o777 == 0o600
    [(event, payload)] = chain.read(TENANT_CHAIN)
    assert (event.kind, payload["purpose"]) == ("key.created", "payload") and chain.verify(TENANT_CHAIN) == []


def test_many_that_start_at_once_agree_on_one_key(url: str, keys_folder: Path) -> None:
    stores = [Store.open(url, vault=PayloadVault(keys_folder)) for _ in range(4)]

    def work(number: int) -> None:
        keys = KEYS.model_copy(update={"session_id": f"s{number}"})
        EventChain(stores[number].tenant("acme")).append(keys, ACTOR, draft(f"k{number}", n=number))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    reader = Store.open(url, vault=PayloadVault(keys_folder))
    chain = EventChain(reader.tenant("acme"))
    assert [payload for n in range(4) for _, payload in chain.read(f"s{n}")] == [{"n": n} for n in range(4)]
    assert len(list(chain.read(TENANT_CHAIN))) == 1
    for store in (*stores, reader):
        store.close()


def test_a_key_whose_making_was_taken_back_seals_nothing(sealed: Store) -> None:
    chain = EventChain(sealed.tenant("acme"))

    def fail(connection: object) -> None:
        chain.append(KEYS, ACTOR, draft("a"), connection=connection)  # type: ignore[arg-type]
        raise ValueError("mistake")

    with pytest.raises(ValueError, match="mistake"):
        sealed.tenant("acme").write(fail)
    chain.append(KEYS, ACTOR, draft("b", n=1))
    assert [payload for _, payload in chain.read("session")] == [{"n": 1}]


def test_payloads_from_before_encryption_stay_readable(url: str, keys_folder: Path) -> None:
    plain = Store.open(url)
    EventChain(plain.tenant("acme")).append(KEYS, ACTOR, draft("old", n=1))
    plain.close()
    store = Store.open(url, vault=PayloadVault(keys_folder))
    chain = EventChain(store.tenant("acme"))
    chain.append(KEYS, ACTOR, draft("old", n=1), draft("new", n=2))
    assert [payload for _, payload in chain.read("session")] == [{"n": 1}, {"n": 2}] and chain.verify("session") == []
    store.close()


def _lose(folder: Path) -> None:
    (folder / PAYLOAD_KEY_FILE).unlink()


def _swap(folder: Path) -> None:
    (folder / PAYLOAD_KEY_FILE).write_text("ab" * 32)


@pytest.mark.parametrize("loss", [_lose, _swap])
def test_without_its_key_the_chain_verifies_and_says_what_it_could_not_check(
    url: str, keys_folder: Path, loss: Callable[[Path], None]
) -> None:
    store = Store.open(url, vault=PayloadVault(keys_folder))
    fill(store)
    store.close()
    loss(keys_folder)
    store = Store.open(url, vault=PayloadVault(keys_folder))
    chain = EventChain(store.tenant("acme"))
    examined = chain.examine("session")
    assert (examined.finding, examined.events, examined.not_checked) == (None, 3, 3)
    with pytest.raises(Refused, match="PAYLOAD_KEY_MISSING"):
        list(chain.read("session"))
    with pytest.raises(Refused, match="PAYLOAD_KEY_MISSING"):
        chain.append(KEYS, ACTOR, draft("d"))
    with pytest.raises(Refused, match="PAYLOAD_KEY_MISSING"):
        EventChain(Store.open(url).tenant("acme")).append(KEYS, ACTOR, draft("a", "session.opened", text=SECRET))
    store.close()


def test_a_key_file_that_others_can_read_is_refused(sealed: Store, keys_folder: Path) -> None:
    (keys_folder / PAYLOAD_KEY_FILE).write_text("ab" * 32)
    os.chmod(keys_folder / PAYLOAD_KEY_FILE, 0o644)
    with pytest.raises(InputError, match="KEY_UNSAFE"):
        fill(sealed)


def test_a_payload_opens_for_its_own_event_only(sealed: Store) -> None:
    chain = fill(sealed)
    unguarded(sealed)
    raw(
        sealed,
        "UPDATE event_payload SET payload = (SELECT payload FROM event_payload WHERE event_id ="
        " (SELECT event_id FROM event WHERE seq = 1 AND session_id = 'session'))"
        " WHERE event_id = (SELECT event_id FROM event WHERE seq = 2 AND session_id = 'session')",
    )
    [finding] = chain.verify("session")
    assert (finding.seq, finding.code) == (2, "PAYLOAD_CHANGED")
    with pytest.raises(Refused, match="CHAIN_ALTERED"):
        list(chain.read("session"))


# --- erasure ---------------------------------------------------------------------------------------------------------


def closed(store: Store) -> EventChain:
    chain = fill(store)
    chain.append(KEYS, ACTOR, draft("end", "session.closed", reason=SECRET))
    return chain


def test_erased_payloads_are_gone_and_the_chain_verifies(sealed: Store) -> None:
    chain = closed(sealed)
    before = len(stored(sealed))
    erasures = Erasures(sealed.tenant("acme"))
    assert erasures.erase("session", ACTOR, "request 17", 5) == 3
    assert len(stored(sealed)) == before - 2 * 3 + 2  # and one payload more, that of the erasure
    assert erasures.erase("session", ACTOR, "again", 6, first=1, last=2) == 0
    examined = chain.examine("session")
    assert (examined.finding, examined.events, examined.erased, examined.not_checked) == (None, 5, 3, 0)
    rows = list(chain.read("session"))
    assert rows[0][1] == {"erased": True} and rows[2][1] == {}
    assert (rows[-1][0].kind, rows[-1][0].actor, rows[-1][1]["reason"]) == ("payload.erased", ACTOR, "request 17")
    with pytest.raises(Refused, match="ID_CONFLICT"):
        chain.append(KEYS, ACTOR, draft("b", "gate.decision"))
    assert chain.append(KEYS, ACTOR, draft("b", text="nobody can tell"))[0].seq == 2


def test_one_record_is_erased(sealed: Store) -> None:
    chain = closed(sealed)
    assert Erasures(sealed.tenant("acme")).erase("session", ACTOR, "request", 5, first=2, last=2) == 1
    assert [payload for _, payload in chain.read("session")][1] == {"erased": True} and chain.verify("session") == []


def test_what_may_not_be_erased(sealed: Store) -> None:
    chain, erasures = fill(sealed), Erasures(sealed.tenant("acme"))
    with pytest.raises(Refused, match="SESSION_OPEN"):
        erasures.erase("session", ACTOR, "request", 5)
    chain.append(KEYS, ACTOR, draft("end", "session.closed"))
    with pytest.raises(Refused, match="ERASURE_REFUSED"):
        erasures.erase("session", ACTOR, "request", 5, first=3, last=3)
    with pytest.raises(InputError, match="ERASURE_REASON"):
        erasures.erase("session", ACTOR, " ", 5)
    for first, last in ((0, 1), (2, 99), (3, 2)):
        with pytest.raises(InputError, match="RECORD_UNKNOWN"):
            erasures.erase("session", ACTOR, "request", 5, first=first, last=last)
    with pytest.raises(InputError, match="RECORD_UNKNOWN"):
        Erasures(sealed.tenant("other")).erase("session", ACTOR, "request", 5)
    assert chain.examine("session").erased == 0


def test_a_payload_that_is_gone_without_an_erasure_is_found(sealed: Store) -> None:
    chain = closed(sealed)
    unguarded(sealed)
    raw(sealed, WITHOUT_SECOND)
    assert [(finding.seq, finding.code) for finding in chain.verify("session")] == [(2, "PAYLOAD_MISSING")]


FIRST = "(SELECT event_id FROM event WHERE seq = 1 AND session_id = 'session')"
WITHOUT_SECOND = (
    "DELETE FROM event_payload WHERE event_id = (SELECT event_id FROM event WHERE seq = 2 AND session_id = 'session')"
)
TOMBSTONE = (
    "INSERT INTO payload_erasure (event_id, tenant_id, trace_id, session_id, version, authority_event_id, created_at_ms)"
    " SELECT event_id, tenant_id, trace_id, session_id, version, {authority}, 1 FROM event"
    " WHERE seq = 2 AND session_id = 'session'"
)


@pytest.mark.parametrize("authority", ["'nobody'", FIRST], ids=["none", "another kind"])
def test_a_tombstone_without_an_authority_is_found(sealed: Store, authority: str) -> None:
    chain = closed(sealed)
    raw(sealed, TOMBSTONE.format(authority=authority))
    assert [finding.code for finding in chain.verify("session")] == ["TOMBSTONE_UNFOUNDED"]  # nothing was erased
    raw(sealed, WITHOUT_SECOND)
    assert [(finding.seq, finding.code) for finding in chain.verify("session")] == [(2, "TOMBSTONE_UNFOUNDED")]


def test_an_erasure_of_other_records_gives_no_authority(sealed: Store) -> None:
    chain = closed(sealed)
    Erasures(sealed.tenant("acme")).erase("session", ACTOR, "request", 5, first=1, last=1)
    raw(sealed, TOMBSTONE.format(authority="(SELECT event_id FROM event WHERE kind = 'payload.erased')"))
    raw(sealed, WITHOUT_SECOND)
    assert [(finding.seq, finding.code) for finding in chain.verify("session")] == [(2, "TOMBSTONE_UNFOUNDED")]

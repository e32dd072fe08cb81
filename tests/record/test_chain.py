"""The chain under honest use and under an attacker who writes the SQLite file directly."""

from __future__ import annotations

import functools
import itertools
import json
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from sqlalchemy import Connection, text
from sqlalchemy.exc import IntegrityError

from activities.record.blobs import BlobStore
from activities.record.chain import EventChain, Finding, commitment
from activities.record.store import Store
from schemas.canonical import jcs
from schemas.error import InputError, Refused
from schemas.event import GENESIS, Actor, EventDraft, event_hash, hash_of
from schemas.task import TraceKeys
from tests.record.conftest import on_sqlite

KEYS = TraceKeys(tenant_id="acme", trace_id="trace", session_id="session", task_id="task")
ACTOR = Actor(principal_id="uid:1000", kind="human")
LENGTH = 6


def draft(key: str, **payload: object) -> EventDraft:
    return EventDraft(kind="task.started", idempotency_key=key, payload=dict(payload))


def fill(chain: EventChain, length: int = LENGTH) -> None:
    chain.append(KEYS, ACTOR, *(draft(f"key-{n}", n=n) for n in range(1, length + 1)))


def test_first_event_starts_the_chain_and_each_follows(store: Store) -> None:
    chain = EventChain(store.tenant("acme"), clock=lambda: 17)
    fill(chain)
    events = [event for event, _ in chain.read("session")]
    assert [event.seq for event in events] == list(range(1, LENGTH + 1))
    assert events[0].prev_hash == GENESIS
    for before, event in itertools.pairwise(events):
        assert event.prev_hash == before.hash
    for event in events:
        assert event.hash == event_hash(event.model_dump(mode="json"))
        assert (event.recorded_at_ms, event.task_id, event.capability_id) == (17, "task", None)
    assert [payload for _, payload in chain.read("session")] == [{"n": n} for n in range(1, LENGTH + 1)]
    assert chain.verify("session") == []
    assert chain.sessions() == ["session"]


def test_sessions_and_tenants_have_chains_of_their_own(store: Store) -> None:
    chain = EventChain(store.tenant("acme"))
    fill(chain, 2)
    other = KEYS.model_copy(update={"session_id": "second"})
    foreign = KEYS.model_copy(update={"tenant_id": "other"})
    assert chain.append(other, ACTOR, draft("b"))[0].seq == 1
    assert EventChain(store.tenant("other")).append(foreign, ACTOR, draft("key-1", n=1))[0].seq == 1
    with pytest.raises(Refused, match="TENANT_MISMATCH"):
        chain.append(foreign, ACTOR, draft("key-2"))
    assert set(chain.sessions()) == {"session", "second"}
    assert EventChain(store.tenant("other")).sessions() == ["session"]
    assert chain.verify("unknown") == []
    assert list(chain.read("unknown")) == []


def test_same_key_and_body_is_a_no_op(store: Store) -> None:
    chain = EventChain(store.tenant("acme"))
    first = chain.append(KEYS, ACTOR, draft("a", n=1))
    assert chain.append(KEYS, ACTOR, draft("a", n=1), draft("b", n=2))[0] == first[0]
    assert len(list(chain.read("session"))) == 2


@pytest.mark.parametrize(
    "other",
    [
        draft("a", n=2),
        EventDraft(kind="task.receipt", idempotency_key="a", payload={"n": 1}),
        EventDraft(kind="task.started", idempotency_key="a", payload={"n": 1}, capability_id="c"),
    ],
)
def test_same_key_and_other_body_is_a_conflict(store: Store, other: EventDraft) -> None:
    chain = EventChain(store.tenant("acme"))
    chain.append(KEYS, ACTOR, draft("a", n=1))
    with pytest.raises(Refused, match="ID_CONFLICT"):
        chain.append(KEYS, ACTOR, other)
    with pytest.raises(Refused, match="ID_CONFLICT"):
        chain.append(KEYS.model_copy(update={"session_id": "second"}), ACTOR, draft("a", n=1))
    assert len(list(chain.read("session"))) == 1


def test_append_joins_a_transaction(store: Store) -> None:
    chain = EventChain(store.tenant("acme"))

    def fail(connection: Connection) -> None:
        chain.append(KEYS, ACTOR, draft("a"), connection=connection)
        raise ValueError("mistake")

    with pytest.raises(ValueError, match="mistake"):
        store.write(fail)
    assert list(chain.read("session")) == []
    store.write(lambda connection: chain.append(KEYS, ACTOR, draft("a"), connection=connection))
    assert chain.verify("session") == [] and len(list(chain.read("session"))) == 1


@pytest.mark.parametrize("value", [2**53, float("nan"), float("inf"), "\ud800"])
def test_payload_without_canonical_form_is_refused(store: Store, value: object) -> None:
    chain = EventChain(store.tenant("acme"))
    with pytest.raises(InputError, match="NOT_CANONICAL"):
        chain.append(KEYS, ACTOR, draft("good"), draft("bad", value=value))
    assert list(chain.read("session")) == []


def test_equal_payloads_have_unequal_commitments(store: Store) -> None:
    first, second = EventChain(store.tenant("acme")).append(KEYS, ACTOR, draft("a", n=1), draft("b", n=1))
    assert first.payload_commitment != second.payload_commitment
    salt, payload = store.read(lambda c: c.execute(text("SELECT salt, payload FROM event_payload LIMIT 1")).one())
    assert payload == jcs({"n": 1}) and len(salt) == 32
    assert commitment(salt, payload) in {first.payload_commitment, second.payload_commitment}


def test_many_writers_leave_no_gap(url: str) -> None:
    stores = [Store.open(url), Store.open(url)]

    def work(store: Store, name: str) -> None:
        for n in range(15):
            EventChain(store.tenant("acme")).append(KEYS, ACTOR, draft(f"{name}-{n}"))

    threads = [threading.Thread(target=work, args=(store, f"{a}{b}")) for a, store in enumerate(stores) for b in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    chain = EventChain(stores[0].tenant("acme"))
    assert [event.seq for event, _ in chain.read("session")] == list(range(1, 61))
    assert chain.verify("session") == []
    for store in stores:
        store.close()


@pytest.mark.parametrize("table", ["event", "event_payload"])
@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE {0} SET tenant_id = 'x'",
        "DELETE FROM {0}",
        "DELETE FROM {0} WHERE event_id = (SELECT event_id FROM {0} LIMIT 1)",
        "INSERT OR REPLACE INTO {0} SELECT * FROM {0}",
        "INSERT OR REPLACE INTO event SELECT 'fresh-id', tenant_id, trace_id, session_id, task_id, capability_id, version, seq,"
        " kind, actor_principal_id, actor_kind, idempotency_key || 'x', payload_commitment, recorded_at_ms, prev_hash, hash"
        " FROM event",
    ],
)
@on_sqlite
def test_the_database_itself_refuses_changes(store: Store, url: str, table: str, statement: str) -> None:
    chain = EventChain(store.tenant("acme"))
    fill(chain, 2)
    with pytest.raises(IntegrityError, match="append-only"):
        store.write(lambda connection: connection.exec_driver_sql(statement.format(table)))
    # Also on a connection that somebody else made, without our settings.
    plain = sqlite3.connect(url.removeprefix("sqlite:///"))
    with pytest.raises(sqlite3.IntegrityError, match="append-only"):
        plain.execute(statement.format(table))
    plain.close()
    assert chain.verify("session") == []


# --- an attacker with the file ---------------------------------------------------------------------------------------


@functools.cache
def unguarded() -> bytes:
    """A store with a chain, whose database no longer refuses changes."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "store.db"
        store = Store.open(f"sqlite:///{file}")
        fill(EventChain(store.tenant("acme")))
        store.close()
        raw = sqlite3.connect(file)
        for (trigger,) in raw.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            raw.execute(f"DROP TRIGGER {trigger}")
        raw.commit()
        raw.close()
        return file.read_bytes()


@contextmanager
def tampered(change: Callable[[sqlite3.Connection], object]) -> Iterator[list[Finding]]:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "store.db"
        file.write_bytes(unguarded())
        store = Store.open(f"sqlite:///{file}")
        chain = EventChain(store.tenant("acme"))
        assert chain.verify("session") == []
        raw = sqlite3.connect(file)
        change(raw)
        raw.commit()
        raw.close()
        yield chain.verify("session")
        store.close()


def alter(raw: sqlite3.Connection, column: str, value: object, seq: int) -> None:
    raw.execute(f"UPDATE event SET {column} = ? WHERE seq = ?", (value, seq))  # noqa: S608  a name from this file


COLUMNS: dict[str, object] = {
    "event_id": "other", "trace_id": "other", "task_id": None, "capability_id": "other", "version": "2", "kind": "task.receipt",
    "actor_principal_id": "other", "actor_kind": "agent", "idempotency_key": "other", "payload_commitment": "0" * 64,
    "recorded_at_ms": 1, "prev_hash": "1" * 64, "hash": "2" * 64,
}  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(seq=st.integers(1, LENGTH), column=st.sampled_from(sorted(COLUMNS)))
def test_any_altered_field_is_found_where_it_is(seq: int, column: str) -> None:
    with tampered(lambda raw: alter(raw, column, COLUMNS[column], seq)) as findings:
        assert [(finding.seq, finding.code) for finding in findings] == [(seq, "ALTERED")]


@settings(max_examples=15, deadline=None)
@given(seq=st.integers(1, LENGTH), kind=st.sampled_from(["not.a.kind", "", "7"]), column=st.sampled_from(["kind", "actor_kind"]))
def test_malformed_rows_are_findings_not_crashes(seq: int, kind: str, column: str) -> None:
    with tampered(lambda raw: alter(raw, column, kind, seq)) as findings:
        assert [(finding.seq, finding.code) for finding in findings] == [(seq, "ALTERED")]


@settings(max_examples=15, deadline=None)
@given(gone=st.sets(st.integers(1, LENGTH), min_size=1, max_size=3))
def test_removed_events_are_found(gone: set[int]) -> None:
    def change(raw: sqlite3.Connection) -> None:
        raw.executemany("DELETE FROM event WHERE seq = ?", [(seq,) for seq in gone])

    with tampered(change) as findings:
        (finding,) = findings
        assert finding.code == ("TRUNCATED" if 1 in gone else "REMOVED")


@settings(max_examples=15, deadline=None)
@given(pair=st.lists(st.integers(1, LENGTH), min_size=2, max_size=2, unique=True))
def test_reordered_events_are_found(pair: list[int]) -> None:
    first, second = sorted(pair)

    def change(raw: sqlite3.Connection) -> None:
        for old, new in ((first, 99), (second, first), (99, second)):
            raw.execute("UPDATE event SET seq = ? WHERE seq = ?", (new, old))

    with tampered(change) as findings:
        assert [(finding.seq, finding.code) for finding in findings] == [(first, "REORDERED")]


@settings(max_examples=10, deadline=None)
@given(seq=st.integers(1, LENGTH - 1))
def test_removed_and_renumbered_events_are_found(seq: int) -> None:
    def change(raw: sqlite3.Connection) -> None:
        raw.execute("DELETE FROM event WHERE seq = ?", (seq,))
        for later in range(seq + 1, LENGTH + 1):
            raw.execute("UPDATE event SET seq = ? WHERE seq = ?", (later - 1, later))

    with tampered(change) as findings:
        assert [finding.seq for finding in findings] == [seq]


@settings(max_examples=15, deadline=None)
@given(seq=st.integers(1, LENGTH), payload=st.sampled_from([b'{"n":0}', b"", b"no json", b'{"n":1}x']))
def test_changed_payload_is_found(seq: int, payload: bytes) -> None:
    query = "UPDATE event_payload SET payload = ? WHERE event_id = (SELECT event_id FROM event WHERE seq = ?)"
    with tampered(lambda raw: raw.execute(query, (payload, seq))) as findings:
        assert [(finding.seq, finding.code) for finding in findings] == [(seq, "PAYLOAD_CHANGED")]


def test_removed_payload_is_found() -> None:
    query = "DELETE FROM event_payload WHERE event_id = (SELECT event_id FROM event WHERE seq = 3)"
    with tampered(lambda raw: raw.execute(query)) as findings:
        assert [(finding.seq, finding.code) for finding in findings] == [(3, "PAYLOAD_MISSING")]


def test_inserted_event_with_a_sound_hash_is_found() -> None:
    """An event of another session, moved here with a recomputed hash, does not follow its predecessor."""

    def change(raw: sqlite3.Connection) -> None:
        raw.row_factory = sqlite3.Row
        row = dict(raw.execute("SELECT * FROM event WHERE seq = 4").fetchone())
        row["capability_id"] = "forged"
        fields = {key: value for key, value in row.items() if not key.startswith("actor_")}
        fields["actor"] = {"principal_id": row["actor_principal_id"], "kind": row["actor_kind"]}
        raw.execute("UPDATE event SET capability_id = 'forged', hash = ? WHERE seq = 4", (event_hash(fields),))

    with tampered(change) as findings:
        assert [(finding.seq, finding.code) for finding in findings] == [(5, "ALTERED")]


PROGRAM = """
import sys
from activities.record.chain import EventChain
from activities.record.store import Store
from schemas.event import Actor, EventDraft
from schemas.task import TraceKeys
chain = EventChain(Store.open(sys.argv[1]).tenant('acme'))
keys = TraceKeys(tenant_id="acme", trace_id="trace", session_id="session", task_id="task")
actor = Actor(principal_id="p", kind="engine")
for n in range(10_000):
    chain.append(keys, actor, EventDraft(kind="task.started", idempotency_key=str(n), payload={}))
    print(n, flush=True)
"""


def test_what_was_acknowledged_survives_a_kill(url: str) -> None:
    running = subprocess.Popen([sys.executable, "-c", PROGRAM, url], cwd=Path(__file__).parents[2], stdout=subprocess.PIPE)
    assert running.stdout is not None
    acknowledged = [int(running.stdout.readline()) for _ in range(25)]
    running.kill()
    acknowledged += [int(line) for line in running.stdout.read().splitlines()]
    running.wait()
    store = Store.open(url)
    chain = EventChain(store.tenant("acme"))
    assert chain.verify("session") == []
    kept = [int(event.idempotency_key) for event, _ in chain.read("session")]
    assert kept[: len(acknowledged)] == acknowledged and len(kept) <= len(acknowledged) + 1
    store.close()


# --- what cannot be written, what is found, at any size --------------------------------------------------------------


@pytest.mark.parametrize("missing", ["tenant_id", "trace_id", "session_id"])
def test_an_event_without_a_required_id_cannot_be_written(store: Store, missing: str) -> None:
    with pytest.raises(ValidationError):
        TraceKeys.model_validate({**KEYS.model_dump(), missing: ""})
    with pytest.raises(ValidationError):
        TraceKeys.model_validate({name: value for name, value in KEYS.model_dump().items() if name != missing})
    forged = KEYS.model_copy(update={missing: ""})  # past the model
    tenant = store.tenant(forged.tenant_id)
    with pytest.raises(IntegrityError, match="lacks a required id"):
        EventChain(tenant).append(forged, ACTOR, draft("a"))
    assert list(EventChain(tenant).read(forged.session_id)) == []


def test_what_json_cannot_hold_is_kept_as_a_blob(store: Store, tmp_path: Path) -> None:
    """Refused at the door, and nothing is lost: the event refers to the bytes (threats 7.3)."""
    chain, blobs = EventChain(store.tenant("acme")), BlobStore(tmp_path / "blobs", "acme")
    odd = json.dumps({"n": 2**63, "x": float("nan"), "s": "\ud800"}).encode()
    with pytest.raises(InputError, match="NOT_CANONICAL"):
        chain.append(KEYS, ACTOR, draft("a", **json.loads(odd)))
    ref = blobs.put(odd)
    chain.append(KEYS, ACTOR, draft("a", output=ref.model_dump(mode="json")))
    [(_, payload)] = chain.read("session")
    assert blobs.get(payload["output"]["sha256"]) == odd and chain.verify("session") == []


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@given(st.lists(TEXTS, min_size=11, max_size=11), st.integers(0, 2**53 - 1), st.none() | TEXTS, st.none() | TEXTS)
def test_the_fast_hash_is_the_canonical_one(texts: list[str], number: int, task: str | None, capability: str | None) -> None:
    kind, actor, event_id, key, event_kind, promised, previous, session, tenant, trace, version = texts
    fields = {
        "event_id": event_id, "tenant_id": tenant, "trace_id": trace, "session_id": session, "task_id": task,
        "capability_id": capability, "version": version, "seq": number, "kind": event_kind,
        "actor": {"kind": kind, "principal_id": actor}, "idempotency_key": key, "payload_commitment": promised,
        "recorded_at_ms": number, "prev_hash": previous, "hash": "is not part of it",
    }  # fmt: skip
    assert event_hash(fields) == hash_of(
        kind, actor, capability, event_id, key, event_kind, promised, previous, number, number, session, task, tenant, trace,
        version,
    )  # fmt: skip


def _forged(raw: sqlite3.Connection, seq: int, **changes: object) -> dict[str, object]:
    raw.row_factory = sqlite3.Row
    row = {**dict(raw.execute("SELECT * FROM event WHERE seq = ?", (seq,)).fetchone()), **changes}
    fields = {key: value for key, value in row.items() if not key.startswith("actor_")}
    fields["actor"] = {"principal_id": row["actor_principal_id"], "kind": row["actor_kind"]}
    return {**row, "hash": event_hash(fields)}


def test_a_record_that_follows_an_earlier_one_is_a_fork() -> None:
    def change(raw: sqlite3.Connection) -> None:
        row = _forged(raw, 5, prev_hash=raw.execute("SELECT hash FROM event WHERE seq = 2").fetchone()[0])
        raw.execute("UPDATE event SET prev_hash = ?, hash = ? WHERE seq = 5", (row["prev_hash"], row["hash"]))

    with tampered(change) as findings:
        assert [(finding.seq, finding.code) for finding in findings] == [(5, "FORKED")]


def test_two_records_with_one_number_are_a_fork() -> None:
    """The unique index is gone, too: whoever writes the file can do that."""

    def change(raw: sqlite3.Connection) -> None:
        row = _forged(raw, 3, event_id="twin", idempotency_key="twin")
        raw.execute("CREATE TABLE copy AS SELECT * FROM event")
        raw.execute("DROP TABLE event")
        raw.execute("ALTER TABLE copy RENAME TO event")
        raw.execute(f"INSERT INTO event ({','.join(row)}) VALUES ({','.join('?' * len(row))})", list(row.values()))  # noqa: S608

    with tampered(change) as findings:
        assert [(finding.seq, finding.code) for finding in findings] == [(3, "FORKED")]


@pytest.mark.parametrize("column", ["salt", "payload", "recorded_at_ms", "capability_id", "actor_kind"])
@pytest.mark.parametrize("value", [7, "text", b"\xff", 1.5])
def test_values_of_another_type_are_found(column: str, value: object) -> None:
    table = "event_payload" if column in ("salt", "payload") else "event"
    query = f"UPDATE {table} SET {column} = ? WHERE event_id = (SELECT event_id FROM event WHERE seq = 2)"  # noqa: S608
    with tampered(lambda raw: raw.execute(query, (value,))) as findings:
        expected = "PAYLOAD_CHANGED" if table == "event_payload" else "ALTERED"
        assert [(finding.seq, finding.code) for finding in findings] == [(2, expected)]


PEAK = """
import resource, sys
from activities.record.chain import EventChain
from activities.record.store import Store
chain = EventChain(Store.open(sys.argv[1]).tenant("acme"))
examined = chain.examine("session")
read = sum(1 for _ in chain.read("session"))
assert examined.finding is None and read == examined.events == int(sys.argv[2]), examined
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_memory_does_not_grow_with_the_number_of_events(tmp_path: Path) -> None:
    url, peaks, size = f"sqlite:///{tmp_path}/store.db", [], 5_000
    store = Store.open(url)
    chain = EventChain(store.tenant("acme"))
    for goal in (size, 4 * size):
        start = 0 if goal == size else size
        for first in range(start, goal, 1_000):
            chain.append(KEYS, ACTOR, *(draft(str(n), text="x" * 200) for n in range(first, first + 1_000)))
        command = [sys.executable, "-c", PEAK, url, str(goal)]
        done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True)
        peaks.append(int(done.stdout))
    store.close()
    assert peaks[1] - peaks[0] < 4 * 1024, "KiB: 15,000 more of these events are 9 MB on disk"

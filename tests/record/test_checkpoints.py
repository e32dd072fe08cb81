"""Checkpoints against whoever may write the database: what is lost, rewritten or rolled back shows, and by its name."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from pymerkle import InmemoryTree

from activities.evidence.checkpointing import CheckpointSigner, checkpoint_key, load_checkpoint_signer
from activities.record.chain import EventChain, Finding
from activities.record.checkpoints import Checkpoints
from activities.record.merkle import EMPTY_ROOT, inclusion_path, leaf_hash, merkle_root, root_of_path
from activities.record.notes import NoteKey, sign_note, signed_text
from activities.record.sink import Sink
from activities.record.store import Store
from schemas.canonical import jcs
from schemas.checkpoint import NO_ROOT, Checkpoint, Head, parse_checkpoint
from schemas.error import InputError, Refused
from schemas.event import Actor, EventDraft, event_hash
from schemas.task import TENANT_CHAIN, TraceKeys, tenant_keys
from tests.record.conftest import on_sqlite

ACTOR = Actor(principal_id="uid:1000", kind="human")


# --- trees and notes -------------------------------------------------------------------------------------------------


@given(st.lists(st.binary(max_size=8), max_size=40))
def test_roots_and_proofs_are_those_of_rfc_6962(leaves: list[bytes]) -> None:
    oracle = InmemoryTree(algorithm="sha256")
    for leaf in leaves:
        oracle.append_entry(leaf)
    root = merkle_root(leaves)
    assert root == (oracle.get_root() if leaves else EMPTY_ROOT)
    for index, leaf in enumerate(leaves):
        path = inclusion_path(leaves, index)
        assert root_of_path(leaf, index, len(leaves), path) == root
        assert root_of_path(leaf + b"x", index, len(leaves), path) != root
        assert root_of_path(leaf, index, len(leaves), [*path, root]) != root


@given(st.text(st.characters(exclude_categories=["Cs"])), st.integers(1, 2**53 - 1))
def test_a_leaf_is_canonical(session_id: str, seq: int) -> None:
    head = Head.model_construct(session_id=session_id, seq=seq, hash="ab" * 32)
    assert head.leaf == jcs(head.model_dump())


def test_proofs_of_nothing_are_no_proofs() -> None:
    assert root_of_path(b"a", 1, 1, []) is None and root_of_path(b"a", 0, 2, []) is None
    assert root_of_path(b"a", 0, 1, [b""]) is None and root_of_path(b"a", 0, 1, []) == leaf_hash(b"a")
    with pytest.raises(IndexError):
        inclusion_path([b"a"], 1)


def test_a_note_holds_for_its_key_and_text_only() -> None:
    signer, other = (CheckpointSigner(Ed25519PrivateKey.generate()) for _ in range(2))
    note = sign_note("gen4/acme\n1\nabc\n", signer)
    assert signed_text(note, signer.key) == "gen4/acme\n1\nabc\n" and signed_text(note, other.key) is None
    for forged in (note.replace("acme", "evil"), note.replace("— ", "- "), note.rpartition("\n\n")[0], note[:-9], ""):
        assert signed_text(forged, signer.key) is None
    assert NoteKey.parse(str(signer.key)) == signer.key
    for text in ("", "a+b", str(signer.key)[:-4], "x" + str(signer.key)):
        assert NoteKey.parse(text) is None


def test_a_key_as_other_tools_spell_it() -> None:
    """The example of the specification (c2sp.org/signed-note)."""
    key = NoteKey.parse("PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW")
    note = (
        "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n\n"
        "— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
    )
    assert key is not None and signed_text(note, key) is not None


def test_a_checkpoint_has_one_spelling() -> None:
    made = Checkpoint(
        tenant_id="acme", number=2, sessions=3, root_sha256="ab" * 32, previous_number=1, previous_root=NO_ROOT, created_at_ms=5
    )
    assert parse_checkpoint(made.text) == made
    changed = [made.text.replace("number 2", "number 02"), made.text.replace("gen4", "x"), made.text + "x\n", made.text[:-1], ""]
    for other in changed:
        assert parse_checkpoint(other) is None


# --- what they witness -----------------------------------------------------------------------------------------------


@dataclass
class Office:
    """A store, who signs for it, and an outside sink."""

    url: str
    store: Store
    signer: CheckpointSigner
    sink: Sink
    keys: Path
    now_ms: int = 1_000

    @property
    def chain(self) -> EventChain:
        return EventChain(self.store.tenant("acme"), clock=lambda: self.now_ms)

    @property
    def checkpoints(self) -> Checkpoints:
        return Checkpoints(self.store.tenant("acme"), self.chain)

    def work(self, session_id: str, *numbers: int) -> None:
        keys = TraceKeys(tenant_id="acme", trace_id="t", session_id=session_id, task_id="t")
        drafts = [EventDraft(kind="task.started", idempotency_key=f"{session_id}/{n}", payload={"n": n}) for n in numbers]
        self.chain.append(keys, ACTOR, *drafts)

    def take(self) -> Checkpoint:
        self.now_ms += 1_000
        return self.checkpoints.take(self.signer, self.now_ms, self.sink)

    def findings(self, *, outside: bool = True) -> list[Finding]:
        return self.checkpoints.verify(checkpoint_key(self.keys), self.sink.notes() if outside else ())

    def codes(self, *, outside: bool = True) -> list[tuple[str, str]]:
        return [(finding.session_id, finding.code) for finding in self.findings(outside=outside)]

    def attack(self, *statements: str) -> None:
        """As one who has the database and none of its guards."""
        postgres = self.store.read(lambda connection: connection.dialect.name) == "postgresql"
        for table in ("event", "event_payload", "checkpoint", "checkpoint_head"):
            for verb in ("update", "delete"):
                statement = f"DROP TRIGGER IF EXISTS {table}_no_{verb}" + (f" ON {table}" if postgres else "")
                self.store.write(lambda connection, s=statement: connection.exec_driver_sql(s))
        for statement in statements:
            self.store.write(lambda connection, s=statement: connection.exec_driver_sql(s))


@pytest.fixture
def office(url: str, tmp_path: Path) -> Iterator[Office]:
    keys = tmp_path / "keys"
    keys.mkdir(mode=0o700)
    store = Store.open(url)
    made = Office(url, store, load_checkpoint_signer(keys), Sink(tmp_path / "outside.notes"), keys)
    yield made
    made.store.close()


def rehash(office: Office, session_id: str, start: int) -> None:
    """Write the records of a session from ``start`` on anew, each following the one before it."""
    previous = "0" * 64
    for event, _ in list(office.chain.read(session_id)):
        if event.seq >= start:
            fields = {**event.model_dump(mode="json"), "prev_hash": previous, "capability_id": "forged"}
            digest = event_hash(fields)
            office.attack(
                f"UPDATE event SET capability_id = 'forged', prev_hash = '{previous}', hash = '{digest}'"  # noqa: S608
                f" WHERE event_id = '{event.event_id}'"
            )
            previous = digest
        else:
            previous = event.hash


def test_checkpoints_follow_each_other_and_hold(office: Office) -> None:
    office.work("a", 1, 2)
    first = office.take()
    assert (first.number, first.sessions, first.previous_root) == (1, 1, NO_ROOT)
    assert office.take() == first, "nothing was recorded since but the checkpoint itself"
    office.work("b", 1)
    second = office.take()
    assert (second.number, second.sessions, second.previous_root) == (2, 3, first.root_sha256)
    assert office.codes() == [] and len(office.sink.notes()) == 2
    kinds = [event.kind for event, _ in office.chain.read(TENANT_CHAIN)]
    assert kinds == ["key.created", "checkpoint.signed", "checkpoint.signed"]
    shown = office.checkpoints.last("a")
    assert shown is not None and shown.head is not None
    assert (shown.number, shown.root_sha256, shown.head.seq) == (2, second.root_sha256, 2)
    office.work("c", 1)
    assert (late := office.checkpoints.last("c")) is not None and late.head is None
    assert Checkpoints(office.store.tenant("other")).last("a") is None


def test_a_lost_tail_is_found(office: Office) -> None:
    office.work("a", 1, 2, 3)
    office.take()
    office.attack(
        "DELETE FROM event_payload WHERE event_id = (SELECT event_id FROM event WHERE session_id = 'a' AND seq = 3)",
        "DELETE FROM event WHERE session_id = 'a' AND seq = 3",
    )
    assert office.chain.verify("a") == []
    [finding] = office.checkpoints.verify_session("a")
    assert (finding.code, finding.seq, finding.session_id) == ("TRUNCATED", 3, "a") and office.codes() == [("a", "TRUNCATED")]
    office.work("b", 1)
    with pytest.raises(Refused, match="CHECKPOINT_FORKED"):
        office.take()


def test_a_lost_session_is_found(office: Office) -> None:
    office.work("a", 1)
    office.take()
    office.attack("DELETE FROM event_payload WHERE session_id = 'a'", "DELETE FROM event WHERE session_id = 'a'")
    assert office.codes() == [("a", "REPLACED")]


def test_a_session_that_was_written_anew_is_found(office: Office) -> None:
    office.work("a", 1, 2, 3)
    office.take()
    rehash(office, "a", 1)
    assert office.chain.verify("a") == [] and office.codes() == [("a", "REPLACED")]


def test_a_chain_that_turned_off_after_a_checkpoint_is_found(office: Office) -> None:
    office.work("a", 1, 2)
    office.take()
    office.work("a", 3, 4)
    office.take()
    rehash(office, "a", 3)
    assert office.chain.verify("a") == []
    [finding] = office.findings()
    assert (finding.session_id, finding.code) == ("a", "FORKED") and "record 2" in finding.message
    with pytest.raises(Refused, match="CHECKPOINT_FORKED"):
        office.take()


CHANGES: dict[str, tuple[str, str]] = {
    "root": ("UPDATE checkpoint SET root_sha256 = repeat_0 WHERE number = 1", "CHECKPOINT_INVALID"),
    "time": ("UPDATE checkpoint SET created_at_ms = 7 WHERE number = 2", "CHECKPOINT_INVALID"),
    "signature": ("UPDATE checkpoint SET signed_note = replace(signed_note, 'gen4-checkpoint', 'nobody')", "CHECKPOINT_INVALID"),
    "note of another": (
        "UPDATE checkpoint SET signed_note = (SELECT signed_note FROM checkpoint WHERE number = 1) WHERE number = 2",
        "CHECKPOINT_INVALID",
    ),
    "one of them gone": ("DELETE FROM checkpoint WHERE number = 1", "CHECKPOINT_MISSING"),
    "the last gone": ("DELETE FROM checkpoint WHERE number = 2", "CHECKPOINT_MISSING"),
    "a head gone": ("DELETE FROM checkpoint_head WHERE session_id = 'a' AND number = 1", "CHECKPOINT_INVALID"),
    "a head moved": ("UPDATE checkpoint_head SET seq = 1, hash = (SELECT hash FROM event WHERE session_id = 'a' AND seq = 1)"
                     " WHERE session_id = 'a' AND number = 1", "CHECKPOINT_INVALID"),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_checkpoints_that_were_changed_are_found_without_a_sink(office: Office, change: str) -> None:
    office.work("a", 1, 2)
    office.take()
    office.work("b", 1)
    office.take()
    statement, code = CHANGES[change]
    office.attack(statement.replace("repeat_0", f"'{'0' * 64}'"))
    assert [found for _, found in office.codes(outside=False)] == [code]


def test_a_signature_by_another_key_holds_nothing(office: Office, tmp_path: Path) -> None:
    office.work("a", 1)
    office.take()
    other = tmp_path / "other"
    other.mkdir(mode=0o700)
    key = load_checkpoint_signer(other).key
    assert [finding.code for finding in office.checkpoints.verify(key)] == ["CHECKPOINT_INVALID"]
    assert [finding.code for finding in office.checkpoints.verify(None)] == ["CHECKPOINT_INVALID"]


# --- the outside -----------------------------------------------------------------------------------------------------


def roll_back(office: Office, copy: Path) -> None:
    office.store.close()
    file = Path(office.url.removeprefix("sqlite:///"))
    for ending in ("", "-wal", "-shm"):
        Path(f"{file}{ending}").unlink(missing_ok=True)
    shutil.copyfile(copy, file)
    office.store = Store.open(office.url)


def backup(office: Office, copy: Path) -> None:
    with closing(sqlite3.connect(office.url.removeprefix("sqlite:///"))) as source, closing(sqlite3.connect(copy)) as target:
        source.backup(target)


@on_sqlite
def test_database_and_checkpoints_rolled_back_together_are_found_outside(office: Office, tmp_path: Path) -> None:
    office.work("a", 1)
    office.take()
    backup(office, tmp_path / "copy.db")
    office.work("a", 2)
    office.take()
    roll_back(office, tmp_path / "copy.db")
    assert office.codes(outside=False) == [], "within the store nothing shows"
    assert office.codes() == [("", "RESTORED_UNDECLARED")]
    office.work("b", 1)
    with pytest.raises(Refused, match="RESTORED_UNDECLARED"):
        office.take()
    # Taken behind the sink's back, the number exists twice.
    office.now_ms += 1_000
    office.checkpoints.take(office.signer, office.now_ms)
    assert office.codes() == [("", "FORKED")]


@on_sqlite
def test_a_declared_restoration_closes_the_gap(office: Office, tmp_path: Path) -> None:
    office.work("a", 1)
    office.take()
    backup(office, tmp_path / "copy.db")
    office.work("a", 2)
    office.take()
    roll_back(office, tmp_path / "copy.db")
    office.now_ms += 1_000
    payload = {"backup_heads_root": "a", "replaced_heads_root": "b", "events_backup": 1, "events_replaced": 2}
    draft = EventDraft(kind="store.restored", idempotency_key="restored", payload=payload)
    office.chain.append(tenant_keys("acme"), ACTOR, draft)
    assert office.codes() == []
    taken = office.take()
    assert (taken.number, taken.previous_number) == (3, 1), "numbers go on above what the outside has seen"
    assert office.codes() == [] and len(office.sink.notes()) == 3
    assert [one.actor_id for one in office.checkpoints.restorations()] == ["uid:1000"]


def test_two_checkpoints_of_one_number_outside_are_found(office: Office, tmp_path: Path) -> None:
    office.work("a", 1)
    taken = office.take()
    twin = sign_note(taken.model_copy(update={"sessions": 7}).text, office.signer)
    with (tmp_path / "outside.notes").open("a") as file:
        file.write("\n" + twin)
    assert office.codes() == [("", "FORKED")]


def test_a_note_outside_that_nobody_signed_is_found(office: Office, tmp_path: Path) -> None:
    office.work("a", 1)
    office.take()
    text = (tmp_path / "outside.notes").read_text()
    (tmp_path / "outside.notes").write_text(text.replace("time ", "time 1"))
    assert office.codes() == [("", "CHECKPOINT_INVALID")]


def test_a_sink_that_missed_some_gets_them_later(office: Office, tmp_path: Path) -> None:
    office.work("a", 1)
    office.checkpoints.take(office.signer, 5)
    office.work("a", 2)
    (tmp_path / "outside.notes").write_text("gen4/acme\n1\ntorn")
    office.take()
    assert len(office.sink.notes()) == 2 and office.codes() == []


def test_a_folder_is_a_sink(office: Office, tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    office.sink = Sink(tmp_path / "notes")
    for n in (1, 2):
        office.work("a", n)
        office.take()
    assert len(list((tmp_path / "notes").iterdir())) == 2 and office.codes() == []


def test_an_outside_that_is_inside_is_refused(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/tmp")
    for path in (tmp_path / "home" / "x", Path("relative"), tmp_path / "link"):
        with pytest.raises(InputError, match="SINK_UNSAFE"):
            Sink(path, tmp_path / "home")


# --- the key ---------------------------------------------------------------------------------------------------------


def test_the_checkpoint_key_is_made_once_and_private(tmp_path: Path) -> None:
    first, again = load_checkpoint_signer(tmp_path), load_checkpoint_signer(tmp_path)
    assert first.key == again.key == checkpoint_key(tmp_path) and "Ed25519" not in repr(first)
    assert (tmp_path / "checkpoint.key").stat().st_mode & 0o777 == 0o600
    os.chmod(tmp_path / "checkpoint.key", 0o640)
    with pytest.raises(InputError, match="KEY_UNSAFE"):
        load_checkpoint_signer(tmp_path)


@pytest.mark.parametrize("content", [b"", b"no key", b"-----BEGIN PRIVATE KEY-----\nMC4=\n-----END PRIVATE KEY-----\n"])
def test_a_broken_checkpoint_key_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "checkpoint.key").write_bytes(content)
    os.chmod(tmp_path / "checkpoint.key", 0o600)
    with pytest.raises(InputError, match="KEY_INVALID"):
        load_checkpoint_signer(tmp_path)



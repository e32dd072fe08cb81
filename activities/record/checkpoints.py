"""Checkpoints of a tenant's chains: taken, kept, and compared with what the chains are now (contracts §8, threats 7.1).

Detects alteration by anyone without the checkpoint key, and loss up to the last checkpoint that an outside sink received.
Without a sink, whoever rolls the store back as a whole rolls its checkpoints back with it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, and_, bindparam, func, select

from activities.record.chain import ENGINE, EventChain, Finding, FindingCode
from activities.record.merkle import merkle_root
from activities.record.notes import NoteKey, NoteSigner, sign_note, signed_text
from activities.record.sink import Sink
from activities.record.store import TenantStore
from activities.record.tables import CHECKPOINT, CHECKPOINT_HEAD, EVENT
from schemas.checkpoint import NO_ROOT, Checkpoint, CheckpointRef, Head, leaf_order, parse_checkpoint
from schemas.error import Refused
from schemas.event import EventDraft
from schemas.task import TENANT_CHAIN, tenant_keys

_AT_ONCE = 1_000
_BOTH_HEADS = {"backup_heads_root", "replaced_heads_root"}
"""What a restoration must name; null for a side that held nothing, or could not be read any more."""


@dataclass(frozen=True)
class Stored:
    """A checkpoint as its row tells it, beside the note that was signed."""

    checkpoint: Checkpoint
    note: str


@dataclass(frozen=True)
class Restoration:
    """A declared replacement of the store: what was recorded after the copy was made is gone on record."""

    at_ms: int
    actor_id: str


@dataclass(frozen=True)
class _Witness:
    """A head in a checkpoint, and what stands in its place now."""

    number: int
    head: Head
    hash_now: str | None


class Checkpoints:
    def __init__(self, store: TenantStore, chain: EventChain | None = None) -> None:
        self._store = store
        self._chain = chain or EventChain(store)

    # --- taking ------------------------------------------------------------------------------------------------------

    def take(self, signer: NoteSigner, now_ms: int, sink: Sink | None = None) -> Checkpoint:
        """Sign the heads of all chains as they are; the last checkpoint, when nothing was recorded since.

        Raises:
            Refused: CHECKPOINT_FORKED when a head of the last checkpoint is no ancestor of the chains as they are;
                RESTORED_UNDECLARED when the sink knows later checkpoints than this store, and no restoration is on record.
            InfrastructureError: CHECKPOINT_SINK; the checkpoint was taken and the sink gets it with the next one.
        """
        self._refuse_forked()
        outside = sink.last(self._store.tenant_id) if sink is not None else None
        self._refuse_rolled_back(outside)
        last, heads, changed = self._store.read(self._standing)
        if last is None or not self._only_itself(last, changed):
            root = merkle_root(head.leaf for head in heads).hex()
            checkpoint = Checkpoint(
                tenant_id=self._store.tenant_id, sessions=len(heads), root_sha256=root, created_at_ms=now_ms,
                number=max(last.number if last else 0, outside.number if outside else 0) + 1,
                previous_number=last.number if last else 0, previous_root=last.root_sha256 if last else NO_ROOT,
            )  # fmt: skip
            last = self._record(checkpoint, sign_note(checkpoint.text, signer), changed, signer.key)
        if sink is not None:
            after = outside.number if outside else 0
            sink.add(self._store.tenant_id, [stored.note for stored in self.all() if stored.checkpoint.number > after])
        return last

    def _standing(self, connection: Connection) -> tuple[Checkpoint | None, list[Head], list[Head]]:
        """The last checkpoint, all heads in leaf order, and those that moved since."""
        last = self._last(connection)
        before = self._heads_at(connection, last.number) if last else {}
        heads = sorted(current_heads(connection, self._store.tenant_id), key=lambda head: leaf_order(head.session_id))
        return last, heads, [head for head in heads if before.get(head.session_id) != head]

    def _record(self, checkpoint: Checkpoint, note: str, changed: Sequence[Head], key: NoteKey) -> Checkpoint:
        """In one transaction with its event. The event itself is for the next checkpoint to cover."""
        keys = tenant_keys(checkpoint.tenant_id)
        trace = {**keys.model_dump(), "capability_id": None, "version": "1"}
        made = EventDraft(
            kind="key.created", idempotency_key=f"key.created/{key}",
            payload={"key_id": key.hash.hex(), "purpose": "checkpoint", "algorithm": "Ed25519", "public_key": str(key)},
        )  # fmt: skip
        signed = EventDraft(
            kind="checkpoint.signed", idempotency_key=f"checkpoint.signed/{checkpoint.number}/{checkpoint.root_sha256}",
            payload={**checkpoint.model_dump(exclude={"tenant_id"}), "key_id": key.hash.hex()},
        )  # fmt: skip

        def run(connection: Connection) -> Checkpoint:
            last = self._last(connection)
            if (last.number if last else 0) != checkpoint.previous_number:
                return last or checkpoint  # somebody else took one meanwhile
            values = checkpoint.model_dump(include={"number", "sessions", "root_sha256", "previous_root", "created_at_ms"})
            connection.execute(CHECKPOINT.insert(), {**trace, **values, "signed_note": note})
            rows = [{**trace, **head.model_dump(), "number": checkpoint.number} for head in changed]
            connection.execute(CHECKPOINT_HEAD.insert(), rows)
            self._chain.append(keys, ENGINE, made, signed, connection=connection)
            return checkpoint

        return self._store.write(run)

    def _only_itself(self, last: Checkpoint, changed: Sequence[Head]) -> bool:
        """Nothing was recorded after ``last`` but its own event."""
        if not changed:
            return True
        if [head.session_id for head in changed] != [TENANT_CHAIN]:
            return False
        query = (
            select(EVENT.c.kind, EVENT.c.idempotency_key)
            .where(EVENT.c.tenant_id == self._store.tenant_id, EVENT.c.session_id == TENANT_CHAIN)
            .where(EVENT.c.seq == changed[0].seq)
        )
        row = self._store.read(lambda connection: connection.execute(query).one())
        return str(row.idempotency_key) == f"checkpoint.signed/{last.number}/{last.root_sha256}"

    def _refuse_forked(self) -> None:
        finding = next(iter(self._compare(None)), None)
        if finding is not None:
            message = f"session {finding.session_id}: {finding.message}"
            raise Refused("CHECKPOINT_FORKED", message, "see `gen4 events --verify --all`; restore the store from a backup")

    def _refuse_rolled_back(self, outside: Checkpoint | None) -> None:
        if outside is None:
            return
        found = {stored.checkpoint.number for stored in self.all()}
        if outside.number not in found and not _declared(self.restorations(), outside.created_at_ms, None):
            raise Refused(
                "RESTORED_UNDECLARED",
                f"the outside sink has checkpoint {outside.number}, this store has {max(found, default=0)}",
                "put the store back with `gen4 store restore`, which declares what is lost",
            )

    # --- reading -----------------------------------------------------------------------------------------------------

    def all(self) -> list[Stored]:
        """Every checkpoint in the order of its number, as its row tells it."""
        query = select(CHECKPOINT).where(CHECKPOINT.c.tenant_id == self._store.tenant_id).order_by(CHECKPOINT.c.number)
        rows = self._store.read(lambda connection: connection.execute(query).all())
        return [_stored(row) for row in rows]

    def last(self, session_id: str) -> CheckpointRef | None:
        """The last checkpoint, with the head that it has of this session; to be shown outside of the store."""

        def run(connection: Connection) -> CheckpointRef | None:
            found = self._last(connection)
            if found is None:
                return None
            row = connection.execute(_HEAD_AT, {**self._arguments(found.number), "session": session_id}).first()
            head = Head(session_id=session_id, seq=row.seq, hash=row.hash) if row is not None else None
            return CheckpointRef(number=found.number, root_sha256=found.root_sha256, head=head)

        return self._store.read(run)

    def restorations(self) -> list[Restoration]:
        """Declared ones, from the tenant's chain. Where the payload key is gone, that one was recorded must do."""
        mine = (EVENT.c.tenant_id == self._store.tenant_id) & (EVENT.c.session_id == TENANT_CHAIN)
        query = select(EVENT).where(mine, EVENT.c.kind == "store.restored").order_by(EVENT.c.seq)
        rows = self._store.read(lambda connection: connection.execute(query).all())
        return [Restoration(row.recorded_at_ms, row.actor_principal_id) for row in rows if self._names_both_heads(row.seq)]

    def _names_both_heads(self, seq: int) -> bool:
        try:
            _, payload = next(self._chain.read_after(TENANT_CHAIN, seq - 1))
        except Refused as error:
            return error.code == "PAYLOAD_KEY_MISSING"
        return payload.keys() >= _BOTH_HEADS

    def _last(self, connection: Connection) -> Checkpoint | None:
        row = connection.execute(_LAST, {"tenant": self._store.tenant_id}).first()
        return None if row is None else _stored(row).checkpoint

    def _heads_at(self, connection: Connection, number: int) -> dict[str, Head]:
        rows = connection.execute(_HEADS_AT.execution_options(yield_per=_AT_ONCE), self._arguments(number))
        return {row.session_id: Head.model_construct(session_id=row.session_id, seq=row.seq, hash=row.hash) for row in rows}

    def _arguments(self, number: int) -> dict[str, Any]:
        return {"tenant": self._store.tenant_id, "number": number}

    # --- verifying ---------------------------------------------------------------------------------------------------

    def verify(self, key: NoteKey | None, outside: Iterable[str] = ()) -> list[Finding]:
        """Everything wrong with the checkpoints, with the chains as they witness them, or with what the outside has of them.

        Args:
            key: of the signer; without it no checkpoint holds.
            outside: notes from the sink.
        """
        stored, restorations = self.all(), self.restorations()
        return [
            *self._judge_stored(stored, key, restorations),
            *self._compare(None),
            *self._judge_outside(stored, key, outside, restorations),
        ]

    def verify_session(self, session_id: str) -> list[Finding]:
        """The first checkpoint that shows another chain than the session has now."""
        return self._compare(session_id)[:1]

    def sessions(self) -> list[str]:
        """Ids of all sessions that some checkpoint has seen."""
        query = select(CHECKPOINT_HEAD.c.session_id).where(CHECKPOINT_HEAD.c.tenant_id == self._store.tenant_id).distinct()
        return [str(value) for value in self._store.read(lambda connection: connection.execute(query).scalars().all())]

    def _judge_stored(
        self, stored: Sequence[Stored], key: NoteKey | None, restorations: Sequence[Restoration]
    ) -> Iterator[Finding]:
        before = Checkpoint(
            tenant_id=self._store.tenant_id, number=1, sessions=0, root_sha256=NO_ROOT, previous_number=0, previous_root=NO_ROOT,
            created_at_ms=0,
        ).model_copy(update={"number": 0})  # fmt: skip
        heads: dict[str, Head] = {}
        for one in stored:
            found = one.checkpoint
            heads.update((head.session_id, head) for head in self._delta(found.number))
            finding = _judge_checkpoint(one, before, key, heads, restorations)
            if finding is not None:
                yield finding
                return
            before = found
        kept = {(one.checkpoint.number, one.checkpoint.root_sha256) for one in stored}
        for number, root in self._signed():
            if (number, root) not in kept:
                yield _about(number, "CHECKPOINT_MISSING", f"checkpoint {number} was signed, and is gone from the store")
                return

    def _signed(self) -> list[tuple[int, str]]:
        """Number and root of all checkpoints that the tenant's chain speaks of."""
        query = select(EVENT.c.idempotency_key).where(
            EVENT.c.tenant_id == self._store.tenant_id, EVENT.c.session_id == TENANT_CHAIN, EVENT.c.kind == "checkpoint.signed"
        )
        keys = self._store.read(lambda connection: connection.execute(query.order_by(EVENT.c.seq)).scalars().all())
        found = [str(key).split("/") for key in keys]
        return [(int(parts[1]), parts[2]) for parts in found if len(parts) == 3 and parts[1].isdecimal()]

    def _delta(self, number: int) -> list[Head]:
        rows = self._store.read(lambda connection: connection.execute(_DELTA, self._arguments(number)).all())
        return [Head(session_id=row.session_id, seq=row.seq, hash=row.hash) for row in rows]

    def _judge_outside(
        self, stored: Sequence[Stored], key: NoteKey | None, outside: Iterable[str], restorations: Sequence[Restoration]
    ) -> Iterator[Finding]:
        inside = {one.checkpoint.number: one.checkpoint for one in stored}
        seen: dict[int, Checkpoint] = {}
        for note in outside:
            text = signed_text(note, key) if key is not None else None
            found = parse_checkpoint(text) if text is not None else None
            if found is None:
                yield _about(0, "CHECKPOINT_INVALID", "a note in the sink is not signed by the checkpoint key")
                return
            if found.tenant_id != self._store.tenant_id:
                continue
            mine, twin = inside.get(found.number), seen.setdefault(found.number, found)
            if twin != found:
                yield _about(found.number, "FORKED", f"the outside has two checkpoints {found.number}")
                return
            if mine == found or _declared(restorations, found.created_at_ms, mine.created_at_ms if mine else None):
                continue
            if mine is not None:
                yield _about(found.number, "FORKED", f"the outside has another checkpoint {found.number} than the store")
            else:
                message = f"the outside has checkpoint {found.number}, the store does not, and no restoration is on record"
                yield _about(found.number, "RESTORED_UNDECLARED", message)
            return

    def _compare(self, session_id: str | None) -> list[Finding]:
        """Per session, the first head of a checkpoint that is not in the chain as it is now."""

        def run(connection: Connection) -> list[Finding]:
            query = _WITNESSES if session_id is None else _WITNESSES.where(CHECKPOINT_HEAD.c.session_id == session_id)
            rows = connection.execute(query.where(_DIFFERS).order_by(CHECKPOINT_HEAD.c.number), {"tenant": self._store.tenant_id})
            first: dict[str, _Witness] = {}
            for row in rows:
                head = Head.model_construct(session_id=row.session_id, seq=row.seq, hash=row.hash)
                first.setdefault(row.session_id, _Witness(row.number, head, row.hash_now))
            return [self._judge_witness(connection, witness) for witness in first.values()]

        return self._store.read(run)

    def _judge_witness(self, connection: Connection, witness: _Witness) -> Finding:
        head, number = witness.head, witness.number
        arguments = {"tenant": self._store.tenant_id, "session": head.session_id}
        end = connection.execute(_END, arguments).scalar()
        sound = connection.execute(_LAST_SOUND, {**arguments, "number": number}).scalar()
        seen = f"checkpoint {number} saw record {head.seq} as {head.hash[:12]}…"

        def finding(code: FindingCode, message: str, seq: int = head.seq) -> Finding:
            return Finding(seq, "", code, f"{message}: {seen}", head.session_id)

        if end is None:
            return finding("REPLACED", "the whole session is gone", 1)
        if witness.hash_now is None and end < head.seq:
            return finding("TRUNCATED", f"the chain ends with record {end}", end + 1)
        if witness.hash_now is None:
            return finding("REMOVED", f"record {head.seq} is missing")
        if sound is not None:
            return finding("FORKED", f"the chain is another one from somewhere after record {sound}")
        return finding("REPLACED", "the session was written anew")


def current_heads(connection: Connection, tenant_id: str) -> list[Head]:
    """The last record of each chain, in no particular order."""
    rows = connection.execute(_CURRENT.execution_options(yield_per=_AT_ONCE), {"tenant": tenant_id})
    return [Head.model_construct(session_id=row.session_id, seq=row.seq, hash=row.hash) for row in rows]


# --- statements ------------------------------------------------------------------------------------------------------

_MY_EVENTS = EVENT.c.tenant_id == bindparam("tenant")
_MY_HEADS = CHECKPOINT_HEAD.c.tenant_id == bindparam("tenant")
_LAST = select(CHECKPOINT).where(CHECKPOINT.c.tenant_id == bindparam("tenant")).order_by(CHECKPOINT.c.number.desc()).limit(1)
_ENDS = (
    select(EVENT.c.session_id, func.max(EVENT.c.seq).label("seq")).where(_MY_EVENTS).group_by(EVENT.c.session_id).subquery()
)
_CURRENT = (
    select(EVENT.c.session_id, EVENT.c.seq, EVENT.c.hash)
    .join(_ENDS, and_(EVENT.c.session_id == _ENDS.c.session_id, EVENT.c.seq == _ENDS.c.seq))
    .where(_MY_EVENTS)
)
_END = select(func.max(EVENT.c.seq)).where(_MY_EVENTS, EVENT.c.session_id == bindparam("session"))
_DELTA = select(CHECKPOINT_HEAD).where(_MY_HEADS, CHECKPOINT_HEAD.c.number == bindparam("number"))
_HEAD_AT = (
    select(CHECKPOINT_HEAD.c.seq, CHECKPOINT_HEAD.c.hash)
    .where(_MY_HEADS, CHECKPOINT_HEAD.c.number <= bindparam("number"), CHECKPOINT_HEAD.c.session_id == bindparam("session"))
    .order_by(CHECKPOINT_HEAD.c.number.desc())
    .limit(1)
)
_NEWEST = (
    select(CHECKPOINT_HEAD.c.session_id, func.max(CHECKPOINT_HEAD.c.number).label("number"))
    .where(_MY_HEADS, CHECKPOINT_HEAD.c.number <= bindparam("number"))
    .group_by(CHECKPOINT_HEAD.c.session_id)
    .subquery()
)
_IS_NEWEST = and_(CHECKPOINT_HEAD.c.session_id == _NEWEST.c.session_id, CHECKPOINT_HEAD.c.number == _NEWEST.c.number)
_HEADS_AT = (
    select(CHECKPOINT_HEAD.c.session_id, CHECKPOINT_HEAD.c.seq, CHECKPOINT_HEAD.c.hash).join(_NEWEST, _IS_NEWEST).where(_MY_HEADS)
)
_SAME_PLACE = and_(
    EVENT.c.tenant_id == CHECKPOINT_HEAD.c.tenant_id, EVENT.c.session_id == CHECKPOINT_HEAD.c.session_id,
    EVENT.c.seq == CHECKPOINT_HEAD.c.seq,
)  # fmt: skip
_BESIDE = CHECKPOINT_HEAD.outerjoin(EVENT, _SAME_PLACE)
_WITNESSES = (
    select(
        CHECKPOINT_HEAD.c.number, CHECKPOINT_HEAD.c.session_id, CHECKPOINT_HEAD.c.seq, CHECKPOINT_HEAD.c.hash,
        EVENT.c.hash.label("hash_now"),
    )
    .select_from(_BESIDE)
    .where(_MY_HEADS)
)  # fmt: skip
_DIFFERS = EVENT.c.hash.is_(None) | (EVENT.c.hash != CHECKPOINT_HEAD.c.hash)
_LAST_SOUND = (
    select(func.max(CHECKPOINT_HEAD.c.seq))
    .select_from(_BESIDE)
    .where(_MY_HEADS, CHECKPOINT_HEAD.c.session_id == bindparam("session"), CHECKPOINT_HEAD.c.number < bindparam("number"))
    .where(EVENT.c.hash == CHECKPOINT_HEAD.c.hash)
)


# --- judging ---------------------------------------------------------------------------------------------------------


def _stored(row: Any) -> Stored:
    """The note says which number came before; a note that does not parse is judged by :meth:`Checkpoints.verify`."""
    spoken = parse_checkpoint(str(row.signed_note).rpartition("\n\n")[0] + "\n")
    found = Checkpoint.model_construct(
        tenant_id=row.tenant_id, number=row.number, sessions=row.sessions, root_sha256=row.root_sha256,
        previous_number=spoken.previous_number if spoken else row.number - 1, previous_root=row.previous_root,
        created_at_ms=row.created_at_ms,
    )  # fmt: skip
    return Stored(found, str(row.signed_note))


def _judge_checkpoint(
    one: Stored, before: Checkpoint, key: NoteKey | None, heads: Mapping[str, Head], restorations: Sequence[Restoration]
) -> Finding | None:
    """Signature, fields, place in the sequence, root."""
    found = one.checkpoint
    text = signed_text(one.note, key) if key is not None else None
    if text is None:
        return _about(found.number, "CHECKPOINT_INVALID", f"checkpoint {found.number} is not signed by the checkpoint key")
    if parse_checkpoint(text) != found:
        return _about(found.number, "CHECKPOINT_INVALID", f"the row of checkpoint {found.number} is not what was signed")
    if (found.previous_number, found.previous_root) != (before.number, before.root_sha256):
        return _about(before.number + 1, "CHECKPOINT_MISSING", f"checkpoint {found.number} does not follow {before.number}")
    gap = found.number != before.number + 1
    if gap and not _declared(restorations, before.created_at_ms, found.created_at_ms):
        message = f"checkpoint {found.number} follows {before.number}, and no restoration is on record between them"
        return _about(found.number, "RESTORED_UNDECLARED", message)
    ordered = sorted(heads.values(), key=lambda head: leaf_order(head.session_id))
    if len(ordered) != found.sessions or merkle_root(head.leaf for head in ordered).hex() != found.root_sha256:
        return _about(found.number, "CHECKPOINT_INVALID", f"the recorded heads do not give the root of checkpoint {found.number}")
    return None


def _declared(restorations: Sequence[Restoration], after_ms: int, until_ms: int | None) -> bool:
    return any(after_ms <= one.at_ms and (until_ms is None or one.at_ms <= until_ms) for one in restorations)


def _about(number: int, code: FindingCode, message: str) -> Finding:
    return Finding(number, "", code, message, "")

"""The event chain: one gapless, hash-linked sequence per session, appended only (contracts §8).

Verification detects what was altered, removed, reordered, forked or cut off at the start. A chain that somebody with write
access rebuilt as a whole, and the loss of its last records, only a checkpoint shows: see :mod:`activities.record.checkpoints`.
"""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, NamedTuple

import rfc8785
from pydantic import ValidationError
from sqlalchemy import ColumnElement, Connection, Row, Select, bindparam, exists, func, select
from sqlalchemy.dialects import sqlite

from activities.record.locks import hold
from activities.record.payloads import DataKey
from activities.record.store import TenantStore, now_ms
from activities.record.tables import EVENT, EVENT_PAYLOAD, PAYLOAD_ERASURE
from schemas.canonical import jcs, strict_json
from schemas.error import InputError, Refused
from schemas.event import ACTOR_KINDS, EVENT_KINDS, GENESIS, Actor, Event, EventDraft, hash_of
from schemas.task import TraceKeys, tenant_keys

FindingCode = Literal[
    "ALTERED", "REMOVED", "REORDERED", "TRUNCATED", "FORKED", "REPLACED", "PAYLOAD_CHANGED", "PAYLOAD_MISSING",
    "TOMBSTONE_UNFOUNDED", "RESTORED_UNDECLARED", "CHECKPOINT_INVALID", "CHECKPOINT_MISSING",
]  # fmt: skip
ENGINE = Actor(principal_id="gen4", kind="engine")
_SALT_BYTES = 32
_PAGE = 500
_AT_ONCE = 1_000
"""Rows fetched, and keys looked up, in one go: the most that is in memory at a time."""


@dataclass(frozen=True)
class Finding:
    """The first bad record of a chain: its place, what is wrong with it."""

    seq: int
    event_id: str
    code: FindingCode
    message: str
    session_id: str = ""


@dataclass(frozen=True)
class Verification:
    """``erased`` payloads are gone on record; those ``not_checked`` are encrypted under a key that is not here."""

    session_id: str
    events: int
    erased: int
    not_checked: int
    finding: Finding | None


class _Record(NamedTuple):
    """A row of :data:`_WHOLE`."""

    event_id: str
    tenant_id: str
    trace_id: str
    session_id: str
    task_id: str | None
    capability_id: str | None
    version: str
    seq: int
    kind: str
    actor_principal_id: str
    actor_kind: str
    idempotency_key: str
    payload_commitment: str
    recorded_at_ms: int
    prev_hash: str
    hash: str
    key_id: str | None
    salt: bytes | None
    payload: bytes | None


class EventChain:
    """Appends and reads. Every method may be called from several threads and processes at once."""

    def __init__(self, store: TenantStore, clock: Callable[[], int] = now_ms) -> None:
        self._store = store
        self._clock = clock

    # --- writing -----------------------------------------------------------------------------------------------------

    def append(
        self, keys: TraceKeys, actor: Actor, *drafts: EventDraft, connection: Connection | None = None
    ) -> tuple[Event, ...]:
        """Append ``drafts`` in order to the session's chain, all or none.

        A draft whose idempotency key is recorded already yields the recorded event and writes nothing.

        Args:
            connection: of a running :meth:`TenantStore.write`, to join its transaction; else one of its own.

        Raises:
            InputError: NOT_CANONICAL for a payload with NaN, integers of 2**53 and more, or lone surrogates.
            Refused: ID_CONFLICT when a recorded key comes again with another body; TENANT_MISMATCH; PAYLOAD_KEY_MISSING.
        """
        self._store.require(keys.tenant_id)
        bodies = [_canonical(draft) for draft in drafts]

        def run(transaction: Connection) -> tuple[Event, ...]:
            return self._append(transaction, keys, actor, drafts, bodies, self._clock())

        return run(connection) if connection is not None else self._store.write(run)

    def _append(
        self, connection: Connection, keys: TraceKeys, actor: Actor, drafts: Sequence[EventDraft], bodies: Sequence[bytes],
        time_ms: int,
    ) -> tuple[Event, ...]:  # fmt: skip
        hold(connection, "chain", keys.tenant_id, keys.session_id)  # before anything is looked up: other processes append too
        recorded = self._recorded(connection, keys.tenant_id, [draft.idempotency_key for draft in drafts])
        data_key = self._sealing_key(connection, time_ms) if len(recorded) < len(drafts) else None
        head = connection.execute(_HEAD, {"tenant": keys.tenant_id, "session": keys.session_id}).first()
        seq, prev_hash = (0, GENESIS) if head is None else (head.seq, head.hash)
        events: list[Event] = []
        made: dict[str, tuple[Event, bytes]] = {}
        for draft, body in zip(drafts, bodies, strict=True):
            if (stored := recorded.get(draft.idempotency_key)) is not None:
                self._refuse_another(connection, stored, keys, draft, body)
                events.append(_event_of(stored))
                continue
            if (twice := made.get(draft.idempotency_key)) is not None:
                _refuse_unequal(twice[0], twice[1], keys, draft, body)
                events.append(twice[0])
                continue
            salt = os.urandom(_SALT_BYTES)
            event = _next_event(keys, actor, draft, seq + 1, prev_hash, commitment(salt, body), time_ms)
            seq, prev_hash = event.seq, event.hash
            made[draft.idempotency_key] = event, salt + body
            events.append(event)
        if made:
            connection.execute(_INSERT_EVENT, [_event_row(event) for event, _ in made.values()])
            connection.execute(_INSERT_PAYLOAD, [_payload_row(event, salted, data_key) for event, salted in made.values()])
        return tuple(events)

    def _recorded(self, connection: Connection, tenant_id: str, idempotency_keys: Sequence[str]) -> dict[str, Row[Any]]:
        found: dict[str, Row[Any]] = {}
        if len(idempotency_keys) == 1:
            rows = connection.execute(_BY_KEY, {"tenant": tenant_id, "key": idempotency_keys[0]})
            return {row.idempotency_key: row for row in rows}
        for start in range(0, len(idempotency_keys), _AT_ONCE):
            some = list(idempotency_keys[start : start + _AT_ONCE])
            rows = connection.execute(_BY_KEYS, {"tenant": tenant_id, "keys": some})
            found.update((row.idempotency_key, row) for row in rows)
        return found

    def _sealing_key(self, connection: Connection, time_ms: int) -> DataKey | None:
        """The tenant's key for new payloads, made with its first event; None in a store that encrypts nothing."""
        vault, tenant_id = self._store.vault, self._store.tenant_id
        if vault is None:
            return None
        if (known := vault.known(tenant_id)) is not None:
            return known
        if (committed := self._store.read(lambda snapshot: vault.newest(snapshot, tenant_id))) is not None:
            return vault.remember(tenant_id, committed)
        if vault.newest(connection, tenant_id) is None and vault.create(connection, tenant_id, time_ms):
            made = vault.newest(connection, tenant_id)
            payload = {"key_id": made.key_id if made else None, "purpose": "payload", "algorithm": "AES-256-GCM"}
            draft = EventDraft(kind="key.created", idempotency_key=f"key.created/{payload['key_id']}", payload=payload)
            self._append(connection, tenant_keys(tenant_id), ENGINE, [draft], [_canonical(draft)], time_ms)
        return vault.newest(connection, tenant_id)

    def _refuse_another(
        self, connection: Connection, stored: Row[Any], keys: TraceKeys, draft: EventDraft, body: bytes
    ) -> None:
        salted = None if stored.payload is None else self._salted(connection, stored)
        # Of an erased payload nobody can say what it was.
        _refuse_unequal(stored, salted if salted is not None else bytes(_SALT_BYTES) + body, keys, draft, body)

    # --- reading -----------------------------------------------------------------------------------------------------

    def read(self, session_id: str) -> Iterator[tuple[Event, dict[str, Any]]]:
        """All events of a session in order, each with its payload, a page at a time. Not verified: see :meth:`verify`.

        An erased payload reads as ``{"erased": True}``.

        Raises:
            Refused: PAYLOAD_KEY_MISSING; CHAIN_ALTERED for a record that cannot be read at all.
        """
        return self.read_after(session_id, 0)

    def read_after(self, session_id: str, seq: int) -> Iterator[tuple[Event, dict[str, Any]]]:
        """As :meth:`read`, without the first ``seq`` records."""
        page = self._page(session_id, seq)
        while page:
            yield from page
            page = self._page(session_id, page[-1][0].seq) if len(page) == _PAGE else []

    def sessions(self) -> list[str]:
        """Ids of all sessions with a chain, oldest first."""
        mine = select(EVENT.c.session_id).where(EVENT.c.tenant_id == self._store.tenant_id).group_by(EVENT.c.session_id)
        query = mine.order_by(func.min(EVENT.c.recorded_at_ms), EVENT.c.session_id)
        return [str(value) for value in self._store.read(lambda connection: connection.execute(query).scalars().all())]

    def _page(self, session_id: str, after: int) -> list[tuple[Event, dict[str, Any]]]:
        arguments = {"tenant": self._store.tenant_id, "session": session_id, "after": after}

        def load(connection: Connection) -> list[tuple[Event, dict[str, Any]]]:
            return [(_event_of(row), self._payload(connection, row)) for row in connection.execute(_NEXT_PAGE, arguments)]

        return self._store.read(load)

    def _payload(self, connection: Connection, row: Row[Any]) -> dict[str, Any]:
        if row.payload is None:
            return {"erased": True}
        salted = self._salted(connection, row)
        if salted is None:
            raise _malformed(row, "its payload does not open")
        payload: dict[str, Any] = strict_json(salted[_SALT_BYTES:])
        return payload

    def _salted(self, connection: Connection, row: Row[Any]) -> bytes | None:
        """Salt and payload as they were committed to; None when the payload was changed.

        Raises:
            Refused: PAYLOAD_KEY_MISSING.
        """
        if row.key_id is None:
            return bytes(row.salt) + bytes(row.payload) if len(row.salt) == _SALT_BYTES else None
        vault = self._store.vault
        if vault is None:
            raise Refused("PAYLOAD_KEY_MISSING", "the store was opened without its keys", "open it together with its home")
        data_key = vault.known(self._store.tenant_id)
        if data_key is None or data_key.key_id != row.key_id:
            data_key = vault.get(connection, self._store.tenant_id, row.key_id)
        return data_key.open(row.payload, _context(row.event_id, self._store.tenant_id, row.payload_commitment))

    # --- verifying ---------------------------------------------------------------------------------------------------

    def verify(self, session_id: str) -> list[Finding]:
        """The first bad record of the chain, or an empty list. An unknown session has an empty, sound chain."""
        finding = self.examine(session_id).finding
        return [] if finding is None else [finding]

    def examine(self, session_id: str) -> Verification:
        """Check every record on one snapshot, with only some of them in memory."""
        return self._store.read(lambda connection: self._examine(connection, session_id))

    def _examine(self, connection: Connection, session_id: str) -> Verification:
        arguments = {"tenant": self._store.tenant_id, "session": session_id}
        count = erased = not_checked = 0
        previous, before = GENESIS, ""
        finding: Finding | None = None
        openers: dict[str, DataKey | None] = {}
        for row in _stream(connection, arguments):
            # Taken apart by place: this loop sees every record of a tenant, and names cost more than hashes.
            event_id, tenant, trace, session, task, capability, version, seq, kind, principal, actor_kind, key, *rest = row
            promised, at_ms, prev_hash, digest, key_id, salt, payload = rest
            try:
                sound = (
                    digest == hash_of(
                        actor_kind, principal, capability, event_id, key, kind, promised, prev_hash, at_ms, seq, session, task,
                        tenant, trace, version,
                    )
                    and seq == count + 1 and prev_hash == previous and kind in EVENT_KINDS and actor_kind in ACTOR_KINDS
                )  # fmt: skip
            except (TypeError, UnicodeEncodeError):
                sound = False
            if not sound:
                finding = self._broken(connection, _Record._make(row), count + 1, before)
                break
            count, previous, before = count + 1, digest, prev_hash
            if payload is None:
                erased += 1
                finding = self._unfounded(connection, _Record._make(row))
            elif key_id is None:
                if _hash_of_parts(salt, payload) != promised:
                    finding = _changed(_Record._make(row))
            else:
                if key_id not in openers:
                    openers[key_id] = self._opener(connection, key_id)
                if (opener := openers[key_id]) is None:
                    not_checked += 1
                    continue
                salted = opener.open(payload, f"{event_id}\n{tenant}\n{promised}".encode())
                if salted is None or hashlib.sha256(salted).hexdigest() != promised:
                    finding = _changed(_Record._make(row))
            if finding is not None:
                break
        if finding is None:
            finding = self._left_over(connection, session_id, count)
        return Verification(session_id, count, erased, not_checked, finding)

    def _opener(self, connection: Connection, key_id: str) -> DataKey | None:
        """None when the key is not here: what it sealed is not checked then."""
        vault = self._store.vault
        try:
            return vault.get(connection, self._store.tenant_id, key_id) if vault is not None else None
        except Refused:
            return None

    def _broken(self, connection: Connection, row: _Record, expected: int, before: str) -> Finding:
        """What is wrong with the first record that does not fit; ``before``: what the record before it names as its own."""
        arguments = {"tenant": self._store.tenant_id, "session": row.session_id}
        if not _hash_holds(row, row.seq):
            last = connection.execute(_HEAD, arguments).first()
            if any(_hash_holds(row, seq) for seq in range(1, (last.seq if last else row.seq) + 2)):
                return _finding(row, "REORDERED", f"record {row.seq} was written with another sequence number")
            return _finding(row, "ALTERED", f"the hash of record {row.seq} does not match its fields")
        if row.seq < expected:
            return _finding(row, "FORKED", f"there are two records {row.seq}")
        if row.seq > expected:
            if expected == 1:
                return _finding(row, "TRUNCATED", f"the chain starts with record {row.seq}: the records before it are gone")
            return _finding(row, "REMOVED", f"record {expected} is missing")
        if row.prev_hash == before or connection.execute(_BY_HASH, {**arguments, "hash": row.prev_hash}).first() is not None:
            return _finding(row, "FORKED", f"record {row.seq} follows an earlier record than the one before it")
        return _finding(row, "ALTERED", f"record {row.seq} does not follow the record before it")

    def _unfounded(self, connection: Connection, row: _Record) -> Finding | None:
        """A payload may be gone only on the authority of an event that names it."""
        found: Any = connection.execute(_TOMBSTONE, {"tenant": self._store.tenant_id, "event": row.event_id}).first()
        if found is None:
            return _finding(row, "PAYLOAD_MISSING", f"the payload of record {row.seq} is gone, and no erasure is on record")
        if not _authorises(found, row.session_id, row.seq):
            return _finding(row, "TOMBSTONE_UNFOUNDED", f"no event gives authority to erase the payload of record {row.seq}")
        return None

    def _left_over(self, connection: Connection, session_id: str, count: int) -> Finding | None:
        """What lies beside the chain must belong to one of its records."""
        arguments = {"tenant": self._store.tenant_id, "session": session_id}
        orphan = connection.execute(_ORPHAN, arguments).scalar()
        if orphan is not None:
            message = "the payload of an event is there, the event is not"
            return Finding(count + 1, str(orphan), "REMOVED", message, session_id)
        stray = connection.execute(_STRAY_TOMBSTONE, arguments).scalar()
        if stray is not None:
            message = "an erasure is on record of a payload that is there, or of an event that is not"
            return Finding(count + 1, str(stray), "TOMBSTONE_UNFOUNDED", message, session_id)
        return None


def commitment(salt: bytes, payload: bytes) -> str:
    """``payload_commitment``: sha256 of salt and JCS payload, 64 hex digits."""
    return hashlib.sha256(salt + payload).hexdigest()


def erasure_key(session_id: str, first: int, last: int) -> str:
    """Idempotency key of the event that gives authority to erase these records' payloads: it stays when payloads go."""
    return f"payload.erased/{session_id}/{first}-{last}"


# --- statements, built once ------------------------------------------------------------------------------------------

_TENANT = EVENT.c.tenant_id == bindparam("tenant")
_MINE: ColumnElement[bool] = _TENANT & (EVENT.c.session_id == bindparam("session"))


def _joined() -> Select[Any]:
    columns = (*EVENT.c, EVENT_PAYLOAD.c.key_id, EVENT_PAYLOAD.c.salt, EVENT_PAYLOAD.c.payload)
    same = (EVENT.c.event_id == EVENT_PAYLOAD.c.event_id) & (EVENT.c.tenant_id == EVENT_PAYLOAD.c.tenant_id)
    return select(*columns).select_from(EVENT.outerjoin(EVENT_PAYLOAD, same))


_HEAD = select(EVENT.c.seq, EVENT.c.hash).where(_MINE).order_by(EVENT.c.seq.desc()).limit(1)
_WHOLE = _joined().where(_MINE).order_by(EVENT.c.seq)
_NEXT_PAGE = _WHOLE.where(EVENT.c.seq > bindparam("after")).limit(_PAGE)
_BY_KEY = _joined().where(_TENANT, EVENT.c.idempotency_key == bindparam("key"))
_BY_KEYS = _joined().where(_TENANT, EVENT.c.idempotency_key.in_(bindparam("keys", expanding=True)))
_BY_HASH = select(EVENT.c.seq).where(_MINE, EVENT.c.hash == bindparam("hash")).limit(1)
_INSERT_EVENT = EVENT.insert()
_INSERT_PAYLOAD = EVENT_PAYLOAD.insert()

_OF_PAYLOAD = (EVENT_PAYLOAD.c.tenant_id == bindparam("tenant")) & (EVENT_PAYLOAD.c.session_id == bindparam("session"))
_ORPHAN = (
    select(EVENT_PAYLOAD.c.event_id)
    .where(_OF_PAYLOAD, ~exists().where(EVENT.c.event_id == EVENT_PAYLOAD.c.event_id, _MINE))
    .limit(1)
)
_AUTHORITY = EVENT.alias("authority")
_ITS_AUTHORITY = (_AUTHORITY.c.event_id == PAYLOAD_ERASURE.c.authority_event_id) & (
    _AUTHORITY.c.tenant_id == PAYLOAD_ERASURE.c.tenant_id
)
_TOMBSTONE = (
    select(_AUTHORITY.c.kind, _AUTHORITY.c.session_id, _AUTHORITY.c.idempotency_key)
    .select_from(PAYLOAD_ERASURE.outerjoin(_AUTHORITY, _ITS_AUTHORITY))
    .where(PAYLOAD_ERASURE.c.tenant_id == bindparam("tenant"), PAYLOAD_ERASURE.c.event_id == bindparam("event"))
)
_ERASED_BUT_THERE = exists().where(
    EVENT_PAYLOAD.c.event_id == PAYLOAD_ERASURE.c.event_id, EVENT_PAYLOAD.c.tenant_id == PAYLOAD_ERASURE.c.tenant_id
)
_STRAY_TOMBSTONE = (
    select(PAYLOAD_ERASURE.c.event_id)
    .where(PAYLOAD_ERASURE.c.tenant_id == bindparam("tenant"), PAYLOAD_ERASURE.c.session_id == bindparam("session"))
    .where(_ERASED_BUT_THERE | ~exists().where(EVENT.c.event_id == PAYLOAD_ERASURE.c.event_id, _MINE))
    .limit(1)
)


@cache
def _whole_of_sqlite() -> tuple[str, tuple[str, ...]]:
    """Text of :data:`_WHOLE`, and the names of what it asks for in their order."""
    compiled = _WHOLE.compile(dialect=sqlite.dialect())
    return str(compiled), tuple(compiled.positiontup or ())


def _stream(connection: Connection, arguments: dict[str, Any]) -> Iterable[Sequence[Any]]:
    """The rows of :data:`_WHOLE`, some at a time; from SQLite without what SQLAlchemy does to each."""
    if connection.dialect.name != "sqlite":
        return connection.execute(_WHOLE.execution_options(yield_per=_AT_ONCE), arguments)
    text, names = _whole_of_sqlite()
    cursor: Iterable[Sequence[Any]] = connection.connection.cursor().execute(text, [arguments[name] for name in names])
    return cursor


# --- rows and events -------------------------------------------------------------------------------------------------


def _canonical(draft: EventDraft) -> bytes:
    try:
        return jcs(draft.payload)
    except rfc8785.CanonicalizationError as error:
        message = f"payload of {draft.kind} has no canonical JSON: {error}"
        raise InputError("NOT_CANONICAL", message, "keep such values as a blob and refer to it") from error


def _next_event(
    keys: TraceKeys, actor: Actor, draft: EventDraft, seq: int, prev_hash: str, payload_commitment: str, time_ms: int
) -> Event:
    event_id = str(uuid.uuid4())
    task_id = draft.task_id if draft.task_id is not None else keys.task_id
    digest = hash_of(
        actor.kind, actor.principal_id, draft.capability_id, event_id, draft.idempotency_key, draft.kind, payload_commitment,
        prev_hash, time_ms, seq, keys.session_id, task_id, keys.tenant_id, keys.trace_id, draft.version,
    )  # fmt: skip
    # Its parts were validated where they were made; once more would cost more than all hashing.
    return Event.model_construct(
        event_id=event_id, tenant_id=keys.tenant_id, trace_id=keys.trace_id, session_id=keys.session_id, task_id=task_id,
        capability_id=draft.capability_id, version=draft.version, seq=seq, kind=draft.kind, actor=actor,
        idempotency_key=draft.idempotency_key, payload_commitment=payload_commitment, recorded_at_ms=time_ms,
        prev_hash=prev_hash, hash=digest,
    )  # fmt: skip


def _event_row(event: Event) -> dict[str, Any]:
    row = dict(event.__dict__)
    actor = row.pop("actor")
    return {**row, "actor_principal_id": actor.principal_id, "actor_kind": actor.kind}


def _payload_row(event: Event, salted: bytes, data_key: DataKey | None) -> dict[str, Any]:
    """An encrypted payload has its salt inside: beside it, the salt would help to guess what was said."""
    if data_key is None:
        salt, payload = salted[:_SALT_BYTES], salted[_SALT_BYTES:]
    else:
        context = _context(event.event_id, event.tenant_id, event.payload_commitment)
        salt, payload = b"", data_key.seal(salted, context)
    return {
        "event_id": event.event_id, "tenant_id": event.tenant_id, "trace_id": event.trace_id, "session_id": event.session_id,
        "task_id": event.task_id, "capability_id": event.capability_id, "version": event.version,
        "key_id": data_key.key_id if data_key else None, "salt": salt, "payload": payload, "created_at_ms": event.recorded_at_ms,
    }  # fmt: skip


def _context(event_id: str, tenant_id: str, payload_commitment: str) -> bytes:
    return f"{event_id}\n{tenant_id}\n{payload_commitment}".encode()


def _refuse_unequal(stored: Row[Any] | Event, salted: bytes, keys: TraceKeys, draft: EventDraft, body: bytes) -> None:
    wanted = (keys.session_id, draft.kind, draft.capability_id, body)
    if (stored.session_id, stored.kind, stored.capability_id, salted[_SALT_BYTES:]) != wanted:
        raise Refused(
            "ID_CONFLICT",
            f"idempotency key {draft.idempotency_key!r} was used for another {stored.kind} event",
            "use one key for one fact",
        )


def _event_of(row: Row[Any]) -> Event:
    fields = {name: row._mapping[name] for name in Event.model_fields if name != "actor"}
    try:
        return Event(**fields, actor=Actor(principal_id=row.actor_principal_id, kind=row.actor_kind))
    except ValidationError as error:
        raise _malformed(row, str(error)) from error


def _malformed(row: Row[Any], why: str) -> Refused:
    return Refused("CHAIN_ALTERED", f"the stored event {row.seq} is malformed: {why}", "run `gen4 events ID --verify`")


def _changed(row: _Record) -> Finding:
    return _finding(row, "PAYLOAD_CHANGED", f"the payload of record {row.seq} is not the one that was committed to")


def _hash_of_parts(salt: Any, payload: Any) -> str | None:
    """None for a salt of another length, with which another payload could have the same hash."""
    try:
        return hashlib.sha256(salt + payload).hexdigest() if len(salt) == _SALT_BYTES else None
    except TypeError:
        return None  # not even bytes


def _finding(row: _Record, code: FindingCode, message: str) -> Finding:
    return Finding(row.seq, str(row.event_id), code, message, str(row.session_id))


def _hash_holds(row: _Record, seq: int) -> bool:
    if row.kind not in EVENT_KINDS or row.actor_kind not in ACTOR_KINDS:
        return False
    try:
        return str(row.hash) == hash_of(
            row.actor_kind, row.actor_principal_id, row.capability_id, row.event_id, row.idempotency_key, row.kind,
            row.payload_commitment, row.prev_hash, row.recorded_at_ms, seq, row.session_id, row.task_id, row.tenant_id,
            row.trace_id, row.version,
        )  # fmt: skip
    except (TypeError, UnicodeEncodeError):
        return False


def _authorises(authority: Any, session_id: str, seq: int) -> bool:
    """Whether the event that a tombstone names is one that speaks of this record."""
    if authority.kind != "payload.erased" or authority.session_id != session_id:
        return False
    first, _, last = str(authority.idempotency_key).rpartition("/")[2].partition("-")
    if not (first.isdecimal() and last.isdecimal()):
        return False
    return authority.idempotency_key == erasure_key(session_id, int(first), int(last)) and int(first) <= seq <= int(last)

"""The event chain: one gapless, hash-linked sequence per session, appended only (contracts §8).

Verification detects what was altered, removed, reordered or cut off at the start. It cannot detect a chain that somebody
with write access to the file rebuilt as a whole, nor the loss of its last records: there is no key and no outside witness.
"""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import rfc8785
from pydantic import ValidationError
from sqlalchemy import Connection, Row, select

from activities.record.locks import hold
from activities.record.store import TenantStore, now_ms
from activities.record.tables import EVENT, EVENT_PAYLOAD
from schemas.canonical import StrictJsonError, jcs, strict_json
from schemas.error import InputError, Refused
from schemas.event import GENESIS, Actor, Event, EventDraft, event_hash
from schemas.task import TraceKeys

FindingCode = Literal["ALTERED", "REMOVED", "REORDERED", "TRUNCATED", "PAYLOAD_CHANGED", "PAYLOAD_MISSING"]
_SALT_BYTES = 32


@dataclass(frozen=True)
class Finding:
    """The first bad record of a chain: its place, what is wrong with it."""

    seq: int
    event_id: str
    code: FindingCode
    message: str


class EventChain:
    """Appends and reads. Every method may be called from several threads and processes at once."""

    def __init__(self, store: TenantStore, clock: Callable[[], int] = now_ms) -> None:
        self._store = store
        self._clock = clock

    def append(
        self, keys: TraceKeys, actor: Actor, *drafts: EventDraft, connection: Connection | None = None
    ) -> tuple[Event, ...]:
        """Append ``drafts`` in order to the session's chain, all or none.

        A draft whose idempotency key is recorded already yields the recorded event and writes nothing.

        Args:
            connection: of a running :meth:`Store.write`, to join its transaction; else one of its own.

        Raises:
            InputError: NOT_CANONICAL for a payload with NaN, integers of 2**53 and more, or lone surrogates.
            Refused: ID_CONFLICT when a recorded key comes again with another body; TENANT_MISMATCH.
        """
        self._store.require(keys.tenant_id)
        bodies = [_canonical(draft) for draft in drafts]

        def run(transaction: Connection) -> tuple[Event, ...]:
            hold(transaction, "chain", keys.tenant_id, keys.session_id)
            pairs = zip(drafts, bodies, strict=True)
            return tuple(_append_one(transaction, keys, actor, draft, body, self._clock()) for draft, body in pairs)

        return run(connection) if connection is not None else self._store.write(run)

    def read(self, session_id: str) -> list[tuple[Event, dict[str, Any]]]:
        """All events of a session in order, each with its payload. Not verified: see :meth:`verify`."""
        query = _session_query(self._store.tenant_id, session_id)
        rows = self._store.read(lambda connection: connection.execute(query).all())
        return [(_event_of(row), strict_json(row.payload)) for row in rows]

    def sessions(self) -> list[str]:
        """Ids of all sessions with a chain, oldest first."""
        first = (EVENT.c.tenant_id == self._store.tenant_id) & (EVENT.c.seq == 1)
        query = select(EVENT.c.session_id).where(first).order_by(EVENT.c.recorded_at_ms)
        return [str(value) for value in self._store.read(lambda connection: connection.execute(query).scalars().all())]

    def verify(self, session_id: str) -> list[Finding]:
        """The first bad record of the chain, or an empty list. An unknown session has an empty, sound chain."""
        query = _session_query(self._store.tenant_id, session_id)
        orphans = (
            select(EVENT_PAYLOAD.c.event_id)
            .where(EVENT_PAYLOAD.c.tenant_id == self._store.tenant_id, EVENT_PAYLOAD.c.session_id == session_id)
            .where(EVENT_PAYLOAD.c.event_id.not_in(select(EVENT.c.event_id)))
        )

        def load(connection: Connection) -> tuple[list[Row[Any]], str | None]:
            return list(connection.execute(query).all()), connection.execute(orphans).scalars().first()

        rows, orphan = self._store.read(load)
        finding = _first_finding(rows)
        if finding is None and orphan is not None:
            finding = Finding(len(rows) + 1, orphan, "REMOVED", "the payload of an event is there, the event is not")
        return [] if finding is None else [finding]


def commitment(salt: bytes, payload: bytes) -> str:
    """``payload_commitment``: sha256 of salt and JCS payload, 64 hex digits."""
    return hashlib.sha256(salt + payload).hexdigest()


def _canonical(draft: EventDraft) -> bytes:
    try:
        return jcs(draft.payload)
    except rfc8785.CanonicalizationError as error:
        message = f"payload of {draft.kind} has no canonical JSON: {error}"
        raise InputError("NOT_CANONICAL", message, "keep such values as a blob and refer to it") from error


def _append_one(connection: Connection, keys: TraceKeys, actor: Actor, draft: EventDraft, body: bytes, time_ms: int) -> Event:
    stored = connection.execute(
        _joined().where(EVENT.c.tenant_id == keys.tenant_id, EVENT.c.idempotency_key == draft.idempotency_key)
    ).first()
    if stored is not None:
        return _same(stored, keys, draft, body)
    head = connection.execute(
        select(EVENT.c.seq, EVENT.c.hash)
        .where(EVENT.c.tenant_id == keys.tenant_id, EVENT.c.session_id == keys.session_id)
        .order_by(EVENT.c.seq.desc())
        .limit(1)
    ).first()
    salt = os.urandom(_SALT_BYTES)
    fields: dict[str, Any] = {
        "event_id": str(uuid.uuid4()),
        "tenant_id": keys.tenant_id,
        "trace_id": keys.trace_id,
        "session_id": keys.session_id,
        "task_id": draft.task_id if draft.task_id is not None else keys.task_id,
        "capability_id": draft.capability_id,
        "version": draft.version,
        "seq": 1 if head is None else head.seq + 1,
        "kind": draft.kind,
        "actor": actor.model_dump(),
        "idempotency_key": draft.idempotency_key,
        "payload_commitment": commitment(salt, body),
        "recorded_at_ms": time_ms,
        "prev_hash": GENESIS if head is None else head.hash,
    }
    event = Event(**fields, hash=event_hash(fields))
    _insert(connection, event, salt, body)
    return event


def _insert(connection: Connection, event: Event, salt: bytes, body: bytes) -> None:
    values = event.model_dump(exclude={"actor"})
    connection.execute(
        EVENT.insert().values(actor_principal_id=event.actor.principal_id, actor_kind=event.actor.kind, **values)
    )
    trace = {name: values[name] for name in ("tenant_id", "trace_id", "session_id", "task_id", "capability_id", "version")}
    connection.execute(
        EVENT_PAYLOAD.insert().values(
            event_id=event.event_id, salt=salt, payload=body, created_at_ms=event.recorded_at_ms, **trace
        )
    )


def _same(stored: Row[Any], keys: TraceKeys, draft: EventDraft, body: bytes) -> Event:
    wanted = (keys.session_id, draft.kind, draft.capability_id, body)
    if (stored.session_id, stored.kind, stored.capability_id, stored.payload) != wanted:
        raise Refused(
            "ID_CONFLICT",
            f"idempotency key {draft.idempotency_key!r} was used for another {stored.kind} event",
            "use one key for one fact",
        )
    return _event_of(stored)


def _joined() -> Any:
    columns = (*EVENT.c, EVENT_PAYLOAD.c.salt, EVENT_PAYLOAD.c.payload)
    return select(*columns).select_from(EVENT.outerjoin(EVENT_PAYLOAD, EVENT.c.event_id == EVENT_PAYLOAD.c.event_id))


def _session_query(tenant_id: str, session_id: str) -> Any:
    return _joined().where(EVENT.c.tenant_id == tenant_id, EVENT.c.session_id == session_id).order_by(EVENT.c.seq)


def _fields_of(row: Row[Any]) -> dict[str, Any]:
    fields = {name: row._mapping[name] for name in Event.model_fields if name != "actor"}
    fields["actor"] = {"principal_id": row.actor_principal_id, "kind": row.actor_kind}
    return fields


def _event_of(row: Row[Any]) -> Event:
    try:
        return Event.model_validate(_fields_of(row))
    except ValidationError as error:
        message = f"the stored event {row.seq} is malformed: {error}"
        raise Refused("CHAIN_ALTERED", message, "run `gen4 events ID --verify`") from error


def _first_finding(rows: list[Row[Any]]) -> Finding | None:
    expected, previous = 1, GENESIS
    for row in rows:
        finding = _judge(row, expected, previous, rows)
        if finding is not None:
            return finding
        expected, previous = expected + 1, row.hash
    return None


def _judge(row: Row[Any], expected: int, previous: str, rows: list[Row[Any]]) -> Finding | None:
    def finding(code: FindingCode, message: str) -> Finding:
        return Finding(row.seq, str(row.event_id), code, message)

    if not _hash_holds(row, row.seq):
        if any(_hash_holds(row, seq) for seq in range(1, len(rows) + 2)):
            return finding("REORDERED", f"record {row.seq} was written with another sequence number")
        return finding("ALTERED", f"the hash of record {row.seq} does not match its fields")
    if row.seq != expected:
        if expected == 1:
            return finding("TRUNCATED", f"the chain starts with record {row.seq}: the records before it are gone")
        return finding("REMOVED", f"record {expected} is missing")
    if row.prev_hash != previous:
        return finding("ALTERED", f"record {row.seq} does not follow the record before it")
    if row.payload is None:
        return finding("PAYLOAD_MISSING", f"the payload of record {row.seq} is gone")
    if not _payload_holds(row):
        return finding("PAYLOAD_CHANGED", f"the payload of record {row.seq} is not the one that was committed to")
    return None


def _hash_holds(row: Row[Any], seq: int) -> bool:
    try:
        fields = {**_fields_of(row), "seq": seq}
        Event.model_validate(fields)
        return event_hash(fields) == str(row.hash)
    except (ValidationError, rfc8785.CanonicalizationError):
        return False


def _payload_holds(row: Row[Any]) -> bool:
    try:
        strict_json(row.payload)
        return commitment(row.salt, row.payload) == str(row.payload_commitment)
    except (StrictJsonError, TypeError):
        return False

"""Erasing what was said while the record that something was said stays: payload and salt go, the chain verifies (threats 7.2)."""

from __future__ import annotations

from sqlalchemy import ColumnElement, Connection, and_, delete, exists, select

from activities.record.chain import EventChain, erasure_key
from activities.record.store import TenantStore
from activities.record.tables import EVENT, EVENT_PAYLOAD, PAYLOAD_ERASURE, SESSION_VIEW
from schemas.error import InputError, Refused
from schemas.event import Actor, EventDraft
from schemas.task import TENANT_CHAIN, UNTRACED, TraceKeys

_KEPT_PREFIXES = ("budget.", "key.", "checkpoint.", "store.", "payload.", "config.", "killswitch.", "breaker.")
"""Kinds whose payloads others verify against: they name amounts, keys and settings, and nothing that a person wrote."""
_OF_EVENT = and_(EVENT_PAYLOAD.c.tenant_id == EVENT.c.tenant_id, EVENT_PAYLOAD.c.event_id == EVENT.c.event_id)
_NEVER_END = (TENANT_CHAIN, UNTRACED)


class Erasures:
    def __init__(self, store: TenantStore, chain: EventChain | None = None) -> None:
        self._store = store
        self._chain = chain or EventChain(store)

    def erase(
        self, session_id: str, actor: Actor, reason: str, now_ms: int, first: int = 1, last: int | None = None
    ) -> int:
        """Erase the payloads of records ``first`` to ``last`` of a session (default: of all), on the authority of ``actor``.

        Backups that were made before still hold them.

        Returns:
            How many were erased; none, when all were gone already.

        Raises:
            InputError: RECORD_UNKNOWN when the session has no such records; ERASURE_REASON without a reason.
            Refused: SESSION_OPEN while the session still acts on what it recorded; ERASURE_REFUSED for a single record whose
                payload others verify against.
        """
        if not reason.strip():
            raise InputError("ERASURE_REASON", "an erasure needs a reason", "say with --reason who asked for it and why")

        def run(connection: Connection) -> int:
            head = connection.execute(
                select(EVENT).where(*self._records(session_id)).order_by(EVENT.c.seq.desc()).limit(1)
            ).first()
            end = last if last is not None else (head.seq if head else 0)
            if head is None or not 1 <= first <= end <= head.seq:
                raise InputError("RECORD_UNKNOWN", f"{session_id} has no records {first} to {end}", "see `gen4 events ID`")
            self._refuse_open(connection, session_id)
            wanted = [
                row.event_id
                for row in connection.execute(
                    select(EVENT.c.event_id, EVENT.c.kind)
                    .join(EVENT_PAYLOAD, _OF_EVENT)
                    .where(*self._records(session_id), EVENT.c.seq.between(first, end))
                    .order_by(EVENT.c.seq)
                )
                if not row.kind.startswith(_KEPT_PREFIXES)
            ]
            if not wanted:
                if first == end and self._payload_there(connection, session_id, first):
                    remedy = "it names amounts, keys or settings, nothing that a person wrote"
                    raise Refused("ERASURE_REFUSED", f"others verify against the payload of record {first}", remedy)
                return 0
            keys = TraceKeys(
                tenant_id=head.tenant_id, trace_id=head.trace_id, session_id=session_id, task_id=head.task_id or session_id
            )
            payload = {"first": first, "last": end, "erased": len(wanted), "reason": reason}
            draft = EventDraft(kind="payload.erased", idempotency_key=erasure_key(session_id, first, end), payload=payload)
            [authority] = self._chain.append(keys, actor, draft, connection=connection)
            self._remove(connection, keys, wanted, authority.event_id, now_ms)
            return len(wanted)

        return self._store.write(run)

    def _remove(
        self, connection: Connection, keys: TraceKeys, event_ids: list[str], authority_event_id: str, now_ms: int
    ) -> None:
        if connection.dialect.name == "sqlite":
            connection.exec_driver_sql("PRAGMA secure_delete=ON")  # freed pages would keep the bytes
        trace = {**keys.model_dump(), "capability_id": None, "version": "1"}
        rows = [
            {**trace, "event_id": event_id, "authority_event_id": authority_event_id, "created_at_ms": now_ms}
            for event_id in event_ids
        ]
        connection.execute(PAYLOAD_ERASURE.insert(), rows)
        gone = exists().where(
            PAYLOAD_ERASURE.c.tenant_id == EVENT_PAYLOAD.c.tenant_id, PAYLOAD_ERASURE.c.event_id == EVENT_PAYLOAD.c.event_id
        )
        mine = (EVENT_PAYLOAD.c.tenant_id == keys.tenant_id) & (EVENT_PAYLOAD.c.session_id == keys.session_id)
        connection.execute(delete(EVENT_PAYLOAD).where(mine, gone))
        # What was erased must not live on in what was derived from it.
        view = (SESSION_VIEW.c.tenant_id == keys.tenant_id) & (SESSION_VIEW.c.session_id == keys.session_id)
        connection.execute(delete(SESSION_VIEW).where(view))

    def _records(self, session_id: str) -> tuple[ColumnElement[bool], ...]:
        return (EVENT.c.tenant_id == self._store.tenant_id, EVENT.c.session_id == session_id)

    def _refuse_open(self, connection: Connection, session_id: str) -> None:
        if session_id in _NEVER_END:
            return
        closed = select(EVENT.c.seq).where(*self._records(session_id), EVENT.c.kind == "session.closed").limit(1)
        if connection.execute(closed).first() is None:
            raise Refused("SESSION_OPEN", f"session {session_id} is not closed", "wait for its end, or cancel it, then erase")

    def _payload_there(self, connection: Connection, session_id: str, seq: int) -> bool:
        query = (
            select(EVENT.c.event_id)
            .join(EVENT_PAYLOAD, _OF_EVENT)
            .where(*self._records(session_id), EVENT.c.seq == seq)
        )
        return connection.execute(query).first() is not None

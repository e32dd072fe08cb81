"""Sessions as their chains tell them: which are open, and where the machine of one stands."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, exists, func, literal_column, select

from activities.record.chain import EventChain
from activities.record.store import TenantStore
from activities.record.tables import EVENT, RESERVATION
from schemas.model import Payload
from schemas.session import State
from schemas.task import TraceKeys

_OPENED: ColumnElement[str] = literal_column("'session.opened'")
_CLOSED: ColumnElement[str] = literal_column("'session.closed'")
"""Written out in the statement: a partial index serves only what is known to be in it."""


class OpenSession(Payload):
    """``state`` and ``state_seq``: of the last transition; a session without a machine has none."""

    keys: TraceKeys
    kind: str
    state: State | None = None
    state_seq: int = 0
    delivered: bool = False
    """A change of its was delivered."""


class Sessions:
    def __init__(self, store: TenantStore, chain: EventChain) -> None:
        self._store = store
        self._chain = chain

    def open(self, after: str, limit: int) -> list[str]:
        """Ids of sessions that were opened and not closed, in order of their ids."""
        closing = EVENT.alias()
        closed = exists().where(
            closing.c.tenant_id == self._store.tenant_id, closing.c.session_id == EVENT.c.session_id, closing.c.kind == _CLOSED
        )
        query = (
            select(EVENT.c.session_id)
            .where(EVENT.c.tenant_id == self._store.tenant_id, EVENT.c.kind == _OPENED, EVENT.c.session_id > after, ~closed)
            .order_by(EVENT.c.session_id)
            .limit(limit)
        )
        return [str(value) for value in self._store.read(lambda connection: connection.execute(query).scalars().all())]

    def closed(self, connection: Connection, session_id: str) -> int | None:
        """Number of the event that closed the session, if it is over; asked in the transaction that would close it."""
        mine = and_(EVENT.c.tenant_id == self._store.tenant_id, EVENT.c.session_id == session_id)
        query = select(EVENT.c.seq).where(mine, EVENT.c.kind == _CLOSED).limit(1)
        number: int | None = connection.execute(query).scalar_one_or_none()
        return number

    def overdue(self, now_ms: int) -> int:
        """How many reservations are open after their deadline."""
        late = and_(RESERVATION.c.status == "open", RESERVATION.c.expires_at_ms <= now_ms)
        query = select(func.count()).select_from(RESERVATION).where(RESERVATION.c.tenant_id == self._store.tenant_id, late)
        return self._store.read(lambda connection: connection.execute(query).scalar_one())

    def get(self, session_id: str) -> OpenSession | None:
        """The session as its chain tells it; None when it was never opened, or is closed."""
        found: OpenSession | None = None
        for event, payload in self._chain.read(session_id):
            match event.kind:
                case "session.opened":
                    keys = TraceKeys.model_validate(event.model_dump(include=set(TraceKeys.model_fields)))
                    kind = str(payload.get("kind", "unknown"))  # unknown: the payload was erased
                    found = OpenSession(keys=keys, kind=kind, state=State.INTAKE if kind == "remediation" else None)
                case "session.transition" if found is not None:
                    found = found.model_copy(update=_moved(found, payload))
                case "change.opened" | "change.merged" if found is not None:
                    found = found.model_copy(update={"delivered": True})
                case "session.closed":
                    return None
        return found


def _moved(session: OpenSession, payload: dict[str, Any]) -> dict[str, Any]:
    """An erased transition still counts."""
    if "to_state" not in payload:
        return {"state": session.state or State.INTAKE, "state_seq": session.state_seq + 1}
    return {"state": State(payload["to_state"]), "state_seq": int(payload["state_seq"])}

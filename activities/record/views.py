"""Read views: what each session looks like now, kept so that nobody reads whole chains to list them. Never evidence.

A view is made of events alone. One that is gone, or of an older shape, is made again; one that is behind reads only what is new.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from pydantic import ValidationError
from sqlalchemy import Connection, bindparam, delete, func, select

from activities.record.chain import EventChain
from activities.record.store import TenantStore, now_ms
from activities.record.tables import EVENT, SESSION_VIEW
from schemas.task import UNTRACED
from schemas.view import SessionView, reduce_view

_AT_ONCE = 200
_MY_VIEW = (SESSION_VIEW.c.tenant_id == bindparam("tenant")) & (SESSION_VIEW.c.session_id == bindparam("session"))
_VIEW = select(SESSION_VIEW.c.view_json).where(_MY_VIEW)
_SEQ = select(SESSION_VIEW.c.seq).where(_MY_VIEW)
_MY_EVENTS = EVENT.c.tenant_id == bindparam("tenant")
_NEXT = select(func.min(EVENT.c.session_id)).where(_MY_EVENTS, EVENT.c.session_id > bindparam("after"))
_LAST_SEQ = select(func.max(EVENT.c.seq)).where(_MY_EVENTS, EVENT.c.session_id == bindparam("session"))


class Views:
    def __init__(self, store: TenantStore, chain: EventChain | None = None, clock: Callable[[], int] = now_ms) -> None:
        self._store = store
        self._chain = chain or EventChain(store)
        self._clock = clock

    def refresh(self, session_id: str) -> SessionView | None:
        """The view with everything that is recorded by now; None for an unknown session.

        Raises:
            Refused: PAYLOAD_KEY_MISSING, CHAIN_ALTERED.
        """
        kept = self.get(session_id)
        view, trace_id = kept, ""
        for event, payload in self._chain.read_after(session_id, kept.seq if kept else 0):
            if event.kind == "payload.erased" and kept is not None:
                view, trace_id = self._anew(session_id)  # what was erased is still in the view
                break
            view, trace_id = reduce_view(view, event, payload), event.trace_id
        if view is not None and view != kept:
            self._keep(view, trace_id)
        return view

    def _anew(self, session_id: str) -> tuple[SessionView | None, str]:
        view, trace_id = None, ""
        for event, payload in self._chain.read(session_id):
            view, trace_id = reduce_view(view, event, payload), event.trace_id
        return view, trace_id

    def get(self, session_id: str) -> SessionView | None:
        """The view as it was last kept; None when there is none that this version can read."""
        arguments = {"tenant": self._store.tenant_id, "session": session_id}
        text = self._store.read(lambda connection: connection.execute(_VIEW, arguments).scalar())
        try:
            return None if text is None else SessionView.model_validate_json(text)
        except ValidationError:
            return None

    def all(self) -> Iterator[SessionView]:
        """Views of all sessions in the order of their ids; those that are behind are brought up to date."""
        for session_id, behind in self._standing():
            view = self.refresh(session_id) if behind else self.get(session_id) or self.refresh(session_id)
            if view is not None and view.opened_at_ms is not None:
                yield view

    def rebuild(self) -> int:
        """Forget all views and make them again from the events; how many sessions there are."""
        mine = SESSION_VIEW.c.tenant_id == self._store.tenant_id
        self._store.write(lambda connection: connection.execute(delete(SESSION_VIEW).where(mine)))
        count = 0
        for session_id, _ in self._standing():
            self.refresh(session_id)
            count += 1
        return count

    def _standing(self) -> Iterator[tuple[str, bool]]:
        """Each session, and whether its view is behind; some of them in memory at a time."""
        after = ""
        while found := self._store.read(lambda connection, last=after: self._some(connection, last)):  # type: ignore[misc]
            yield from found
            after = found[-1][0]

    def _some(self, connection: Connection, after: str) -> list[tuple[str, bool]]:
        found: list[tuple[str, bool]] = []
        tenant = {"tenant": self._store.tenant_id}
        while len(found) < _AT_ONCE:
            session_id = connection.execute(_NEXT, {**tenant, "after": after}).scalar()
            if session_id is None:
                break
            after = str(session_id)
            if after == UNTRACED:
                continue
            arguments = {**tenant, "session": after}
            behind = connection.execute(_SEQ, arguments).scalar() != connection.execute(_LAST_SEQ, arguments).scalar()
            found.append((after, behind))
        return found

    def _keep(self, view: SessionView, trace_id: str) -> None:
        arguments = {"tenant": self._store.tenant_id, "session": view.session_id}
        time_ms = self._clock()
        row = {
            "tenant_id": self._store.tenant_id, "trace_id": trace_id, "session_id": view.session_id, "task_id": None,
            "capability_id": None, "version": "1", "seq": view.seq, "view_json": view.model_dump_json(),
            "created_at_ms": time_ms, "updated_at_ms": time_ms,
        }  # fmt: skip

        def run(connection: Connection) -> None:
            kept = connection.execute(_SEQ, arguments).scalar()
            if kept is not None and kept > view.seq:
                return  # another reader came further
            connection.execute(delete(SESSION_VIEW).where(_MY_VIEW), arguments)
            connection.execute(SESSION_VIEW.insert(), row)

        self._store.write(run)

"""Reaper: closes sessions whose workflow ended without closing them. A schedule starts it every minute.

1. Open sessions are looked up on the server, page by page.
2. Each that is abandoned is reaped; one that cannot be is named, and does not hold up the others.
3. Reservations that nobody can settle any more are given back.
"""

from __future__ import annotations

from typing import Any

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError, is_cancelled_exception

from schemas.capabilities import EXPIRE_RESERVATIONS, FIND_ABANDONED, REAP_SESSION
from schemas.operations import Abandoned, AbandonedFound, ExpireReservations, FindAbandoned, ReaperState, ReapSession
from workflows.calling import call
from workflows.doors import accepted
from workflows.failing import rejection_of

ATTEMPTS = 3
"""What fails that often waits for the next run."""
NAMED = 20
"""Failed sessions that a run names."""


@workflow.defn(name="Reaper")
class Reaper:
    @workflow.init
    def __init__(self, request: Any = None, *extra: Any) -> None:
        self._state = ReaperState()

    @workflow.run
    async def run(self, request: Any = None, *extra: Any) -> ReaperState:
        self._state = accepted(ReaperState, {} if request is None else request, extra)
        while True:
            page = await self._next_page()
            for abandoned in page.sessions:
                await self._reap(abandoned)
            self._show()
            if not page.next:
                break
            if workflow.info().is_continue_as_new_suggested():
                workflow.continue_as_new(self._state)
        if page.overdue:
            expired = await call(EXPIRE_RESERVATIONS, ExpireReservations(), summary="late reservations", attempts=ATTEMPTS)
            self._note(expired=expired.reservations)
        if self._state.failed:
            raise ApplicationError(f"not reaped: {'; '.join(self._state.failed)}", type="REAPING_INCOMPLETE", non_retryable=True)
        return self._state

    async def _next_page(self) -> AbandonedFound:
        page = await call(FIND_ABANDONED, FindAbandoned(after=self._state.after), summary="open sessions", attempts=ATTEMPTS)
        self._note(after=page.next, examined=self._state.examined + page.examined)
        return page

    async def _reap(self, abandoned: Abandoned) -> None:
        summary = f"{abandoned.code} {abandoned.workflow_id}"
        try:
            reaped = await call(REAP_SESSION, ReapSession(session_id=abandoned.session_id), summary=summary, attempts=ATTEMPTS)
        except ActivityError as error:
            if is_cancelled_exception(error):
                raise
            why = rejection_of(error, "reap")
            failed = (*self._state.failed, f"{abandoned.session_id}: {', '.join(why.codes)}")
            self._note(failed=failed[:NAMED])
        else:
            self._note(reaped=self._state.reaped + (reaped.code is not None))

    def _note(self, **changed: Any) -> None:
        self._state = self._state.model_copy(update=changed)

    def _show(self) -> None:
        done = self._state
        workflow.set_current_details(f"{done.examined} open sessions examined, {done.reaped} closed, {len(done.failed)} failed")

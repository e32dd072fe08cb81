"""Sessions whose workflow ended without closing them are closed here (contracts §18). The server's record decides, twice."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlalchemy import Connection

from activities.control.ending import Ended, Ending
from activities.control.executions import Executions
from activities.control.histories import children_of, redacted
from activities.record.blobs import JSON, BlobStore
from activities.record.chain import EventChain
from activities.record.executions import ExecutionRow, ExecutionRows
from activities.record.ledger import Ledger
from activities.record.sessions import OpenSession, Sessions
from activities.record.store import TenantStore, now_ms
from schemas.canonical import jcs
from schemas.event import Actor, EventDraft
from schemas.operations import (
    Abandoned,
    AbandonedCode,
    AbandonedFound,
    ExportedHistory,
    Reaped,
    RunFacts,
    abandoned_as,
)
from schemas.session import CloseReason, Outcome, Signal, step

ENGINE = Actor(principal_id="gen4", kind="engine")
MAX_RUNS = 200
"""Runs of one session that are ended and exported."""


class Reaping:
    """Args:
    kill_sandboxes: ends the sandboxes of a session that run in this process; returns how many there were.
    """

    def __init__(
        self, store: TenantStore, blobs: BlobStore, executions: Executions, kill_sandboxes: Callable[[str], int],
        clock: Callable[[], int] = now_ms,
    ) -> None:  # fmt: skip
        self._store = store
        self._chain = EventChain(store)
        self._sessions = Sessions(store, self._chain)
        self._rows = ExecutionRows(store)
        self._ending = Ending(store, self._chain)
        self._ledger = Ledger(store)
        self._blobs = blobs
        self._executions = executions
        self._kill_sandboxes = kill_sandboxes
        self._clock = clock

    def find(self, after: str, limit: int) -> AbandonedFound:
        """One page of open sessions, each looked up on the server."""
        page = self._sessions.open(after, limit)
        found = [self._abandoned(session_id) for session_id in page]
        return AbandonedFound(
            sessions=tuple(one for one in found if one is not None), examined=len(page),
            next=page[-1] if len(page) == limit else "", overdue=self._sessions.overdue(self._clock()),
        )  # fmt: skip

    def reap(self, session_id: str, effect_key: str) -> Reaped:
        """1. The server is asked again. 2. Children that still run are terminated, every history is kept.
        3. Reservations, leases and approvals end and the session is closed, in one transaction. 4. Its sandboxes go.
        """
        # 1
        found, session = self._abandoned(session_id), self._sessions.get(session_id)
        if found is None or session is None:
            return Reaped(session_id=session_id)
        # 2
        histories, terminated = self._end_runs(session_id, found.workflow_id)
        # 3
        now = self._clock()

        def close(connection: Connection) -> Ended | None:
            if self._sessions.closed(connection, session_id) is not None:
                return None
            reason = f"reaped: the workflow ended as {found.code}"
            ended = self._ending.end(connection, session.keys, by=ENGINE, reason=reason, effect_key=effect_key, now_ms=now)
            drafts = _drafts(session, found.code, histories, effect_key)
            self._chain.append(session.keys, ENGINE, *drafts, connection=connection)
            return ended

        ended = self._store.write(close)
        # 4
        killed = self._kill_sandboxes(session_id)
        if ended is None:
            return Reaped(session_id=session_id, sandboxes=killed)
        return Reaped(
            session_id=session_id, code=found.code, terminated=terminated, voided=ended.voided, revoked=ended.revoked,
            approvals=ended.approvals, sandboxes=killed, histories=histories,
        )  # fmt: skip

    def expire(self) -> int:
        """Reservations past their deadline whose holder can no longer settle them."""
        return self._store.write(lambda connection: self._ledger.expire(connection, self._clock()))

    # -----------------------------------------------------------------------------------------------------------------

    def _abandoned(self, session_id: str) -> Abandoned | None:
        roots = [row for row in self._rows.of_session(session_id) if row.parent_workflow_id is None]
        if not roots:
            return None  # opened by a run that nobody recorded: nothing can be asked
        code = abandoned_as(self._latest(session_id, roots))
        return None if code is None else Abandoned(session_id=session_id, workflow_id=roots[-1].workflow_id, code=code)

    def _latest(self, session_id: str, roots: list[ExecutionRow]) -> RunFacts | None:
        """The last run of the session's workflow; its id may have been given to another session since."""
        latest = self._executions.describe(roots[-1].workflow_id)
        if latest is not None and latest.first_run_id == session_id:
            return latest
        return self._executions.describe(roots[-1].workflow_id, roots[-1].run_id)

    def _end_runs(self, session_id: str, workflow_id: str) -> tuple[tuple[ExportedHistory, ...], int]:
        """Every run of the session that the store or a history of a run names: ended, then exported."""
        waiting = [(row.workflow_id, row.run_id) for row in self._rows.of_session(session_id)]
        seen: set[tuple[str, str]] = set()
        kept: list[ExportedHistory] = []
        terminated = 0
        while waiting and len(seen) < MAX_RUNS:
            run = waiting.pop(0)
            if run in seen:
                continue
            seen.add(run)
            terminated += self._executions.terminate(*run, f"session of {workflow_id} ended")
            history = self._executions.history(*run)
            if history is not None:
                waiting.extend(children_of(history))
                kept.append(self._keep(run, history))
        return tuple(kept), terminated

    def _keep(self, run: tuple[str, str], history: dict[str, Any]) -> ExportedHistory:
        blob = self._blobs.put(jcs(redacted(history)), JSON)
        return ExportedHistory(workflow_id=run[0], run_id=run[1], history=blob)


def _drafts(
    session: OpenSession, code: AbandonedCode, histories: tuple[ExportedHistory, ...], effect_key: str
) -> list[EventDraft]:
    """The machine's last step, if the session has one, and its end."""
    cancelled = code == "CANCELED"
    reason_code: CloseReason = "cancelled" if cancelled else "failed_final"
    outcome: Outcome = "cancelled" if cancelled else "failed"
    reason = f"{code}: the workflow ended without closing its session"
    drafts: list[EventDraft] = []
    if session.state is not None:
        moves = step(session.state, session.state_seq, Signal.CLOSED, stage="reaped", reason_code=reason_code, reason=reason)
        assert isinstance(moves, tuple)  # noqa: S101  a session can be closed in every state
        for move in moves:
            payload = {**move.model_dump(mode="json"), "codes": [code]}
            key = f"{effect_key}/session.transition/{move.state_seq}"
            drafts.append(EventDraft(kind="session.transition", idempotency_key=key, payload=payload))
    codes = [code, "DELIVERED"] if session.delivered else [code]
    payload = {
        "reason_code": reason_code, "reason": reason, "outcome": outcome, "codes": codes, "by": "reaper",
        "histories": [one.model_dump(mode="json") for one in histories],
    }  # fmt: skip
    drafts.append(EventDraft(kind="session.closed", idempotency_key=f"{effect_key}/session.closed", payload=payload))
    return drafts

"""Gathers the facts of one call: each once, and only when a check needs it. Blocking work runs in threads."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from typing import TypeVar

from sqlalchemy import Connection

from activities.kernel.admission import Call, Fact, Standing
from activities.kernel.attempt import Attempt
from activities.kernel.identity import Started, heir_row, predecessor, role_of, root_row
from activities.kernel.kernel import Kernel
from activities.kernel.limiting import check_limits
from activities.kernel.questions import PhaseQuestions, ask_release
from activities.kernel.recording import Recording
from activities.kernel.standing import lacks_lease, server_of
from activities.record.executions import ExecutionRow
from activities.record.store import now_ms
from schemas.error import Gen4Error, InfrastructureError
from schemas.identity import IdentityRefusal, judge_starter, principal_of

T = TypeVar("T")

MAX_LINEAGE = 100
"""Longest chain of parents and continued runs that is read back for a run whose row is missing."""

ReadStarted = Callable[[str, str], Awaitable[Started | None]]
"""(workflow id, run id) → what the server wrote when the run began; None for a run that it does not know."""


class Questions:
    """To the active policy and, where one is tried, to the candidate; each with a memory of its own."""

    def __init__(self, kernel: Kernel) -> None:
        self.active = PhaseQuestions(kernel.policy)
        self.candidate = PhaseQuestions(kernel.rollout.candidate) if kernel.rollout else None


class Inquiry:
    """One per attempt. Every method raises InfrastructureError when store, policy engine or server are down."""

    def __init__(
        self, kernel: Kernel, questions: Questions, attempt: Attempt, namespace: str, read_started: ReadStarted
    ) -> None:
        self._kernel = kernel
        self._questions = questions
        self._attempt = attempt
        self._namespace = namespace
        self._read_started = read_started
        self._recording = Recording(kernel)
        self._standing: Standing | None = None
        self._starter_error: IdentityRefusal | None = None

    async def gather(self, call: Call, fact: Fact) -> Call:
        if fact in call.known:
            return call
        call = replace(call, known=call.known | {fact})
        with self._kernel.metrics.stage(fact):
            match fact:
                case "execution":
                    return await self._execution(call)
                case "standing":
                    return await self._stand(call)
                case "policy":
                    return await self._policy(call)
                case "limits":
                    return replace(call, limit_error=check_limits(call.request, self._kernel.policies.limits))
                case "approval":
                    return await self._approval(call)
                case "candidate":
                    return await self._candidate(call)
        raise AssertionError(f"nobody gathers {fact}")

    # --- 1, 2, 7, 8: the run and how it stands -----------------------------------------------------------------------

    async def _execution(self, call: Call) -> Call:
        attempt = self._attempt
        if not attempt.workflow_id or not attempt.run_id:
            return replace(call, lineage_error="the activity was not started by a workflow")
        if attempt.is_local:
            return replace(call, lineage_error="local activities leave no record of their input")
        if attempt.namespace != self._namespace:
            return replace(call, lineage_error="the activity comes from another namespace")
        row, parent = await in_thread("STORE_UNAVAILABLE", lambda: self._look_up(call))
        if row is None:
            row = await self._make_row(attempt.workflow_id, attempt.run_id, call=call)
        if row is None:
            return replace(call, lineage_error="no run of ours stands behind this call", starter_error=self._starter_error)
        if parent is None and row.parent_workflow_id and row.parent_run_id:
            parent = await self._row(row.parent_workflow_id, row.parent_run_id)
        return replace(call, row=row, parent_phase=parent.phase if parent else "none")

    def _look_up(self, call: Call) -> tuple[ExecutionRow | None, ExecutionRow | None]:
        """The run, its parent, and how it stands, in one read."""
        rows = self._kernel.executions

        def read(connection: Connection) -> tuple[ExecutionRow | None, ExecutionRow | None]:
            row = rows.get(self._attempt.workflow_id, self._attempt.run_id, connection)
            if row is None:
                return None, None
            self._standing = self._load(connection, row, call)
            if not row.parent_workflow_id or not row.parent_run_id:
                return row, None
            return row, rows.get(row.parent_workflow_id, row.parent_run_id, connection)

        return self._kernel.store.read(read)

    async def _row(self, workflow_id: str, run_id: str, depth: int = 0) -> ExecutionRow | None:
        found = await in_thread("STORE_UNAVAILABLE", lambda: self._kernel.executions.get(workflow_id, run_id))
        return found if found is not None or depth > MAX_LINEAGE else await self._make_row(workflow_id, run_id, depth)

    async def _make_row(self, workflow_id: str, run_id: str, depth: int = 0, call: Call | None = None) -> ExecutionRow | None:
        """From the server's record of the start; the rows of parents and predecessors come first.

        Args:
            call: whose own run it is; how that stands is then read in the same go.
        """
        started = await self._read_started(workflow_id, run_id)
        if started is None:
            return None
        before = predecessor(started)
        source = await self._row(*before, depth + 1) if before else None

        def keep() -> ExecutionRow | None:
            heir = heir_row(started, source) if source else None
            made = self._kernel.store.read(partial(self._root, started)) if before is None else heir
            if made is None:
                return None
            return self._recording.keep(made, started.original_run_id, look)

        def look(connection: Connection, kept: ExecutionRow) -> None:
            if call is not None:
                self._standing = self._load(connection, kept, call)

        return await in_thread("STORE_UNAVAILABLE", keep)

    def _root(self, started: Started, connection: Connection) -> ExecutionRow | None:
        kernel, directory = self._kernel, self._kernel.directory
        starter = principal_of(started.stamp_type, started.stamp_name, started.scheduled_by, kernel.identity)
        who = starter if isinstance(starter, IdentityRefusal) else directory.resolve(starter, kernel.operator_id, connection)
        if isinstance(who, IdentityRefusal):
            self._starter_error = who
            return None
        made = root_row(started, kernel.store.tenant_id, who, role_of(directory.roles(who, connection)))
        self._starter_error = judge_starter(directory.principal(who, connection), made.phase) if made else None
        return made if self._starter_error is None else None

    async def _stand(self, call: Call) -> Call:
        row, standing = call.row, self._standing
        if row is None:
            return call
        if standing is None or lacks_lease(standing):
            standing = await in_thread("STORE_UNAVAILABLE", lambda: self._renewed(row, standing, call))
        return replace(call, standing=standing)

    def _renewed(self, row: ExecutionRow, standing: Standing | None, call: Call) -> Standing:
        if standing is not None:
            self._recording.renew_lease(row)
        return self._kernel.store.read(lambda connection: self._load(connection, row, call))

    def _load(self, connection: Connection, row: ExecutionRow, call: Call) -> Standing:
        server = server_of(call.capability, call.request)
        return self._kernel.standings.load(connection, row, call.capability, server, self._attempt.attempt_key, now_ms())

    # --- 5, 9, 11: what the policy says ------------------------------------------------------------------------------

    async def _policy(self, call: Call) -> Call:
        questions = self._questions.active
        known = questions.remembered(call)
        return replace(call, policy=known or await in_thread("POLICY_UNAVAILABLE", lambda: questions.ask(call)))

    async def _approval(self, call: Call) -> Call:
        if call.capability is None or call.capability.side_effect != "irreversible":
            return call
        who = self._attempt.acting(call, self._kernel.store.tenant_id)
        ask = partial(ask_release, self._kernel.policy, self._kernel.store, call, who)
        return replace(call, approval=await in_thread("POLICY_UNAVAILABLE", ask))

    async def _candidate(self, call: Call) -> Call:
        rollout, questions = self._kernel.rollout, self._questions.candidate
        if rollout is None or questions is None or call.row is None:
            return call
        enforced = rollout.enforced(call.row.tenant_id, call.row.session_id)
        known = questions.remembered(call)
        try:
            decision = known or await in_thread("POLICY_UNAVAILABLE", lambda: questions.ask(call))
        except InfrastructureError:
            if enforced:
                raise
            return call  # a candidate that is only watched stops nothing
        return replace(call, candidate=decision, candidate_enforced=enforced)


async def in_thread(code: str, work: Callable[[], T]) -> T:
    """Run blocking ``work`` off the event loop; whatever it raises is an outage of what ``code`` names."""
    try:
        return await asyncio.to_thread(work)
    except Gen4Error:
        raise  # an outage that says so, or a refusal, which waiting does not mend
    except Exception as error:
        raise InfrastructureError(code, f"{type(error).__name__}: {error}", "run `gen4 status`") from error

"""Compile: a candidate of Remediation, or a patch from CI in a session of its own, becomes evidence or a reason why not."""

from __future__ import annotations

import asyncio
from typing import Any

from temporalio import workflow
from temporalio.exceptions import ActivityError, FailureError, is_cancelled_exception

from schemas.capabilities import (
    CLOSE_SESSION,
    FETCH_SOURCE,
    OPEN_SESSION,
    REVIEW_REQUEST,
    CloseSession,
    CompileResult,
    FetchSource,
    OpenSession,
    ReviewRequest,
)
from schemas.details import session_details, stage_details
from schemas.jobs import CompileJob
from schemas.request import CompileRequest, Rejection, SessionResult
from schemas.session import CloseReason, Outcome, State
from schemas.status import SessionStatus
from schemas.task import SessionContext
from schemas.testing import TestPlan
from workflows.calling import call
from workflows.compilation import Compilation
from workflows.doors import accepted, invalid_input, plan_of
from workflows.failing import Stop, failure_of, rejection_of, stop
from workflows.progress import Progress, label
from workflows.verdicts import denial, failed_gate, remedy_of


@workflow.defn(name="Compile")
class Compile:
    """Started by Remediation with a candidate, or by CI with :class:`schemas.request.CompileRequest`."""

    @workflow.init
    def __init__(self, request: Any = None, *extra: Any) -> None:
        self._state = State.INTAKE
        self._result: SessionResult | None = None
        self._asked: CompileRequest | None = None
        self._progress = Progress(self._show)

    @workflow.run
    async def run(self, request: Any = None, *extra: Any) -> CompileResult | SessionResult:
        if workflow.info().parent is not None:
            job = accepted(CompileJob, request, extra)
            label(job.context, "compile", job.source.repository, "medium")
            return await Compilation(job, self._progress).run()
        asked = accepted(CompileRequest, request, extra)
        if (asked.patch is None) == (asked.patch_ref is None):
            raise invalid_input("patch: send a git diff as text, exactly one (a CompileRequest needs repository, patch)")
        return await self._alone(asked, plan_of(asked.test_command))

    @workflow.query(name="status", description="Stages, state and, once it is closed, the result")
    def status(self) -> SessionStatus:
        return SessionStatus(state=self._state, stages=self._progress.stages, result=self._result)

    # --- started by CI -----------------------------------------------------------------------------------------------

    async def _alone(self, asked: CompileRequest, plan: TestPlan) -> SessionResult:
        """A session of its own, without the state machine: intake, policy, source, compile, close."""
        self._asked = asked
        try:
            with self._progress.stage("intake"):
                context = await call(
                    OPEN_SESSION,
                    OpenSession(
                        kind="compile", repository=asked.repository, ref=asked.ref, limits=asked.limits,
                        budget=asked.budget.amounts if asked.budget else None,
                    ),
                    summary="open the session",
                )
        except ActivityError as error:
            if is_cancelled_exception(error):
                raise
            refused = rejection_of(error, "intake")
            raise invalid_input(f"{', '.join(refused.codes)}: {refused.message} — {refused.remedy}") from None
        label(context, "compile", asked.repository, "medium")
        try:
            self._state = State.EXECUTING
            job = await self._admitted(asked, plan, context)
            compiled = await Compilation(job, self._progress).run()
            result = self._session_result(context, compiled)
            ending: tuple[CloseReason, Outcome | None] = ("compiled", result.outcome)
        except Stop as stopped:
            result, ending = self._rejected(context, stopped.rejection, stopped.outcome), (stopped.reason_code, stopped.outcome)
        except (FailureError, asyncio.CancelledError) as error:
            if is_cancelled_exception(error):
                await self._close(context, "cancelled", "cancelled", None)
                raise
            if (failure := failure_of(error)) is not None and failure.type == "RUN_RESET":
                raise failure from None
            why = rejection_of(error, "compile")
            killed = "KILL_SWITCH" in why.codes
            ending = ("kill_switch", "cancelled") if killed else ("failed_final", "failed")
            result = self._rejected(context, why, "cancelled" if killed else "failed")
        await self._close(context, *ending, result.rejection)
        self._result = result
        self._show()
        return result

    async def _admitted(self, asked: CompileRequest, plan: TestPlan, context: SessionContext) -> CompileJob:
        with self._progress.stage("policy review"):
            review = await call(
                REVIEW_REQUEST,
                ReviewRequest(
                    repository=asked.repository, ref=asked.ref, budget=asked.budget.amounts if asked.budget else {}
                ),
                summary="is it admitted?",
            )
            if review.decision != "allow":
                raise stop("policy review", *denial(review), outcome="rejected")
        with self._progress.stage("fetch source"):
            source = await call(FETCH_SOURCE, FetchSource(repository=asked.repository, ref=asked.ref), summary="the base commit")
        return CompileJob(
            context=context, source=source, plan=plan, requirements=asked.requirements, failing_tests=asked.failing_tests,
            limits=context.config.limits, patch=asked.patch, patch_ref=asked.patch_ref,
        )  # fmt: skip

    async def _close(
        self, context: SessionContext, reason: CloseReason, outcome: Outcome | None, rejection: Rejection | None
    ) -> None:
        text = f"{', '.join(rejection.codes)}: {rejection.message}" if rejection else ""
        await call(
            CLOSE_SESSION, CloseSession(reason_code=reason, outcome=outcome, reason=text[:2_000]), summary="close the session"
        )
        self._state = State.CLOSED

    def _session_result(self, context: SessionContext, compiled: CompileResult) -> SessionResult:
        if compiled.verdict != "accepted":
            rejection = Rejection(
                stage=failed_gate(compiled) or "compile",
                codes=compiled.codes,
                message=compiled.message,
                remedy=remedy_of(compiled),
            )
            return self._rejected(context, rejection, "failed" if compiled.verdict == "infra_error" else "rejected")
        assert compiled.bundle is not None  # noqa: S101  an accepted patch has its bundle
        return SessionResult(
            **_identity(context), state=State.CLOSED, fix=compiled.fix, bundle=compiled.bundle.directory,
            bundle_digest=compiled.bundle.bundle_digest, trust=compiled.trust,
        )  # fmt: skip

    def _rejected(self, context: SessionContext, rejection: Rejection, outcome: Outcome) -> SessionResult:
        return SessionResult(
            **_identity(context), state=State.CLOSED, outcome=outcome, codes=rejection.codes, rejection=rejection
        )

    def _show(self) -> None:
        if self._asked is None:
            workflow.set_current_details(stage_details("Compile", self._progress.stages))
        else:
            id = workflow.info().workflow_id
            goal = "compile a patch"
            workflow.set_current_details(
                session_details(self.status(), workflow_id=id, repository=self._asked.repository, goal=goal)
            )


def _identity(context: SessionContext) -> dict[str, Any]:
    info = workflow.info()
    return {"workflow_id": info.workflow_id, "run_id": info.run_id, "session_id": context.keys.session_id}

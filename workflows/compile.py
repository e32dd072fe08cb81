"""Compile: a candidate of Remediation, or a patch from CI in a session of its own, becomes evidence or a reason why not."""

from __future__ import annotations

from typing import Any

from temporalio import workflow

from schemas.capabilities import FETCH_SOURCE, CompileResult, FetchSource, OpenSession, ReviewRequest
from schemas.details import session_details, stage_details
from schemas.jobs import CompileJob
from schemas.request import CompileRequest, Rejection, SessionResult
from schemas.session import Outcome, State
from schemas.status import SessionStatus
from schemas.task import SessionContext
from schemas.testing import TestPlan
from workflows.alone import Ending, admitted, alone
from workflows.calling import call
from workflows.compilation import Compilation
from workflows.doors import accepted, invalid_input, plan_of
from workflows.earlier_compilation import EarlierCompilation
from workflows.progress import Progress, label
from workflows.verdicts import failed_gate, remedy_of

MEASURED = "compile.measured"
"""Patch id of workflows that began after 0.1: runs are measured, recalled and put to the proof, a refusal is reported."""


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
            return await self._compiled(job)
        asked = accepted(CompileRequest, request, extra)
        if (asked.patch is None) == (asked.patch_ref is None):
            raise invalid_input("patch: send a git diff as text, exactly one (a CompileRequest needs repository, patch)")
        return await self._alone(asked, plan_of(asked.test_command))

    @workflow.query(name="status", description="Stages, state and, once it is closed, the result")
    def status(self) -> SessionStatus:
        return SessionStatus(state=self._state, stages=self._progress.stages, result=self._result)

    async def _compiled(self, job: CompileJob) -> CompileResult:
        if workflow.patched(MEASURED):
            return await Compilation(job, self._progress).run()
        return await EarlierCompilation(job, self._progress).run()

    # --- started by CI -----------------------------------------------------------------------------------------------

    async def _alone(self, asked: CompileRequest, plan: TestPlan) -> SessionResult:
        """A session of its own, without the state machine: intake, policy, source, compile, close."""
        self._asked = asked
        opening = OpenSession(
            kind="compile", repository=asked.repository, ref=asked.ref, limits=asked.limits,
            budget=asked.budget.amounts if asked.budget else None,
        )  # fmt: skip

        async def work(context: SessionContext) -> tuple[SessionResult, Ending]:
            compiled = await self._compiled(await self._admitted(asked, plan, context))
            result = self._session_result(context, compiled)
            return result, ("compiled", result.outcome, result.rejection)

        result = await alone(opening, "compile", self._progress, work, self._rejected, self._begun)
        self._state, self._result = State.CLOSED, result
        self._show()
        return result

    def _begun(self) -> None:
        self._state = State.EXECUTING

    async def _admitted(self, asked: CompileRequest, plan: TestPlan, context: SessionContext) -> CompileJob:
        budget = asked.budget.amounts if asked.budget else {}
        await admitted(ReviewRequest(repository=asked.repository, ref=asked.ref, budget=budget), self._progress)
        with self._progress.stage("fetch source"):
            source = await call(FETCH_SOURCE, FetchSource(repository=asked.repository, ref=asked.ref), summary="the base commit")
        return CompileJob(
            context=context, source=source, plan=plan.model_copy(update={"frozen_clock": asked.frozen_clock}),
            requirements=asked.requirements, failing_tests=asked.failing_tests, limits=context.config.limits, patch=asked.patch,
            patch_ref=asked.patch_ref, cache=asked.cache, waivers=asked.waivers,
            runs=asked.runs, benchmark=asked.benchmark, benchmark_runs=asked.benchmark_runs,
        )  # fmt: skip

    def _session_result(self, context: SessionContext, compiled: CompileResult) -> SessionResult:
        if compiled.verdict != "accepted":
            rejection = Rejection(
                stage=failed_gate(compiled) or "compile",
                codes=compiled.codes,
                message=compiled.message,
                remedy=remedy_of(compiled),
                report=compiled.rejection.directory if compiled.rejection else None,
                infrastructure=compiled.verdict == "infra_error",
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

"""Compile: from a patch to a signed Evidence Bundle, or to the gate and codes that say why not. Never a model.

1. The patch is imported: its tree, and that tree with the tests and test configuration of base laid over it.
2. Policy reviews what it touches.
3. The environment is prepared from the base tree.
4. Both trees are run twice, each time in a fresh sandbox.
5. The runs are judged by test ids.
6. Members 1-6 of the bundle are assembled; the Regression Gate reads them.
7. Everything from 1 to 6 is done again from the members and the content store; the Determinism Gate compares the bytes.
8. The bundle is sealed, and the Trust Gate verifies what lies on the disk.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, Literal

from temporalio import workflow
from temporalio.exceptions import ActivityError, FailureError, is_cancelled_exception

from schemas.capabilities import (
    ASSEMBLE_MEMBERS,
    CLOSE_SESSION,
    DETERMINISM_GATE,
    FETCH_SOURCE,
    IMPORT_PATCH,
    JUDGE_RUNS,
    OPEN_SESSION,
    PREPARE_ENVIRONMENT,
    REGRESSION_GATE,
    REREAD_PATCH,
    REVIEW_PATCH,
    REVIEW_REQUEST,
    RUN_TESTS,
    SEAL_BUNDLE,
    TRUST_GATE,
    AssembleMembers,
    CloseSession,
    CompileResult,
    DeterminismInput,
    FetchSource,
    ImportedPatch,
    ImportPatch,
    Judged,
    JudgeRuns,
    Members,
    OpenSession,
    PrepareEnvironment,
    ReadMembers,
    RegressionInput,
    ReviewPatch,
    ReviewRequest,
    RunTests,
    SealBundle,
    VerifyBundle,
)
from schemas.details import session_details, stage_details
from schemas.evidence import TEST_RESULTS
from schemas.gates import Check, GateReport
from schemas.jobs import CompileJob
from schemas.policy import PolicyDecision
from schemas.request import CompileRequest, Rejection, SessionResult
from schemas.session import CloseReason, Outcome, State
from schemas.status import SessionStatus
from schemas.task import SessionContext
from schemas.testing import Environment, Patch, TestPlan, TestRun
from workflows.calling import call
from workflows.doors import accepted, invalid_input, plan_of
from workflows.failing import Stop, failure_of, rejection_of, stop
from workflows.progress import Progress, label
from workflows.verdicts import denial, failed_gate, remedy_of

ENGINE_OF_CI = ("external", "1")


@dataclass(frozen=True)
class Runs:
    """The runs of both trees; the first of each is what the bundle reports."""

    base: tuple[TestRun, ...]
    patched: tuple[TestRun, ...]


@dataclass(frozen=True)
class Evidence:
    """Steps 1 to 6 of one pass."""

    imported: ImportedPatch
    policy: PolicyDecision
    environment: Environment
    runs: Runs
    judged: Judged
    regression: GateReport
    members: Members


@workflow.defn(name="Compile")
class Compile:
    """Started by Remediation with a candidate, or by CI with :class:`schemas.request.CompileRequest`."""

    @workflow.init
    def __init__(self, request: Any = None, *extra: Any) -> None:
        self._state = State.INTAKE
        self._result: SessionResult | None = None
        self._asked: CompileRequest | None = None
        self._gates: tuple[GateReport, ...] = ()
        self._progress = Progress(self._show)

    @workflow.run
    async def run(self, request: Any = None, *extra: Any) -> CompileResult | SessionResult:
        if workflow.info().parent is not None:
            job = accepted(CompileJob, request, extra)
            label(job.context, "compile", job.source.repository, "medium")
            return await self._judged(job)
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
                    OpenSession(kind="compile", repository=asked.repository, ref=asked.ref),
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
            compiled = await self._judged(job)
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
            result, ending = self._rejected(context, rejection_of(error, "compile"), "failed"), ("failed_final", "failed")
        await self._close(context, *ending, result.rejection)
        self._result = result
        self._show()
        return result

    async def _admitted(self, asked: CompileRequest, plan: TestPlan, context: SessionContext) -> CompileJob:
        with self._progress.stage("policy review"):
            review = await call(
                REVIEW_REQUEST, ReviewRequest(repository=asked.repository, ref=asked.ref), summary="is it admitted?"
            )
            if review.decision != "allow":
                raise stop("policy review", *denial(review), outcome="rejected")
        with self._progress.stage("fetch source"):
            source = await call(FETCH_SOURCE, FetchSource(repository=asked.repository, ref=asked.ref), summary="the base commit")
        return CompileJob(
            context=context, source=source, plan=plan, requirements=asked.requirements, failing_tests=asked.failing_tests,
            patch=asked.patch, patch_ref=asked.patch_ref,
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

    # --- the eight steps ---------------------------------------------------------------------------------------------

    async def _judged(self, job: CompileJob) -> CompileResult:
        first = await self._evidence(job, ImportPatch(**_patch_of(job), source=job.source), job.context.config.runs)
        if isinstance(first, CompileResult):
            return first
        rerun = await self._again(job, first)
        if isinstance(rerun, CompileResult):
            return rerun
        determinism = await self._gate("determinism gate", self._determinism(job, first, rerun))
        if determinism.verdict != "pass":
            return self._failed_gate(first.imported.patch, first.policy, first.judged, determinism)
        with self._progress.stage("seal bundle"):
            sealed = await call(SEAL_BUNDLE, self._seal(job, first, rerun, determinism), summary="sign the evidence")
        verify = call(TRUST_GATE, VerifyBundle(bundle=sealed.bundle, source=job.source), summary="verify the sealed bundle")
        trust = await self._gate("trust gate", verify)
        if trust.verdict != "pass":
            return self._failed_gate(first.imported.patch, first.policy, first.judged, trust)
        return self._done(job, first, verdict="accepted", message=first.judged.message, bundle=sealed.bundle, trust=sealed.trust)

    async def _evidence(self, job: CompileJob, request: ImportPatch, runs: int) -> Evidence | CompileResult:
        """Steps 1 to 6; a result where the patch fails on the way."""
        with self._progress.stage("import patch"):
            imported = await call(IMPORT_PATCH, request, summary="the patched tree")
        with self._progress.stage("review patch"):
            policy = await call(REVIEW_PATCH, ReviewPatch(patch=imported.patch), summary="may it touch this?")
        if policy.decision != "allow":
            codes, message, _ = denial(policy)
            return self._stopped("rejected", codes, message, imported.patch, policy)
        environment = await self._environment(job)
        ran = await self._run_trees(job, imported, environment, "base", "patched", runs)
        with self._progress.stage("judge"):
            judged = await self._judge(job, ran)
        regression = await self._gate("regression gate", self._regression(job, judged))
        if judged.verdict != "accepted":
            return self._stopped(judged.verdict, judged.codes, judged.message, imported.patch, policy, judged)
        if regression.verdict != "pass":
            return self._failed_gate(imported.patch, policy, judged, regression)
        members = await self._assemble(job, imported.patch, environment, ran, judged, policy)
        return Evidence(imported, policy, environment, ran, judged, regression, members)

    async def _again(self, job: CompileJob, first: Evidence) -> Evidence | CompileResult:
        """Step 7: nothing of the first pass is used but the members and the content store."""
        with self._progress.stage("re-run from the members"):
            request = await call(
                REREAD_PATCH, ReadMembers(members=first.members, source=job.source), summary="the patch as recorded"
            )
            imported = await call(IMPORT_PATCH, request, summary="the patched tree, again")
            environment = await call(PREPARE_ENVIRONMENT, self._environment_request(job), summary="the environment, again")
            rerun = await self._run_trees(job, imported, environment, "rerun", "rerun", 1)
            # A verdict needs two runs of each tree, so the re-run is held against the first run of the first pass.
            both = Runs((*rerun.base, first.runs.base[0]), (*rerun.patched, first.runs.patched[0]))
            judged = await self._judge(job, both)
            if judged.verdict != "accepted":
                return self._differs(first, judged)
            members = await self._assemble(job, imported.patch, environment, rerun, judged, first.policy)
        return Evidence(imported, first.policy, environment, rerun, judged, first.regression, members)

    async def _environment(self, job: CompileJob) -> Environment:
        with self._progress.stage("prepare environment"):
            return await call(PREPARE_ENVIRONMENT, self._environment_request(job), summary="dependencies of the base tree")

    def _environment_request(self, job: CompileJob) -> PrepareEnvironment:
        return PrepareEnvironment(base_tree=job.source.base_tree, requirements=job.requirements)

    async def _run_trees(
        self, job: CompileJob, imported: ImportedPatch, environment: Environment,
        base: Literal["base", "rerun"], patched: Literal["patched", "rerun"], runs: int,
    ) -> Runs:  # fmt: skip
        async def run_tree(tree: str, purpose: Literal["base", "patched", "rerun"], name: str) -> tuple[TestRun, ...]:
            request = RunTests(
                tree=tree,
                environment=environment,
                plan=job.plan,
                limits=job.limits,
                commit_time=job.source.commit_time,
                purpose=purpose,
            )
            with self._progress.stage(f"run {name}"):
                numbered = (request.model_copy(update={"ordinal": ordinal}) for ordinal in range(1, runs + 1))
                return tuple(
                    await asyncio.gather(*(call(RUN_TESTS, one, summary=f"{name}, run {one.ordinal}") for one in numbered))
                )

        return Runs(
            await run_tree(job.source.base_tree, base, "base tree"),
            await run_tree(imported.harness_tree, patched, "patched tree"),
        )

    async def _judge(self, job: CompileJob, runs: Runs) -> Judged:
        request = JudgeRuns(base=runs.base, patched=runs.patched, named_targets=job.failing_tests)
        return await call(JUDGE_RUNS, request, summary="by test ids")

    async def _assemble(
        self, job: CompileJob, patch: Patch, environment: Environment, runs: Runs, judged: Judged, policy: PolicyDecision
    ) -> Members:
        return await call(
            ASSEMBLE_MEMBERS,
            AssembleMembers(
                source=job.source, patch=patch, environment=environment, plan=job.plan, base=runs.base[0],
                patched=runs.patched[0], judged=judged, policy=policy,
                trajectory=job.candidate.trajectory if job.candidate else None,
            ),
            summary="members 1-6 of the bundle",
        )  # fmt: skip

    async def _gate(self, name: str, verdict: Any) -> GateReport:
        with self._progress.stage(name):
            report: GateReport = await verdict
            self._progress.note(report.verdict + ("" if report.verdict == "pass" else f": {', '.join(report.codes)}"))
        self._gates += (report,)
        return report

    async def _regression(self, job: CompileJob, judged: Judged) -> GateReport:
        request = RegressionInput(judged=judged, baseline_commit=job.source.base_commit)
        return await call(REGRESSION_GATE, request, summary="nothing that passed may fail")

    async def _determinism(self, job: CompileJob, first: Evidence, rerun: Evidence) -> GateReport:
        request = DeterminismInput(
            first=first.members, rerun=rerun.members, runs=job.context.config.runs, isolation="fresh_sandbox"
        )
        return await call(DETERMINISM_GATE, request, summary="the same bytes again")

    def _seal(self, job: CompileJob, first: Evidence, rerun: Evidence, determinism: GateReport) -> SealBundle:
        candidate = job.candidate
        name, version = (candidate.engine, candidate.engine_version) if candidate else ENGINE_OF_CI
        return SealBundle(
            source=job.source, patch=first.imported.patch, environment=first.environment, plan=job.plan, limits=job.limits,
            base=first.runs.base[0], patched=first.runs.patched[0], judged=first.judged, policy=first.policy,
            members=first.members, regression=first.regression, determinism=determinism,
            rerun_bundle_digest=rerun.members.bundle_digest, runs=job.context.config.runs,
            candidate_id=candidate.candidate_id if candidate else first.imported.patch.patch_sha256[:12],
            explorer_name=name, explorer_version=version,
        )  # fmt: skip

    # --- results -----------------------------------------------------------------------------------------------------

    def _failed_gate(self, patch: Patch, policy: PolicyDecision, judged: Judged, report: GateReport) -> CompileResult:
        failed = [check for check in report.checks if check.checked and not check.ok]
        message = (
            "; ".join(f"{check.code}: {check.reason or check.actual}" for check in failed)
            or f"the {report.gate} gate did not pass"
        )
        verdict: Literal["irreproducible", "rejected"] = "irreproducible" if report.gate == "determinism" else "rejected"
        return self._stopped(verdict, report.codes or (f"{report.gate.upper()}_GATE",), message, patch, policy, judged)

    def _differs(self, first: Evidence, judged: Judged) -> CompileResult:
        """The re-run came to other outcomes, so its members would differ: the Determinism Gate fails on the test results."""
        check = Check(
            code="DET_DIGEST", ok=False, member=TEST_RESULTS, reason=judged.message,
            remedy="make the named tests give the same outcome every time",
        )  # fmt: skip
        verdict: Literal["inconclusive", "fail"] = "inconclusive" if judged.verdict == "infra_error" else "fail"
        report = GateReport(gate="determinism", verdict=verdict, checks=(check,))
        self._gates += (report,)
        outcome: Literal["infra_error", "irreproducible"] = "infra_error" if verdict == "inconclusive" else "irreproducible"
        codes = (check.code, *judged.codes)
        return self._stopped(outcome, codes, judged.message, first.imported.patch, first.policy, first.judged)

    def _stopped(
        self, verdict: Literal["accepted", "rejected", "irreproducible", "infra_error"], codes: tuple[str, ...], message: str,
        patch: Patch, policy: PolicyDecision, judged: Judged | None = None,
    ) -> CompileResult:  # fmt: skip
        return CompileResult(
            verdict=verdict, codes=codes, message=message[:2_000], fix=judged.fix if judged else "none", patch=patch,
            policy=policy, gates=self._gates, stages=self._progress.stages,
        )  # fmt: skip

    def _done(self, job: CompileJob, first: Evidence, **found: Any) -> CompileResult:
        return CompileResult(
            codes=(), fix=first.judged.fix, source=job.source, patch=first.imported.patch, policy=first.policy, gates=self._gates,
            stages=self._progress.stages, **found,
        )  # fmt: skip

    def _show(self) -> None:
        if self._asked is None:
            workflow.set_current_details(stage_details("Compile", self._progress.stages))
        else:
            id = workflow.info().workflow_id
            goal = "compile a patch"
            workflow.set_current_details(
                session_details(self.status(), workflow_id=id, repository=self._asked.repository, goal=goal)
            )


def _patch_of(job: CompileJob) -> dict[str, Any]:
    if job.candidate is not None:
        return {"patch_ref": job.candidate.patch.diff}
    return {"patch": job.patch, "patch_ref": job.patch_ref}


def _identity(context: SessionContext) -> dict[str, Any]:
    info = workflow.info()
    return {"workflow_id": info.workflow_id, "run_id": info.run_id, "session_id": context.keys.session_id}

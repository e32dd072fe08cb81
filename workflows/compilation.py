"""From a patch to a signed Evidence Bundle, or to the gate and codes that say why not. Never a model.

1. The patch is imported: its tree, that tree with the tests and test configuration of base laid over it, and the same
   with every touched function raising.
2. Policy reviews what it touches.
3. The environment is prepared from the base tree, beside 1 and 2.
4. Both trees are run side by side, each time in a fresh sandbox, or their agreed runs are recalled from the cache.
5. The runs are judged by test ids. A verdict that would accept is put to the proof: the mended tests must fail while the
   touched functions raise, and runs with another hash seed and in reversed order must not show a flake that base has not.
   Runs that disagree are explained the same way.
6. Both trees are scanned and, where asked for, a benchmark is run on them; the Regression Gate compares what was measured.
7. Members 1-6 of the bundle are assembled. Everything is done again from them and the content store; the Determinism Gate
   compares the bytes.
8. The bundle is sealed, and the Trust Gate verifies what lies on the disk.

Whatever is refused on the way gets a signed Rejection Report instead of a stamp.
"""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Any, Literal

from temporalio.exceptions import ActivityError

from schemas.capabilities import (
    ASSEMBLE_MEMBERS,
    DETERMINISM_GATE,
    IMPORT_PATCH,
    JUDGE_RUNS,
    PREPARE_ENVIRONMENT,
    REGRESSION_GATE,
    REVIEW_PATCH,
    SEAL_BUNDLE,
    TRUST_GATE,
    AssembleMembers,
    CompileResult,
    DeterminismInput,
    DiagnosticRun,
    ImportedPatch,
    ImportPatch,
    Judged,
    JudgeRuns,
    Members,
    PrepareEnvironment,
    RegressionInput,
    ReviewPatch,
    SealBundle,
    VerifyBundle,
)
from schemas.evidence import PATCH, TEST_RESULTS
from schemas.gates import Check, GateReport
from schemas.jobs import CompileJob
from schemas.policy import PolicyDecision
from schemas.testing import Environment, Patch, TestRun
from schemas.verdict import Verdict
from workflows.calling import beside, call, together
from workflows.failing import rejection_of
from workflows.measuring import Measuring
from workflows.progress import Progress
from workflows.rejecting import NotAccepted, seal_rejection
from workflows.tree_runs import Runs, TreeRuns
from workflows.verdicts import denial

ENGINE_OF_CI = ("external", "1")


@dataclass(frozen=True)
class Trial:
    """Steps 1 to 5: what became of the patch, and the verdict by its runs."""

    imported: ImportedPatch
    policy: PolicyDecision
    environment: Environment
    runs: Runs
    probe: TestRun | None
    judged: Judged


@dataclass(frozen=True)
class Compared:
    """Step 6: all that the gate saw, and what it said."""

    measured: RegressionInput
    report: GateReport


@dataclass(frozen=True)
class Rerun:
    """Step 7."""

    runs: Runs
    environment: Environment
    members: Members


class Compilation:
    """One patch on its way through the eight steps. ``progress``: of the workflow that runs it."""

    def __init__(self, job: CompileJob, progress: Progress) -> None:
        self._job = job
        self._progress = progress
        self._gates: tuple[GateReport, ...] = ()
        self._trees = TreeRuns(job, progress)
        self._measuring = Measuring(job, progress)

    async def run(self) -> CompileResult:
        try:
            return await self._accepted()
        except NotAccepted as refused:
            result = refused.result(self._gates)
            report = await seal_rejection(self._progress, refused.sealing(self._job, result))
            return result.model_copy(update={"rejection": report, "stages": self._progress.stages})

    async def _accepted(self) -> CompileResult:
        """All eight steps. Raises NotAccepted at the first that says no."""
        request = ImportPatch(**patch_of(self._job), source=self._job.source, named_tests=self._job.plan.named_tests)
        (imported, policy), environment = await beside(self._reviewed(request), self._environment())
        trial = await self._judged(imported, policy, environment)
        compared, members, rerun = await self._compared_and_rerun(trial)
        determinism = await self._gate("determinism", self._determinism(trial, members, rerun), trial)
        with self._progress.stage("seal bundle"):
            evidence = self._evidence(trial, compared, members, rerun, determinism)
            sealed = await call(SEAL_BUNDLE, evidence, summary="sign the evidence")
        verify = call(TRUST_GATE, VerifyBundle(bundle=sealed.bundle, source=self._job.source), summary="verify the sealed bundle")
        await self._gate("trust", verify, trial)
        return CompileResult(
            verdict="accepted", codes=(), message=trial.judged.message, fix=trial.judged.fix, source=self._job.source,
            patch=imported.patch, policy=policy, gates=self._gates, stages=self._progress.stages, flakes=trial.judged.flakes,
            bundle=sealed.bundle, trust=sealed.trust,
        )  # fmt: skip

    # --- steps -------------------------------------------------------------------------------------------------------

    async def _reviewed(self, request: ImportPatch) -> tuple[ImportedPatch, PolicyDecision]:
        """Steps 1 and 2."""
        try:
            with self._progress.stage("import patch"):
                imported = await call(IMPORT_PATCH, request, summary="the patched tree")
        except ActivityError as error:
            why = rejection_of(error, "import patch")
            if not why.codes[0].startswith("PATCH_"):
                raise
            # What is no patch, or does not apply, is a bad patch, not a failure of ours.
            raise NotAccepted("rejected", why.codes, why.message, offered=request.offered) from None
        with self._progress.stage("review patch"):
            policy = await call(REVIEW_PATCH, ReviewPatch(patch=imported.patch), summary="may it touch this?")
        if policy.decision != "allow":
            codes, message, _ = denial(policy)
            raise NotAccepted("rejected", codes, message, patch=imported.patch, policy=policy)
        return imported, policy

    async def _environment(self) -> Environment:
        """Step 3."""
        with self._progress.stage("prepare environment"):
            return await call(PREPARE_ENVIRONMENT, self._environment_request(), summary="dependencies of the base tree")

    async def _judged(self, imported: ImportedPatch, policy: PolicyDecision, environment: Environment) -> Trial:
        """Steps 4 and 5."""
        ran, probe = await self._trees.verdict_runs(imported, environment)
        with self._progress.stage("judge"):
            judged = await self._judge(ran, probe)
        if probe is None or probe.variant.only != judged.mended:
            judged, probe = await self._put_to_the_proof(imported, environment, ran, judged)
        trial = Trial(imported, policy, environment, ran, probe, judged)
        if judged.verdict in ("accepted", "rejected"):
            # What was not put to the proof is not kept: a later Compile of equal trees would skip it, too.
            proven = (ran.patched, *(((probe,),) if probe else ())) if judged.verdict == "accepted" else ()
            await self._trees.remember(ran.base, *proven)
        if any(run.run_key in self._trees.irreproducible for run in ran.patched):
            # Two Compiles each had runs that agree, and the two differ: whichever came first was luck.
            message = "an earlier Compile of an equal patched tree got other results, each of them twice"
            raise _refused("irreproducible", ("CACHE_CONFLICT", *judged.codes), message, trial)
        return trial

    async def _put_to_the_proof(
        self, imported: ImportedPatch, environment: Environment, ran: Runs, judged: Judged
    ) -> tuple[Judged, TestRun | None]:
        """The runs that test the tests, where the verdict would accept or runs disagree, and the verdict with them."""
        probe: TestRun | None = None
        diagnostics: tuple[DiagnosticRun, ...] = ()
        if judged.verdict == "accepted":
            probe = await self._trees.probe(imported, environment, judged)
        if judged.verdict == "accepted" or not ran.agree:
            diagnostics = await self._trees.diagnostics(imported, environment, ran)
        if probe is not None or diagnostics:
            with self._progress.stage("judge the proof"):
                judged = await self._judge(ran, probe, diagnostics)
        return judged, probe

    async def _compared_and_rerun(self, trial: Trial) -> tuple[Compared, Members, Rerun]:
        """Steps 6 and 7; at once where the re-run executes nothing, else the gate decides whether it is worth it."""
        regression = self._compared(trial)
        if trial.runs.reused and trial.judged.verdict == "accepted":
            compared, (members, rerun) = await together(regression, self._twice(trial))
        else:
            compared = await regression
            members, rerun = await self._twice(trial)
        return compared, members, rerun

    async def _compared(self, trial: Trial) -> Compared:
        """Step 6. The gate looks at every judgement, so that a rejection names it."""
        judged = trial.judged
        measured = await self._measuring.measured(trial.imported, trial.environment, trial.runs, judged)
        verdict = call(REGRESSION_GATE, measured, summary="nothing that was good may get worse")
        report = await self._gate("regression", verdict, trial, pass_on=judged.verdict != "accepted")
        if judged.verdict != "accepted":
            raise _refused(judged.verdict, judged.codes, judged.message, trial)
        return Compared(measured, report)

    async def _twice(self, trial: Trial) -> tuple[Members, Rerun]:
        """Step 7: of the first pass nothing is used again but the members and the content store."""
        with self._progress.stage("assemble members"):
            members = await self._assemble(trial.imported.patch, trial.environment, trial.runs, trial.judged, trial.policy)
        with self._progress.stage("re-run from the members"):
            recorded = members.blobs[PATCH]
            request = ImportPatch(source=self._job.source, patch_ref=recorded, named_tests=self._job.plan.named_tests)
            imported, environment = await together(
                call(IMPORT_PATCH, request, summary="the patched tree, again"),
                call(PREPARE_ENVIRONMENT, self._environment_request(), summary="the environment, again"),
            )
            runs = await self._trees.rerun(imported, environment, trial.runs)
            # A verdict needs two runs of each tree, so the re-run is held against the first run of the first pass.
            judged = await self._judge(Runs((*runs.base, trial.runs.base[0]), (*runs.patched, trial.runs.patched[0])))
            if judged.verdict != "accepted":
                raise self._differs(trial, judged)
            again = await self._assemble(imported.patch, environment, runs, judged, trial.policy)
        return members, Rerun(runs, environment, again)

    # --- calls -------------------------------------------------------------------------------------------------------

    def _environment_request(self) -> PrepareEnvironment:
        return PrepareEnvironment(
            base_tree=self._job.source.base_tree, requirements=self._job.requirements, runner=self._job.plan.runner
        )

    async def _judge(
        self, runs: Runs, probe: TestRun | None = None, diagnostics: tuple[DiagnosticRun, ...] = ()
    ) -> Judged:
        request = JudgeRuns(
            base=runs.base, patched=runs.patched, named_targets=self._job.failing_tests, probe=probe, diagnostics=diagnostics,
            waived_tests=self._job.waived_tests,
        )  # fmt: skip
        return await call(JUDGE_RUNS, request, summary="by test ids")

    async def _assemble(
        self, patch: Patch, environment: Environment, runs: Runs, judged: Judged, policy: PolicyDecision
    ) -> Members:
        return await call(
            ASSEMBLE_MEMBERS,
            AssembleMembers(
                source=self._job.source, patch=patch, environment=environment, plan=self._job.plan, base=runs.base[0],
                patched=runs.patched[0], judged=judged, policy=policy,
                trajectory=self._job.candidate.trajectory if self._job.candidate else None,
            ),
            summary="members 1-6 of the bundle",
        )  # fmt: skip

    async def _gate(
        self, name: str, verdict: Awaitable[GateReport], trial: Trial, *, pass_on: bool = False
    ) -> GateReport:
        """The report of a gate. Raises NotAccepted where it did not pass, unless ``pass_on``."""
        with self._progress.stage(f"{name} gate") as note:
            report = await verdict
            note(report.verdict + ("" if report.verdict == "pass" else f": {', '.join(report.codes)}"))
        self._gates += (report,)
        if report.verdict == "pass" or pass_on:
            return report
        outcome: Verdict = "irreproducible" if name == "determinism" else "rejected"
        codes = report.codes or (f"{name.upper()}_GATE",)
        raise _refused(outcome, codes, report.why or f"the {name} gate did not pass", trial)

    def _differs(self, trial: Trial, judged: Judged) -> NotAccepted:
        """The re-run came to other outcomes, so its members would differ: the Determinism Gate fails on the test results."""
        check = Check(
            code="DET_DIGEST", ok=False, member=TEST_RESULTS, reason=judged.message,
            remedy="make the named tests give the same outcome every time",
        )  # fmt: skip
        machine = judged.verdict == "infra_error"
        self._gates += (GateReport(gate="determinism", verdict="inconclusive" if machine else "fail", checks=(check,)),)
        outcome: Verdict = "infra_error" if machine else "irreproducible"
        return _refused(outcome, (check.code, *judged.codes), judged.message, trial)

    async def _determinism(self, trial: Trial, members: Members, rerun: Rerun) -> GateReport:
        request = DeterminismInput(
            first=members, rerun=rerun.members, runs=len(trial.runs.base), isolation=_isolation(trial, rerun),
            reused=rerun.runs.reused, first_runs=trial.runs.all, rerun_runs=rerun.runs.all,
            environment=trial.environment, rerun_environment=rerun.environment,
        )  # fmt: skip
        return await call(DETERMINISM_GATE, request, summary="the same bytes again")

    def _evidence(
        self, trial: Trial, compared: Compared, members: Members, rerun: Rerun, determinism: GateReport
    ) -> SealBundle:
        candidate, measured = self._job.candidate, compared.measured
        name, version = (candidate.engine, candidate.engine_version) if candidate else ENGINE_OF_CI
        return SealBundle(
            source=self._job.source, patch=trial.imported.patch, environment=trial.environment, plan=self._job.plan,
            limits=self._job.limits, base=trial.runs.base[0], patched=trial.runs.patched[0], judged=trial.judged,
            policy=trial.policy, members=members, determinism=determinism, rerun_bundle_digest=rerun.members.bundle_digest,
            candidate_id=self._job.candidate_id(trial.imported.patch.patch_sha256), explorer_name=name, explorer_version=version,
            base_runs=trial.runs.base, patched_runs=trial.runs.patched, rerun_runs=rerun.runs.all, probe=trial.probe,
            waivers=self._job.waivers, isolation=_isolation(trial, rerun), regression=compared.report,
            base_scan=measured.base_scan, patched_scan=measured.patched_scan, in_turn=measured.in_turn,
            base_benchmark=measured.base_benchmark, patched_benchmark=measured.patched_benchmark,
        )  # fmt: skip


def _refused(verdict: Verdict, codes: tuple[str, ...], message: str, trial: Trial) -> NotAccepted:
    """By what was found of the patch so far."""
    return NotAccepted(
        verdict, codes, message, patch=trial.imported.patch, policy=trial.policy, judged=trial.judged, runs=trial.runs.all
    )


def _isolation(trial: Trial, rerun: Rerun) -> Literal["other_worker", "fresh_sandbox"]:
    """Another worker is one whose runs another executor makes."""
    ours, others = trial.runs.executors, rerun.runs.executors
    return "other_worker" if ours and others and not set(ours) & set(others) else "fresh_sandbox"


def patch_of(job: CompileJob) -> dict[str, Any]:
    """The patch of a job, as IMPORT_PATCH takes it."""
    if job.candidate is not None:
        return {"patch_ref": job.candidate.patch.diff}
    return {"patch": job.patch, "patch_ref": job.patch_ref}

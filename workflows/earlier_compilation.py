"""Compile as it was in 0.1, before runs were measured, recalled and put to the proof: only for workflows that began then.

The steps and their order must not change. Once no such workflow is open or kept for replay, this module goes.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, Literal

from schemas.capabilities import (
    ASSEMBLE_MEMBERS,
    DETERMINISM_GATE,
    IMPORT_PATCH,
    JUDGE_RUNS,
    PREPARE_ENVIRONMENT,
    REGRESSION_GATE,
    REREAD_PATCH,
    REVIEW_PATCH,
    RUN_TESTS,
    SEAL_BUNDLE,
    TRUST_GATE,
    AssembleMembers,
    CompileResult,
    DeterminismInput,
    ImportedPatch,
    ImportPatch,
    Judged,
    JudgeRuns,
    Members,
    PrepareEnvironment,
    ReadMembers,
    RegressionInput,
    ReviewPatch,
    RunTests,
    SealBundle,
    VerifyBundle,
)
from schemas.evidence import TEST_RESULTS
from schemas.gates import Check, GateReport
from schemas.jobs import CompileJob
from schemas.policy import PolicyDecision
from schemas.testing import Environment, Patch, TestRun
from schemas.verdict import Verdict
from workflows.calling import call
from workflows.compilation import ENGINE_OF_CI, patch_of
from workflows.progress import Progress
from workflows.tree_runs import Purpose, Runs
from workflows.verdicts import denial


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


class EarlierCompilation:
    """``progress``: of the workflow that runs it."""

    def __init__(self, job: CompileJob, progress: Progress) -> None:
        self._job = job
        self._progress = progress
        self._gates: tuple[GateReport, ...] = ()

    async def run(self) -> CompileResult:
        first = await self._evidence(ImportPatch(**patch_of(self._job), source=self._job.source), self._job.context.config.runs)
        if isinstance(first, CompileResult):
            return first
        # 7
        rerun = await self._again(first)
        if isinstance(rerun, CompileResult):
            return rerun
        determinism = await self._gate("determinism gate", self._determinism(first, rerun))
        if determinism.verdict != "pass":
            return self._failed_gate(first.imported.patch, first.policy, first.judged, determinism)
        # 8
        with self._progress.stage("seal bundle"):
            sealed = await call(SEAL_BUNDLE, self._seal(first, rerun, determinism), summary="sign the evidence")
        verify = call(TRUST_GATE, VerifyBundle(bundle=sealed.bundle, source=self._job.source), summary="verify the sealed bundle")
        trust = await self._gate("trust gate", verify)
        if trust.verdict != "pass":
            return self._failed_gate(first.imported.patch, first.policy, first.judged, trust)
        return self._accepted(first, bundle=sealed.bundle, trust=sealed.trust)

    async def _evidence(self, request: ImportPatch, runs: int) -> Evidence | CompileResult:
        """Steps 1 to 6; a result where the patch fails on the way."""
        # 1
        with self._progress.stage("import patch"):
            imported = await call(IMPORT_PATCH, request, summary="the patched tree")
        # 2
        with self._progress.stage("review patch"):
            policy = await call(REVIEW_PATCH, ReviewPatch(patch=imported.patch), summary="may it touch this?")
        if policy.decision != "allow":
            codes, message, _ = denial(policy)
            return self._stopped("rejected", codes, message, imported.patch, policy)
        # 3, 4
        environment = await self._environment()
        ran = await self._runs(imported, environment, "base", "patched", runs)
        # 5
        with self._progress.stage("judge"):
            judged = await self._judge(ran)
        # 6: the Regression Gate looks at every judgement, so that a rejection names it
        regression = await self._gate("regression gate", self._regression(imported.patch, environment, ran, judged))
        if judged.verdict != "accepted":
            return self._stopped(judged.verdict, judged.codes, judged.message, imported.patch, policy, judged)
        if regression.verdict != "pass":
            return self._failed_gate(imported.patch, policy, judged, regression)
        members = await self._assemble(imported.patch, environment, ran, judged, policy)
        return Evidence(imported, policy, environment, ran, judged, regression, members)

    async def _again(self, first: Evidence) -> Evidence | CompileResult:
        """Step 7: nothing of the first pass is used but the members and the content store."""
        with self._progress.stage("re-run from the members"):
            request = await call(
                REREAD_PATCH, ReadMembers(members=first.members, source=self._job.source), summary="the patch as recorded"
            )
            imported, environment = await asyncio.gather(
                call(IMPORT_PATCH, request, summary="the patched tree, again"),
                call(PREPARE_ENVIRONMENT, self._environment_request(), summary="the environment, again"),
            )
            rerun = await self._runs(imported, environment, "rerun", "rerun", 1)
            # A verdict needs two runs of each tree, so the re-run is held against the first run of the first pass.
            both = Runs((*rerun.base, first.runs.base[0]), (*rerun.patched, first.runs.patched[0]))
            judged = await self._judge(both)
            if judged.verdict != "accepted":
                return self._differs(first, judged)
            members = await self._assemble(imported.patch, environment, rerun, judged, first.policy)
        return Evidence(imported, first.policy, environment, rerun, judged, first.regression, members)

    async def _environment(self) -> Environment:
        with self._progress.stage("prepare environment"):
            return await call(PREPARE_ENVIRONMENT, self._environment_request(), summary="dependencies of the base tree")

    def _environment_request(self) -> PrepareEnvironment:
        return PrepareEnvironment(
            base_tree=self._job.source.base_tree, requirements=self._job.requirements, runner=self._job.plan.runner
        )

    async def _runs(
        self, imported: ImportedPatch, environment: Environment, base: Purpose, patched: Purpose, runs: int
    ) -> Runs:
        return Runs(
            await self._repeated(self._job.source.base_tree, environment, base, "base tree", runs),
            await self._repeated(imported.harness_tree, environment, patched, "patched tree", runs),
        )

    async def _repeated(
        self, tree: str, environment: Environment, purpose: Purpose, name: str, runs: int
    ) -> tuple[TestRun, ...]:
        request = RunTests(
            tree=tree, environment=environment, plan=self._job.plan, limits=self._job.limits,
            commit_time=self._job.source.commit_time, purpose=purpose,
        )  # fmt: skip
        with self._progress.stage(f"run {name}"):
            numbered = (request.model_copy(update={"ordinal": ordinal}) for ordinal in range(1, runs + 1))
            calls = (call(RUN_TESTS, one, summary=f"{name}, run {one.ordinal}") for one in numbered)
            return tuple(await asyncio.gather(*calls))

    async def _judge(self, runs: Runs) -> Judged:
        request = JudgeRuns(base=runs.base, patched=runs.patched, named_targets=self._job.failing_tests)
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

    async def _gate(self, name: str, verdict: Any) -> GateReport:
        with self._progress.stage(name):
            report: GateReport = await verdict
            self._progress.note(report.verdict + ("" if report.verdict == "pass" else f": {', '.join(report.codes)}"))
        self._gates += (report,)
        return report

    async def _regression(self, patch: Patch, environment: Environment, ran: Runs, judged: Judged) -> GateReport:
        request = RegressionInput(
            judged=judged, baseline_commit=self._job.source.base_commit, base_tree=patch.base_tree, result_tree=patch.result_tree,
            base=ran.base, patched=ran.patched, environment=environment,
        )  # fmt: skip
        return await call(REGRESSION_GATE, request, summary="nothing that was good may get worse")

    async def _determinism(self, first: Evidence, rerun: Evidence) -> GateReport:
        request = DeterminismInput(
            first=first.members, rerun=rerun.members, runs=self._job.context.config.runs, isolation="fresh_sandbox",
            first_runs=first.runs.all, rerun_runs=rerun.runs.all,
            environment=first.environment, rerun_environment=rerun.environment,
        )  # fmt: skip
        return await call(DETERMINISM_GATE, request, summary="the same bytes again")

    def _seal(self, first: Evidence, rerun: Evidence, determinism: GateReport) -> SealBundle:
        candidate = self._job.candidate
        name, version = (candidate.engine, candidate.engine_version) if candidate else ENGINE_OF_CI
        return SealBundle(
            source=self._job.source, patch=first.imported.patch, environment=first.environment, plan=self._job.plan,
            limits=self._job.limits,
            base=first.runs.base[0], patched=first.runs.patched[0], judged=first.judged, policy=first.policy,
            members=first.members, regression=first.regression, determinism=determinism,
            rerun_bundle_digest=rerun.members.bundle_digest,
            candidate_id=self._job.candidate_id(first.imported.patch.patch_sha256), explorer_name=name, explorer_version=version,
            base_runs=first.runs.base, patched_runs=first.runs.patched, rerun_runs=rerun.runs.all,
        )  # fmt: skip

    def _failed_gate(self, patch: Patch, policy: PolicyDecision, judged: Judged, report: GateReport) -> CompileResult:
        message = report.why or f"the {report.gate} gate did not pass"
        verdict: Verdict = "irreproducible" if report.gate == "determinism" else "rejected"
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
        outcome: Verdict = "infra_error" if verdict == "inconclusive" else "irreproducible"
        codes = (check.code, *judged.codes)
        return self._stopped(outcome, codes, judged.message, first.imported.patch, first.policy, first.judged)

    def _stopped(
        self, verdict: Verdict, codes: tuple[str, ...], message: str, patch: Patch, policy: PolicyDecision,
        judged: Judged | None = None,
    ) -> CompileResult:  # fmt: skip
        return CompileResult(
            verdict=verdict, codes=codes, message=message[:2_000], fix=judged.fix if judged else "none", patch=patch,
            policy=policy, gates=self._gates, stages=self._progress.stages,
        )  # fmt: skip

    def _accepted(self, first: Evidence, **found: Any) -> CompileResult:
        return CompileResult(
            verdict="accepted", codes=(), message=first.judged.message, fix=first.judged.fix, source=self._job.source,
            patch=first.imported.patch, policy=first.policy, gates=self._gates, stages=self._progress.stages,
            **found,
        )  # fmt: skip

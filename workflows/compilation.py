"""From a patch to a signed Evidence Bundle, or to the gate and codes that say why not. Never a model.

1. The patch is imported: its tree, that tree with the tests and test configuration of base laid over it, and the same
   with every touched function raising.
2. Policy reviews what it touches.
3. The environment is prepared from the base tree.
4. Both trees are run twice, each time in a fresh sandbox, or their agreed runs are recalled from the cache.
5. The runs are judged by test ids. A verdict that would accept is put to the proof: the mended tests must fail while the
   touched functions raise, and runs with another hash seed and in reversed order must not show a flake that base has not.
   Runs that disagree are explained the same way.
6. Both trees are scanned; the Regression Gate compares what was measured. Members 1-6 of the bundle are assembled.
7. Everything from 1 to 6 is done again from the members and the content store; the Determinism Gate compares the bytes.
8. The bundle is sealed, and the Trust Gate verifies what lies on the disk.

Whatever is refused on the way gets a signed Rejection Report instead of a stamp.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, Literal

from temporalio import workflow
from temporalio.exceptions import ActivityError, is_cancelled_exception

from schemas.capabilities import (
    ASSEMBLE_MEMBERS,
    DETERMINISM_GATE,
    IMPORT_PATCH,
    JUDGE_RUNS,
    PREPARE_ENVIRONMENT,
    REGRESSION_GATE,
    REREAD_PATCH,
    REVIEW_PATCH,
    SCAN_TREE,
    SEAL_BUNDLE,
    SEAL_REJECTION,
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
    ReadMembers,
    RegressionInput,
    ReviewPatch,
    SealBundle,
    SealedRejection,
    SealRejection,
    VerifyBundle,
)
from schemas.evidence import TEST_RESULTS
from schemas.gates import Check, GateReport
from schemas.jobs import CompileJob
from schemas.policy import PolicyDecision
from schemas.regression import ScannedTree, ScanTree
from schemas.testing import Environment, Patch, TestRun
from schemas.verdict import Verdict
from workflows.calling import call
from workflows.failing import rejection_of
from workflows.progress import Progress
from workflows.tree_runs import Runs, TreeRuns
from workflows.verdicts import denial

ENGINE_OF_CI = ("external", "1")
MEASURED = "compile.measured"
"""Patch id: runs are measured, recalled and put to the proof, and a refusal is reported. Without it: as in 0.1."""
_REPORT_ATTEMPTS = 3


@dataclass(frozen=True)
class Evidence:
    """Steps 1 to 6 of one pass."""

    imported: ImportedPatch
    policy: PolicyDecision
    environment: Environment
    runs: Runs
    probe: TestRun | None
    judged: Judged
    regression: GateReport
    members: Members


class Compilation:
    """One patch on its way through the eight steps. ``progress``: of the workflow that runs it."""

    def __init__(self, job: CompileJob, progress: Progress) -> None:
        self._job = job
        self._progress = progress
        self._gates: tuple[GateReport, ...] = ()
        self._runs: tuple[TestRun, ...] = ()
        self._measured = workflow.patched(MEASURED)
        self._trees = TreeRuns(job, progress, measured=self._measured)

    async def run(self) -> CompileResult:
        first = await self._evidence(ImportPatch(**_patch_of(self._job), source=self._job.source), self._job.context.config.runs)
        if isinstance(first, CompileResult):
            return first
        # 7
        rerun = await self._again(first)
        if isinstance(rerun, CompileResult):
            return rerun
        determinism = await self._gate("determinism gate", self._determinism(first, rerun))
        if determinism.verdict != "pass":
            return await self._failed_gate(first.imported.patch, first.policy, first.judged, determinism)
        # 8
        with self._progress.stage("seal bundle"):
            sealed = await call(SEAL_BUNDLE, self._seal(first, rerun, determinism), summary="sign the evidence")
        verify = call(TRUST_GATE, VerifyBundle(bundle=sealed.bundle, source=self._job.source), summary="verify the sealed bundle")
        trust = await self._gate("trust gate", verify)
        if trust.verdict != "pass":
            return await self._failed_gate(first.imported.patch, first.policy, first.judged, trust)
        return self._accepted(first, bundle=sealed.bundle, trust=sealed.trust)

    async def _evidence(self, request: ImportPatch, runs: int) -> Evidence | CompileResult:
        """Steps 1 to 6; a result where the patch fails on the way."""
        # 1
        try:
            with self._progress.stage("import patch"):
                imported = await call(IMPORT_PATCH, request, summary="the patched tree")
        except ActivityError as error:
            return self._not_applicable(error)
        # 2
        with self._progress.stage("review patch"):
            policy = await call(REVIEW_PATCH, ReviewPatch(patch=imported.patch), summary="may it touch this?")
        if policy.decision != "allow":
            codes, message, _ = denial(policy)
            return await self._stopped("rejected", codes, message, imported.patch, policy)
        # 3, 4
        environment = await self._environment()
        ran = await self._trees.verdict_runs(imported, environment, runs)
        self._runs = ran.all
        # 5
        judged, probe = await self._judged(imported, environment, ran)
        if any(run.run_key in self._trees.irreproducible for run in ran.patched):
            return await self._contradicted(imported.patch, policy, judged)
        # 6: the Regression Gate looks at every judgement, so that a rejection names it
        regression = await self._gate("regression gate", self._regression(imported.patch, environment, ran, judged))
        if judged.verdict != "accepted":
            return await self._stopped(judged.verdict, judged.codes, judged.message, imported.patch, policy, judged)
        if regression.verdict != "pass":
            return await self._failed_gate(imported.patch, policy, judged, regression)
        members = await self._assemble(imported.patch, environment, ran, judged, policy)
        return Evidence(imported, policy, environment, ran, probe, judged, regression, members)

    async def _judged(self, imported: ImportedPatch, environment: Environment, ran: Runs) -> tuple[Judged, TestRun | None]:
        """Step 5: the verdict by test ids, and where it would accept or runs disagree, with the runs that test the tests."""
        with self._progress.stage("judge"):
            judged = await self._judge(ran)
        if not self._measured:
            return judged, None
        probe: TestRun | None = None
        diagnostics: tuple[DiagnosticRun, ...] = ()
        if judged.verdict == "accepted":
            probe = await self._trees.probe(imported, environment, judged)
        if judged.verdict == "accepted" or not ran.agree:
            diagnostics = await self._trees.diagnostics(imported, environment, ran)
        if probe is not None or diagnostics:
            with self._progress.stage("judge the proof"):
                judged = await self._judge(ran, probe, diagnostics)
        if judged.verdict in ("accepted", "rejected"):
            # What was not put to the proof is not kept: a later Compile of equal trees would skip it, too.
            proven = (ran.patched, *(((probe,),) if probe else ())) if judged.verdict == "accepted" else ()
            await self._trees.remember(ran.base, *proven)
        return judged, probe

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
            rerun = await self._trees.rerun(imported, environment, first.runs)
            # A verdict needs two runs of each tree, so the re-run is held against the first run of the first pass.
            both = Runs((*rerun.base, first.runs.base[0]), (*rerun.patched, first.runs.patched[0]))
            judged = await self._judge(both)
            if judged.verdict != "accepted":
                return await self._differs(first, judged)
            members = await self._assemble(imported.patch, environment, rerun, judged, first.policy)
        return Evidence(imported, first.policy, environment, rerun, None, judged, first.regression, members)

    async def _environment(self) -> Environment:
        with self._progress.stage("prepare environment"):
            return await call(PREPARE_ENVIRONMENT, self._environment_request(), summary="dependencies of the base tree")

    def _environment_request(self) -> PrepareEnvironment:
        return PrepareEnvironment(
            base_tree=self._job.source.base_tree, requirements=self._job.requirements, runner=self._job.plan.runner
        )

    async def _judge(
        self, runs: Runs, probe: TestRun | None = None, diagnostics: tuple[DiagnosticRun, ...] = ()
    ) -> Judged:
        request = JudgeRuns(
            base=runs.base, patched=runs.patched, named_targets=self._job.failing_tests, probe=probe, diagnostics=diagnostics,
            waived_tests=tuple(waiver.subject for waiver in self._job.waivers if waiver.metric == "tests"),
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

    async def _gate(self, name: str, verdict: Any) -> GateReport:
        with self._progress.stage(name):
            report: GateReport = await verdict
            self._progress.note(report.verdict + ("" if report.verdict == "pass" else f": {', '.join(report.codes)}"))
        self._gates += (report,)
        return report

    async def _regression(self, patch: Patch, environment: Environment, ran: Runs, judged: Judged) -> GateReport:
        request = RegressionInput(
            judged=judged, baseline_commit=self._job.source.base_commit, base_tree=patch.base_tree, result_tree=patch.result_tree,
            base=ran.base, patched=ran.patched, environment=environment, limits=self._job.limits, waivers=self._job.waivers,
        )  # fmt: skip
        if self._measured and judged.verdict == "accepted":
            before, after = await asyncio.gather(self._scan(patch, "base"), self._scan(patch, "patched"))
            request = request.model_copy(update={"base_scan": before, "patched_scan": after})
        return await call(REGRESSION_GATE, request, summary="nothing that was good may get worse")

    async def _scan(self, patch: Patch, which: Literal["base", "patched"]) -> ScannedTree:
        tree, against = (patch.base_tree, patch.result_tree) if which == "base" else (patch.result_tree, patch.base_tree)
        request = ScanTree(tree=tree, against=against, limits=self._job.limits, fresh=not self._job.cache)
        return await call(SCAN_TREE, request, summary=f"the {which} tree")

    async def _determinism(self, first: Evidence, rerun: Evidence) -> GateReport:
        request = DeterminismInput(
            first=first.members, rerun=rerun.members, runs=self._job.context.config.runs, isolation=_isolation(first, rerun),
            reused=rerun.runs.reused, first_runs=first.runs.all, rerun_runs=rerun.runs.all,
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
            rerun_bundle_digest=rerun.members.bundle_digest, runs=self._job.context.config.runs,
            candidate_id=self._candidate_id(first.imported.patch), explorer_name=name, explorer_version=version,
            base_runs=first.runs.base, patched_runs=first.runs.patched, rerun_runs=rerun.runs.all, probe=first.probe,
            waivers=self._job.waivers, isolation=_isolation(first, rerun),
        )  # fmt: skip

    def _candidate_id(self, patch: Patch) -> str:
        return self._job.candidate.candidate_id if self._job.candidate else patch.patch_sha256[:12]

    async def _failed_gate(self, patch: Patch, policy: PolicyDecision, judged: Judged, report: GateReport) -> CompileResult:
        failed = [check for check in report.checks if check.checked and not check.ok]
        message = (
            "; ".join(f"{check.code}: {check.reason or check.actual}" for check in failed)
            or f"the {report.gate} gate did not pass"
        )
        verdict: Verdict = "irreproducible" if report.gate == "determinism" else "rejected"
        return await self._stopped(verdict, report.codes or (f"{report.gate.upper()}_GATE",), message, patch, policy, judged)

    async def _contradicted(self, patch: Patch, policy: PolicyDecision, judged: Judged) -> CompileResult:
        """Two Compiles each had runs that agree, and the two differ: whichever came first was luck."""
        message = "an earlier Compile of an equal patched tree got other results, each of them twice"
        return await self._stopped("irreproducible", ("CACHE_CONFLICT", *judged.codes), message, patch, policy, judged)

    async def _differs(self, first: Evidence, judged: Judged) -> CompileResult:
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
        return await self._stopped(outcome, codes, judged.message, first.imported.patch, first.policy, first.judged)

    async def _stopped(
        self, verdict: Verdict, codes: tuple[str, ...], message: str, patch: Patch, policy: PolicyDecision,
        judged: Judged | None = None,
    ) -> CompileResult:  # fmt: skip
        result = CompileResult(
            verdict=verdict, codes=codes, message=message[:2_000], fix=judged.fix if judged else "none", patch=patch,
            policy=policy, gates=self._gates, flakes=judged.flakes if judged else (),
        )  # fmt: skip
        report = await self._reported(result, patch, judged) if self._measured else None
        return result.model_copy(update={"rejection": report, "stages": self._progress.stages})

    def _not_applicable(self, error: ActivityError) -> CompileResult:
        """A patch that is none, or that does not apply, is a bad patch, not a failure of ours; there is nothing to report on."""
        why = rejection_of(error, "import patch")
        if not self._measured or not why.codes[0].startswith("PATCH_"):
            raise error
        return CompileResult(verdict="rejected", codes=why.codes, message=why.message, stages=self._progress.stages)

    async def _reported(self, result: CompileResult, patch: Patch, judged: Judged | None) -> SealedRejection | None:
        """The signed report. The refusal stands without it: a signer that does not answer changes no verdict."""
        request = SealRejection(
            source=self._job.source, patch=patch, candidate_id=self._candidate_id(patch), verdict=result.verdict,
            codes=result.codes, message=result.message, policy=result.policy, judged=judged, gates=result.gates, runs=self._runs,
        )  # fmt: skip
        try:
            with self._progress.stage("report the rejection"):
                return await call(SEAL_REJECTION, request, summary="why, and what would pass", attempts=_REPORT_ATTEMPTS)
        except ActivityError as error:
            if is_cancelled_exception(error):
                raise
            self._progress.note("no signed report")
            return None

    def _accepted(self, first: Evidence, **found: Any) -> CompileResult:
        return CompileResult(
            verdict="accepted", codes=(), message=first.judged.message, fix=first.judged.fix, source=self._job.source,
            patch=first.imported.patch, policy=first.policy, gates=self._gates, stages=self._progress.stages,
            flakes=first.judged.flakes, **found,
        )  # fmt: skip


def _isolation(first: Evidence, rerun: Evidence) -> Literal["other_worker", "fresh_sandbox"]:
    """Another worker is one whose runs another executor makes."""
    ours, others = first.runs.executors, rerun.runs.executors
    return "other_worker" if ours and others and not set(ours) & set(others) else "fresh_sandbox"


def _patch_of(job: CompileJob) -> dict[str, Any]:
    if job.candidate is not None:
        return {"patch_ref": job.candidate.patch.diff}
    return {"patch": job.patch, "patch_ref": job.patch_ref}

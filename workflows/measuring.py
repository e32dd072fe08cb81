"""What the Regression Gate of a Compile compares: runs, scans of both trees, and a benchmark where one is asked for."""

from __future__ import annotations

from typing import Literal

from schemas.capabilities import RUN_BENCHMARK, SCAN_TREE, ImportedPatch, Judged, RegressionInput
from schemas.jobs import CompileJob
from schemas.regression import BenchmarkSample, RunBenchmark, ScannedTree, ScanTree
from schemas.testing import Environment, Patch
from workflows.calling import call, together
from workflows.progress import Progress
from workflows.tree_runs import Runs


class Measuring:
    def __init__(self, job: CompileJob, progress: Progress) -> None:
        self._job = job
        self._progress = progress

    async def measured(self, imported: ImportedPatch, environment: Environment, ran: Runs, judged: Judged) -> RegressionInput:
        """Only of a patch that would be accepted more is measured than its runs."""
        patch = imported.patch
        request = RegressionInput(
            judged=judged, baseline_commit=self._job.source.base_commit, base_tree=patch.base_tree, result_tree=patch.result_tree,
            base=ran.base, patched=ran.patched, environment=environment, waivers=self._job.waivers, in_turn=ran.in_turn,
        )  # fmt: skip
        if judged.verdict != "accepted":
            return request
        with self._progress.stage("scan both trees"):
            before, after = await together(self._scan(patch, "base"), self._scan(patch, "patched"))
        request = request.model_copy(update={"base_scan": before, "patched_scan": after})
        if self._job.benchmark:
            base, patched = await self._benchmarks(imported, environment)
            request = request.model_copy(update={"base_benchmark": base, "patched_benchmark": patched})
        return request

    async def _scan(self, patch: Patch, which: Literal["base", "patched"]) -> ScannedTree:
        tree, against = (patch.base_tree, patch.result_tree) if which == "base" else (patch.result_tree, patch.base_tree)
        request = ScanTree(tree=tree, against=against, limits=self._job.limits, fresh=not self._job.cache)
        return await call(SCAN_TREE, request, summary=f"the {which} tree")

    async def _benchmarks(
        self, imported: ImportedPatch, environment: Environment
    ) -> tuple[tuple[BenchmarkSample, ...], tuple[BenchmarkSample, ...]]:
        """Both trees in turn, one sandbox at a time: nothing but the tree sets their times apart."""
        base: list[BenchmarkSample] = []
        patched: list[BenchmarkSample] = []
        with self._progress.stage("benchmark both trees"):
            for ordinal in range(1, self._job.benchmark_runs + 1):
                base.append(await self._sample(imported.patch.base_tree, environment, f"base, benchmark {ordinal}", ordinal))
                patched.append(await self._sample(imported.harness_tree, environment, f"patched, benchmark {ordinal}", ordinal))
        return tuple(base), tuple(patched)

    async def _sample(self, tree: str, environment: Environment, summary: str, ordinal: int) -> BenchmarkSample:
        request = RunBenchmark(
            tree=tree, environment=environment, plan=self._job.plan, argv=self._job.benchmark, limits=self._job.limits,
            commit_time=self._job.source.commit_time, ordinal=ordinal,
        )  # fmt: skip
        return await call(RUN_BENCHMARK, request, summary=summary)

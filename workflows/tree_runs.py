"""Runs of the two trees of a Compile: recalled from the run cache or made in fresh sandboxes, put to the proof, remembered."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from temporalio.exceptions import ActivityError, TimeoutError

from schemas.capabilities import (
    FIND_OTHER,
    RECALL_RUNS,
    REMEMBER_RUNS,
    RUN_TESTS,
    DiagnosticRun,
    FindOther,
    ImportedPatch,
    Judged,
    RecallRuns,
    RememberRuns,
    RunTests,
)
from schemas.jobs import CompileJob
from schemas.testing import Environment, RunVariant, TestRun
from workflows.calling import call
from workflows.progress import Progress

Purpose = Literal["base", "patched", "rerun", "probe", "diagnosis"]
PLAIN = RunVariant()
OTHER_SEED = RunVariant(hash_seed=1)
REVERSED = RunVariant(order="reversed")


@dataclass(frozen=True)
class Runs:
    """The runs of both trees; the first of each is what the bundle reports."""

    base: tuple[TestRun, ...]
    patched: tuple[TestRun, ...]

    @property
    def all(self) -> tuple[TestRun, ...]:
        return (*self.base, *self.patched)

    @property
    def reused(self) -> bool:
        """Nothing was executed for them."""
        return all(run.cached for run in self.all)

    @property
    def executors(self) -> tuple[str, ...]:
        """Hints of the executors that ran them."""
        return tuple(sorted({run.executor for run in self.all if run.executor}))

    @property
    def agree(self) -> bool:
        return all(len({run.outcomes_sha256 for run in runs}) == 1 for runs in (self.base, self.patched))


class TreeRuns:
    """``measured``: False only for workflows that began before runs were measured, recalled and put to the proof."""

    def __init__(self, job: CompileJob, progress: Progress, *, measured: bool) -> None:
        self._job = job
        self._progress = progress
        self._measured = measured
        self.irreproducible: tuple[str, ...] = ()
        """Keys of runs that agreed among themselves, but not with those of an earlier Compile."""

    async def verdict_runs(self, imported: ImportedPatch, environment: Environment, runs: int) -> Runs:
        """``runs`` of each tree, or the agreed ones of an earlier Compile."""
        return await self._both(imported, environment, ("base", "patched"), runs, recall=self._job.cache)

    async def rerun(self, imported: ImportedPatch, environment: Environment, first: Runs) -> Runs:
        """One run of each tree, with another executor where there is one. What this Compile has just run itself is never
        taken for it."""
        if not self._measured or first.reused:
            return await self._both(imported, environment, ("rerun", "rerun"), 1, recall=self._job.cache and first.reused)
        other = await call(FIND_OTHER, FindOther(executors=first.executors), summary="is there another executor?")
        if other.queue is not None:
            try:
                return await self._both(imported, environment, ("rerun", "rerun"), 1, recall=False, queue=other.queue)
            except ActivityError as error:
                if not isinstance(error.cause, TimeoutError):
                    raise
        return await self._both(imported, environment, ("rerun", "rerun"), 1, recall=False)

    async def probe(self, imported: ImportedPatch, environment: Environment, judged: Judged) -> TestRun | None:
        """The mended tests while the touched functions raise; None where the patch touches no function."""
        if not self._measured or imported.probe_tree is None or not judged.mended:
            return None
        with self._progress.stage("raise probe"):
            request = self._request(imported.probe_tree, environment, "probe", variant=RunVariant(only=judged.mended))
            recalled = await self._recalled((request,))
            return recalled[0][0] if recalled[0] else await call(RUN_TESTS, request, summary="touched functions raise")

    async def diagnostics(self, imported: ImportedPatch, environment: Environment, runs: Runs) -> tuple[DiagnosticRun, ...]:
        """Runs with another hash seed and in reversed order: of the patched tree, and of base where one of them differs.

        Where equal runs disagree, both trees are run, and also with a clock that stands.
        """
        if not self._measured or runs.reused:
            return ()
        with self._progress.stage("diagnostics"):
            standing = RunVariant(clock=self._job.source.commit_time)
            variants = (OTHER_SEED, REVERSED) if runs.agree else (OTHER_SEED, REVERSED, standing, standing)
            patched = await self._diagnose(imported.harness_tree, "patched", environment, variants)
            if runs.agree and all(one.run.outcomes_sha256 == runs.patched[0].outcomes_sha256 for one in patched):
                return patched
            return patched + await self._diagnose(self._job.source.base_tree, "base", environment, variants)

    async def remember(self, *groups: Iterable[TestRun]) -> None:
        """Agreed runs enter the cache; which of them may is decided there, and whether they contradict what it had."""
        fresh = tuple(tuple(group) for group in groups if not all(run.cached for run in group))
        if self._measured and fresh:
            remembered = await call(REMEMBER_RUNS, RememberRuns(groups=fresh), summary="for equal runs")
            self.irreproducible += remembered.conflicts

    async def _both(
        self, imported: ImportedPatch, environment: Environment, purposes: tuple[Purpose, Purpose], runs: int, *, recall: bool,
        queue: str | None = None,
    ) -> Runs:  # fmt: skip
        base = self._request(self._job.source.base_tree, environment, purposes[0])
        patched = self._request(imported.harness_tree, environment, purposes[1])
        recalled = await self._recalled((base, patched)) if recall else ((), ())
        return Runs(
            recalled[0][:runs] or await self._repeated(base, "base tree", runs, queue),
            recalled[1][:runs] or await self._repeated(patched, "patched tree", runs, queue),
        )

    async def _recalled(self, requests: tuple[RunTests, ...]) -> tuple[tuple[TestRun, ...], ...]:
        if not self._measured or not self._job.cache:
            return ((),) * len(requests)
        found = await call(RECALL_RUNS, RecallRuns(requests=requests), summary="has it been run before?")
        self.irreproducible += found.irreproducible
        return found.runs

    async def _repeated(self, request: RunTests, name: str, runs: int, queue: str | None) -> tuple[TestRun, ...]:
        with self._progress.stage(f"run {name}"):
            numbered = (request.model_copy(update={"ordinal": ordinal}) for ordinal in range(1, runs + 1))
            calls = (call(RUN_TESTS, one, summary=f"{name}, run {one.ordinal}", queue=queue) for one in numbered)
            return tuple(await asyncio.gather(*calls))

    async def _diagnose(
        self, tree: str, name: Literal["base", "patched"], environment: Environment, variants: tuple[RunVariant, ...]
    ) -> tuple[DiagnosticRun, ...]:
        requests = (
            self._request(tree, environment, "diagnosis", variant=variant).model_copy(update={"ordinal": ordinal})
            for ordinal, variant in enumerate(variants, start=1)
        )
        runs = await asyncio.gather(*(call(RUN_TESTS, one, summary=f"{name} tree, {_what(one.variant)}") for one in requests))
        return tuple(DiagnosticRun(tree=name, run=run) for run in runs)

    def _request(self, tree: str, environment: Environment, purpose: Purpose, variant: RunVariant = PLAIN) -> RunTests:
        return RunTests(
            tree=tree, environment=environment, plan=self._job.plan, limits=self._job.limits,
            commit_time=self._job.source.commit_time, purpose=purpose, variant=variant,
            measure=self._measured and self._job.plan.runner == "pytest" and purpose in ("base", "patched", "rerun"),
        )  # fmt: skip


def _what(variant: RunVariant) -> str:
    if variant.clock is not None:
        return "with a standing clock"
    return "in reversed order" if variant.order == "reversed" else f"with hash seed {variant.hash_seed}"

"""Runs of the two trees of a Compile: recalled from the run cache or made in fresh sandboxes, put to the proof, remembered."""

from __future__ import annotations

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
    RecalledRuns,
    RecallRuns,
    RememberRuns,
    RunTests,
)
from schemas.jobs import CompileJob
from schemas.testing import Environment, RunVariant, TestRun
from workflows.calling import call, together
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
    def in_turn(self) -> bool:
        """Both trees were run as often, side by side: only then their times can be compared."""
        return len(self.base) == len(self.patched) and not any(run.cached for run in self.all)

    @property
    def executors(self) -> tuple[str, ...]:
        """Hints of the executors that ran them."""
        return tuple(sorted({run.executor for run in self.all if run.executor}))

    @property
    def agree(self) -> bool:
        return all(len({run.outcomes_sha256 for run in runs}) == 1 for runs in (self.base, self.patched))


class TreeRuns:
    """``irreproducible``: keys of runs that agreed among themselves, but not with those of an earlier Compile."""

    def __init__(self, job: CompileJob, progress: Progress) -> None:
        self._job = job
        self._progress = progress
        self.irreproducible: tuple[str, ...] = ()

    async def verdict_runs(self, imported: ImportedPatch, environment: Environment) -> tuple[Runs, TestRun | None]:
        """As many of each tree as the job wants, or the agreed ones of an earlier Compile; with these its probe."""
        base = self._request(self._job.source.base_tree, environment, "base")
        patched = self._request(imported.harness_tree, environment, "patched")
        known = await self._recalled(base, patched, imported, environment)
        wanted = self._job.run_count
        kept = [runs[:wanted] if len(runs) >= wanted else () for runs in known.runs]
        if all(kept):
            return Runs(*kept), known.probe
        made = await self._side_by_side(*(None if runs else request for runs, request in zip(kept, (base, patched), strict=True)))
        return Runs(kept[0] or made[0], kept[1] or made[1]), None

    async def rerun(self, imported: ImportedPatch, environment: Environment, first: Runs) -> Runs:
        """One run of each tree, with another executor where there is one. Only where all of ``first`` was recalled, so may it."""
        base = self._request(self._job.source.base_tree, environment, "rerun")
        patched = self._request(imported.harness_tree, environment, "rerun")
        if first.reused:
            known = (await call(RECALL_RUNS, RecallRuns(requests=(base, patched)), summary="has it been run before?")).runs
            if all(known):
                return Runs(*(runs[: self._job.run_count][-1:] for runs in known))
            return await self._once(base, patched)
        other = await call(FIND_OTHER, FindOther(executors=first.executors), summary="is there another executor?")
        if other.queue is None:
            return await self._once(base, patched)
        try:
            return await self._once(base, patched, other.queue)
        except ActivityError as error:
            if not isinstance(error.cause, TimeoutError):
                raise
            return await self._once(base, patched)

    async def probe(self, imported: ImportedPatch, environment: Environment, judged: Judged) -> TestRun | None:
        """The mended tests while the touched functions raise; None where the patch touches no function."""
        if imported.probe_tree is None or not judged.mended:
            return None
        with self._progress.stage("raise probe"):
            request = self._request(imported.probe_tree, environment, "probe", variant=RunVariant(only=judged.mended))
            return await call(RUN_TESTS, request, summary="touched functions raise")

    async def diagnostics(self, imported: ImportedPatch, environment: Environment, runs: Runs) -> tuple[DiagnosticRun, ...]:
        """Runs with another hash seed and in reversed order: of the patched tree, and of base where one of them differs.

        Where equal runs disagree, both trees are run, and also with a clock that stands.
        """
        if runs.reused:
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
        if fresh:
            remembered = await call(REMEMBER_RUNS, RememberRuns(groups=fresh), summary="for equal runs")
            self.irreproducible += remembered.conflicts

    async def _recalled(
        self, base: RunTests, patched: RunTests, imported: ImportedPatch, environment: Environment
    ) -> RecalledRuns:
        if not self._job.cache:
            return RecalledRuns(runs=((), ()))
        probe = self._request(imported.probe_tree, environment, "probe") if imported.probe_tree else None
        request = RecallRuns(
            requests=(base, patched), probe=probe, named_targets=self._job.failing_tests, waived_tests=self._job.waived_tests
        )
        found = await call(RECALL_RUNS, request, summary="has it been run before?")
        self.irreproducible += found.irreproducible
        return found

    async def _side_by_side(
        self, base: RunTests | None, patched: RunTests | None
    ) -> tuple[tuple[TestRun, ...], tuple[TestRun, ...]]:
        """Run what is not None, both trees side by side: what slows the machine for a while slows them alike."""
        made: tuple[list[TestRun], list[TestRun]] = ([], [])
        with self._progress.stage("run both trees" if base and patched else "run one tree"):
            for ordinal in range(1, self._job.run_count + 1):
                calls = [
                    self._run(request, name, runs, ordinal)
                    for request, name, runs in zip((base, patched), ("base", "patched"), made, strict=True) if request
                ]  # fmt: skip
                await together(*calls)
        return tuple(made[0]), tuple(made[1])

    async def _run(self, request: RunTests, name: str, runs: list[TestRun], ordinal: int) -> None:
        numbered = request.model_copy(update={"ordinal": ordinal})
        runs.append(await call(RUN_TESTS, numbered, summary=f"{name} tree, run {ordinal}"))

    async def _once(self, base: RunTests, patched: RunTests, queue: str | None = None) -> Runs:
        ran = await together(
            call(RUN_TESTS, base, summary="base tree, re-run", queue=queue),
            call(RUN_TESTS, patched, summary="patched tree, re-run", queue=queue),
        )
        return Runs((ran[0],), (ran[1],))

    async def _diagnose(
        self, tree: str, name: Literal["base", "patched"], environment: Environment, variants: tuple[RunVariant, ...]
    ) -> tuple[DiagnosticRun, ...]:
        requests = (
            self._request(tree, environment, "diagnosis", variant=variant).model_copy(update={"ordinal": ordinal})
            for ordinal, variant in enumerate(variants, start=1)
        )
        runs = await together(*(call(RUN_TESTS, one, summary=f"{name} tree, {_what(one.variant)}") for one in requests))
        return tuple(DiagnosticRun(tree=name, run=run) for run in runs)

    def _request(self, tree: str, environment: Environment, purpose: Purpose, variant: RunVariant = PLAIN) -> RunTests:
        return RunTests(
            tree=tree, environment=environment, plan=self._job.plan, limits=self._job.limits,
            commit_time=self._job.source.commit_time, purpose=purpose, variant=variant,
            measure=purpose in ("base", "patched", "rerun"),
        )  # fmt: skip


def _what(variant: RunVariant) -> str:
    if variant.clock is not None:
        return "with a standing clock"
    return "in reversed order" if variant.order == "reversed" else f"with hash seed {variant.hash_seed}"

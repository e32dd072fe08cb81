"""Explore: run the suite, find suspicious lines, search for edits that mend failing tests, keep what policy admits."""

from __future__ import annotations

import asyncio
from typing import Any

from temporalio import workflow

from schemas.candidate import Candidate, Exploration, StopReason
from schemas.capabilities import (
    LOCALIZE,
    PREPARE_ENVIRONMENT,
    REPAIR,
    REVIEW_PATCH,
    RUN_TESTS,
    Localize,
    PrepareEnvironment,
    Repair,
    ReviewPatch,
    RunTests,
)
from schemas.details import stage_details
from schemas.jobs import ExploreJob, ExploreResult
from schemas.remedies import remedy_for
from schemas.session import State
from schemas.status import SessionStatus
from schemas.testing import Environment, TestRun
from workflows.calling import call
from workflows.doors import accepted, invalid_input
from workflows.progress import Progress, label

NO_TESTS_CODE = "TESTS_NONE_COLLECTED"
LIMIT_CODES = frozenset({"RUN_TIMEOUT", "MEMORY_LIMIT", "OUTPUT_LIMIT"})
"""A suite that ran into a limit of the sandbox has tests; that none of their results arrived is another matter."""


@workflow.defn(name="Explore")
class Explore:
    """Started by Remediation; returns :class:`schemas.jobs.ExploreResult`."""

    @workflow.init
    def __init__(self, request: Any = None, *extra: Any) -> None:
        self._progress = Progress(self._show)

    @workflow.run
    async def run(self, request: Any = None, *extra: Any) -> ExploreResult:
        if workflow.info().parent is None:
            raise invalid_input("Explore is a part of a session: start Remediation instead")
        job = accepted(ExploreJob, request, extra)
        label(job.context, "explore", job.source.repository, "medium")
        with self._progress.stage("prepare environment"):
            environment = await call(
                PREPARE_ENVIRONMENT, PrepareEnvironment(base_tree=job.source.base_tree, requirements=job.requirements),
                summary="dependencies of the base tree",
            )  # fmt: skip
        baseline = await self._run_base(job, environment)
        if ended := _nothing_to_do(baseline):
            return self._result(environment, baseline, ended)
        exploration = await self._search(job, environment, baseline)
        return await self._admit(environment, baseline, exploration)

    @workflow.query(name="status", description="What this exploration is doing")
    def status(self) -> SessionStatus:
        return SessionStatus(state=State.EXECUTING, stages=self._progress.stages)

    async def _run_base(self, job: ExploreJob, environment: Environment) -> TestRun:
        with self._progress.stage("run the suite"):
            baseline = await call(
                RUN_TESTS,
                RunTests(
                    tree=job.source.base_tree, environment=environment, plan=job.plan, limits=job.limits,
                    commit_time=job.source.commit_time, purpose="explore",
                ),
                summary="the suite on the base tree",
            )  # fmt: skip
            self._progress.note(", ".join(f"{count} {outcome}" for outcome, count in baseline.counts.items()))
        return baseline

    async def _search(self, job: ExploreJob, environment: Environment, baseline: TestRun) -> Exploration:
        source = job.source
        with self._progress.stage("localize"):
            found = await call(
                LOCALIZE,
                Localize(
                    base_tree=source.base_tree, environment=environment, plan=job.plan, limits=job.limits,
                    commit_time=source.commit_time, baseline=baseline, named_targets=job.failing_tests,
                ),
                summary="coverage of failing and passing tests",
            )  # fmt: skip
            self._progress.note(f"{found.suspects} suspicious lines, {len(found.targets)} failing tests")
        with self._progress.stage("repair"):
            exploration = await call(
                REPAIR,
                Repair(
                    base_tree=source.base_tree, environment=environment, plan=job.plan, limits=job.limits,
                    commit_time=source.commit_time, baseline=baseline, localization=found, named_targets=job.failing_tests,
                    keep=job.keep, wall_ms=job.wall_ms,
                ),
                summary="single edits on the suspicious lines",
            )  # fmt: skip
            self._progress.note(
                f"{exploration.tried} of {exploration.space} edits tried, {len(exploration.candidates)} mend the tests"
            )
        return exploration

    async def _admit(self, environment: Environment, baseline: TestRun, exploration: Exploration) -> ExploreResult:
        """Leave out what policy denies; order by completeness, then by the engine's own rank."""
        with self._progress.stage("review candidates"):
            decisions = await asyncio.gather(
                *(
                    call(REVIEW_PATCH, ReviewPatch(patch=candidate.patch), summary=f"may it touch {candidate.path}?")
                    for candidate in exploration.candidates
                )
            )
            pairs = zip(exploration.candidates, decisions, strict=True)
            admitted = rank([candidate for candidate, decision in pairs if decision.decision == "allow"])
            denied = len(exploration.candidates) - len(admitted)
            self._progress.note(f"{len(admitted)} admitted, {denied} denied")
        return self._result(environment, baseline, exploration.model_copy(update={"candidates": admitted}), denied)

    def _result(self, environment: Environment, baseline: TestRun, exploration: Exploration, denied: int = 0) -> ExploreResult:
        codes = () if exploration.candidates else _codes(exploration, baseline, denied)
        return ExploreResult(
            exploration=exploration, environment=environment, baseline=baseline, denied=denied, codes=codes,
            remedy=remedy_for(codes), stages=self._progress.stages,
        )  # fmt: skip

    def _show(self) -> None:
        workflow.set_current_details(stage_details("Explore", self._progress.stages))


def rank(candidates: list[Candidate]) -> tuple[Candidate, ...]:
    """Complete fixes before partial ones, then as the engine ranked them. Ranks are renumbered from 1."""
    ordered = sorted(candidates, key=lambda candidate: (candidate.fix != "complete", candidate.rank))
    return tuple(candidate.model_copy(update={"rank": number}) for number, candidate in enumerate(ordered, start=1))


def _nothing_to_do(baseline: TestRun) -> Exploration | None:
    """Why there is nothing to search for, from the counts of the base run."""
    failing = baseline.counts.get("failed", 0) + baseline.counts.get("error", 0)
    if NO_TESTS_CODE in baseline.codes or (baseline.status != "infra_error" and not sum(baseline.counts.values())):
        return _ended("no_tests", baseline.message or "the suite collected no test")
    if baseline.status != "infra_error" and failing == 0:
        return _ended("no_failing_test", f"all {sum(baseline.counts.values())} tests pass or are skipped")
    if baseline.status == "infra_error" or not failing:
        return _ended("no_suspects", baseline.message or ", ".join(baseline.codes))
    return None


def _ended(stopped: StopReason, message: str) -> Exploration:
    return Exploration(candidates=(), tried=0, space=0, stopped=stopped, message=message)


def _codes(exploration: Exploration, baseline: TestRun, denied: int) -> tuple[str, ...]:
    if baseline.status == "infra_error" and NO_TESTS_CODE not in baseline.codes:
        return baseline.codes or ("INFRASTRUCTURE",)
    match exploration.stopped:
        case "no_tests":
            return tuple(code for code in baseline.codes if code in LIMIT_CODES) or ("NO_TESTS",)
        case "no_failing_test":
            return ("NO_FAILING_TEST",)
        case _ if denied:
            return ("POLICY_DENIED",)
        case stopped:
            return ("NO_FIX_FOUND", stopped.upper())

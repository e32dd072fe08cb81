"""``ga:diff:strict`` alone: is anything worse on head than it was on base? No patch, no bundle (seed §7).

1. A session of its own; policy admits the request; both commits are fetched.
2. Each commit gets its own environment, so that a change of dependencies shows.
3. Tests, and the benchmark if there is one, run on both commits in turn, so that their times can be compared.
4. The Regression Gate compares what was measured.
"""

from __future__ import annotations

from typing import Any

from temporalio import workflow

from schemas.capabilities import (
    FETCH_SOURCE,
    JUDGE_RUNS,
    PREPARE_ENVIRONMENT,
    REGRESSION_GATE,
    RUN_BENCHMARK,
    RUN_TESTS,
    SCAN_TREE,
    FetchSource,
    JudgeRuns,
    OpenSession,
    PrepareEnvironment,
    RegressionInput,
    ReviewRequest,
    RunTests,
)
from schemas.details import session_details
from schemas.diff import DiffRequest, DiffResult
from schemas.gates import GateReport
from schemas.regression import BenchmarkSample, RunBenchmark, ScanTree
from schemas.request import Rejection
from schemas.session import Outcome, State
from schemas.status import SessionStatus
from schemas.task import SessionContext, Source
from schemas.testing import Environment, TestPlan, TestRun
from workflows.alone import Ending, admitted, alone
from workflows.calling import call
from workflows.doors import accepted, plan_of
from workflows.progress import Progress


@workflow.defn(name="GaDiff")
class GaDiff:
    """Started by an engineer or CI with :class:`schemas.diff.DiffRequest`."""

    @workflow.init
    def __init__(self, request: Any = None, *extra: Any) -> None:
        self._state = State.INTAKE
        self._repository = ""
        self._commits: dict[str, str] = {}
        self._progress = Progress(self._show)

    @workflow.run
    async def run(self, request: Any = None, *extra: Any) -> DiffResult:
        asked: DiffRequest = accepted(DiffRequest, request, extra)
        plan = plan_of(asked.test_command)
        self._repository = asked.repository
        budget = asked.budget.amounts if asked.budget else {}

        async def work(context: SessionContext) -> tuple[DiffResult, Ending]:
            for ref in (asked.base, asked.head):
                await admitted(ReviewRequest(repository=asked.repository, ref=ref, budget=budget), self._progress)
            report = await self._compared(asked, plan, context)
            result = DiffResult(**self._identity(context), verdict=report.verdict, report=report)
            outcome: Outcome | None = None if report.verdict == "pass" else "rejected"
            return result, ("compiled", outcome, None)

        opening = OpenSession(
            kind="compile", repository=asked.repository, ref=asked.base, goal="ga diff", limits=asked.limits,
            budget=asked.budget.amounts if asked.budget else None,
        )  # fmt: skip
        result = await alone(opening, "diff", self._progress, work, self._refused, self._begun)
        self._state = State.CLOSED
        self._show()
        return result

    @workflow.query(name="status", description="Stages and state")
    def status(self) -> SessionStatus:
        return SessionStatus(state=self._state, stages=self._progress.stages)

    async def _compared(self, asked: DiffRequest, plan: TestPlan, context: SessionContext) -> GateReport:
        limits = context.config.limits
        base, head = await self._source(asked, "base", asked.base), await self._source(asked, "head", asked.head)
        with self._progress.stage("prepare environments"):
            before = await self._environment(base, asked, plan)
            after = await self._environment(head, asked, plan)

        async def tests(source: Source, environment: Environment, name: str, ordinal: int) -> TestRun:
            request = RunTests(
                tree=source.base_tree, environment=environment, plan=plan, limits=limits, commit_time=source.commit_time,
                purpose="base" if name == "base" else "patched", ordinal=ordinal, measure=True,
            )  # fmt: skip
            return await call(RUN_TESTS, request, summary=f"{name}, run {ordinal}")

        async def benchmark(source: Source, environment: Environment, name: str, ordinal: int) -> BenchmarkSample:
            request = RunBenchmark(
                tree=source.base_tree, environment=environment, plan=plan, argv=asked.benchmark, limits=limits,
                commit_time=source.commit_time, ordinal=ordinal,
            )  # fmt: skip
            return await call(RUN_BENCHMARK, request, summary=f"{name}, benchmark {ordinal}")

        runs: tuple[list[TestRun], list[TestRun]] = ([], [])
        with self._progress.stage("run tests of both commits"):
            for ordinal in range(1, asked.runs + 1):
                runs[0].append(await tests(base, before, "base", ordinal))
                runs[1].append(await tests(head, after, "head", ordinal))
        samples: tuple[list[BenchmarkSample], list[BenchmarkSample]] = ([], [])
        if asked.benchmark:
            with self._progress.stage("benchmark both commits"):
                for ordinal in range(1, asked.benchmark_runs + 1):
                    samples[0].append(await benchmark(base, before, "base", ordinal))
                    samples[1].append(await benchmark(head, after, "head", ordinal))
        with self._progress.stage("scan both trees"):
            trees = (base.base_tree, head.base_tree)
            base_scan = await call(SCAN_TREE, ScanTree(tree=trees[0], against=trees[1], limits=limits), summary="base")
            head_scan = await call(SCAN_TREE, ScanTree(tree=trees[1], against=trees[0], limits=limits), summary="head")
        with self._progress.stage("judge"):
            judged = await call(JUDGE_RUNS, JudgeRuns(base=tuple(runs[0]), patched=tuple(runs[1])), summary="by test ids")
        request = RegressionInput(
            judged=judged, baseline_commit=base.base_commit, base_tree=base.base_tree, result_tree=head.base_tree,
            base=tuple(runs[0]), patched=tuple(runs[1]), environment=before, patched_environment=after,
            waivers=asked.waivers, base_scan=base_scan, patched_scan=head_scan, in_turn=True,
            base_benchmark=tuple(samples[0]), patched_benchmark=tuple(samples[1]),
        )  # fmt: skip
        with self._progress.stage("regression gate"):
            report = await call(REGRESSION_GATE, request, summary="nothing that was good may get worse")
            self._progress.note(report.verdict + ("" if report.verdict == "pass" else f": {', '.join(report.codes)}"))
        return report

    async def _source(self, asked: DiffRequest, name: str, ref: str) -> Source:
        with self._progress.stage(f"fetch {name}"):
            source = await call(FETCH_SOURCE, FetchSource(repository=asked.repository, ref=ref), summary=f"the {name} commit")
        self._commits[f"{name}_commit"] = source.base_commit
        return source

    async def _environment(self, source: Source, asked: DiffRequest, plan: TestPlan) -> Environment:
        request = PrepareEnvironment(base_tree=source.base_tree, requirements=asked.requirements, runner=plan.runner)
        return await call(PREPARE_ENVIRONMENT, request, summary=f"dependencies of {source.base_commit[:12]}")

    def _begun(self) -> None:
        self._state = State.EXECUTING

    def _identity(self, context: SessionContext) -> dict[str, str]:
        info = workflow.info()
        return {
            "workflow_id": info.workflow_id, "run_id": info.run_id, "session_id": context.keys.session_id, **self._commits,
        }  # fmt: skip

    def _refused(self, context: SessionContext, rejection: Rejection, outcome: Outcome) -> DiffResult:
        verdict: Any = "inconclusive" if outcome == "failed" else "fail"
        return DiffResult(**self._identity(context), verdict=verdict, rejection=rejection)

    def _show(self) -> None:
        id = workflow.info().workflow_id
        workflow.set_current_details(
            session_details(self.status(), workflow_id=id, repository=self._repository, goal="compare two commits")
        )

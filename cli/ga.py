"""``gen4 ga diff --strict BASE HEAD``: is anything worse on one commit than it was on another?"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError
from temporalio.client import Client, WorkflowHandle

from activities.record.home import Home
from cli import session
from cli.changes import named
from cli.compiling import RepositoryOption, located
from cli.fabric import Json, ensure
from cli.output import emit, say, show
from cli.remediate import BudgetOption, LimitsOption, RequirementsOption, TestOption, budget_of, limits_of, requirement_lines
from cli.remediate import split_command as split_test_command
from cli.timing import BENCHMARK_RUNS, BenchmarkOption, BenchmarkRunsOption, benchmark_words
from cli.waivers import WaiversOption, read_waivers
from schemas.diff import DiffRequest, DiffResult
from schemas.error import InputError
from schemas.gates import WAIVED, Check
from schemas.request import explain
from workers.client import connect
from workers.settings import Settings, read_settings

_EXIT = {"pass": 0, "fail": 1, "inconclusive": 3}


def register(app: typer.Typer) -> None:
    ga = typer.Typer(name="ga", no_args_is_help=True, help="Compare commits as the Regression Gate does.")
    app.add_typer(ga)

    @ga.command()
    def diff(
        base: Annotated[str, typer.Argument(help="Branch, tag or commit that is good.")],
        head: Annotated[str, typer.Argument(help="Branch, tag or commit with the change.")],
        strict: Annotated[
            bool, typer.Option("--strict", help="Whatever got worse fails, unless policy tolerates it. There is no other mode.")
        ] = True,
        repository: RepositoryOption = ".",
        test: TestOption = "",
        requirements: RequirementsOption = None,
        runs: Annotated[
            int, typer.Option(min=2, max=10, help="Runs of the tests on each commit; fewer than 3 say nothing about time.")
        ] = 3,
        benchmark: BenchmarkOption = "",
        benchmark_runs: BenchmarkRunsOption = BENCHMARK_RUNS,
        waivers: WaiversOption = None,
        budget: BudgetOption = "",
        limits: LimitsOption = "",
        as_json: Json = False,
    ) -> None:
        """Run the tests of two commits in turn, scan what differs, and say what got worse: tests, coverage, performance, security
        findings, dependencies, licences, size. Tolerances are in the policy; what could not be measured is said, never assumed.

        Exit code 0: nothing got worse, or somebody answers for it (`--waivers`); 1: something did; 2: usage; 3: infrastructure.
        Ctrl-C cancels the comparison.

        Example: `gen4 ga diff --strict main HEAD --benchmark 'python bench/parse.py'`
        """
        settings, where = located(read_settings(), repository)
        fields = {
            "test_command": split_test_command(test), "requirements": requirement_lines(requirements), "runs": runs,
            "benchmark": benchmark_words(benchmark), "benchmark_runs": benchmark_runs, "waivers": read_waivers(waivers),
            "budget": budget_of(budget), "limits": limits_of(limits),
        }  # fmt: skip
        commits = named(Home.open(settings.home), Path(where), base, head) if where.startswith("/") else (base, head)
        try:
            request = DiffRequest.model_validate({"repository": where, "base": commits[0], "head": commits[1], **fields})
        except ValidationError as error:
            raise InputError("INVALID_INPUT", explain(error, DiffRequest), "see `gen4 ga diff --help`") from error
        result = session.run(_diff(settings, request))
        emit(result) if as_json else print_diff(result)
        raise typer.Exit(_EXIT[result.verdict])


async def _diff(settings: Settings, request: DiffRequest) -> DiffResult:
    fabric = ensure(settings)
    client: Client = await connect(fabric.temporal_address, fabric.namespace, external=fabric.external)
    handle: WorkflowHandle[Any, Any] = await session.start(client, "GaDiff", request, "diff")
    say(f"diff {handle.id}: {fabric.workflow_link(handle.id)}")
    try:
        await session.follow(handle, lambda _: False)
        return DiffResult.model_validate(await session.ended(handle))
    except asyncio.CancelledError:
        await asyncio.shield(handle.cancel())
        say(f"cancelled {handle.id}")
        raise


def print_diff(result: DiffResult) -> None:
    """A line for each check, then what would make it pass."""
    show(f"{result.verdict}: {(result.base_commit or '?')[:12]} → {(result.head_commit or '?')[:12]}  ({result.workflow_id})")
    if result.rejection is not None:
        show(f"  {result.rejection.stage}: {', '.join(result.rejection.codes)}: {result.rejection.message}")
        if result.rejection.remedy:
            show(f"  → {result.rejection.remedy}")
    if result.report is None:
        return
    for check in result.report.checks:
        if not check.checked and check.code.startswith("REG_WAIVER"):
            continue  # no waivers were given
        show(f"  {_mark(check):<12} {check.code:<21} {check.actual if check.checked else ''}".rstrip())
        for text in (check.reason, f"→ {check.remedy}" if check.remedy else ""):
            if text:
                show(f"  {'':<12} {'':<21} {text}")
    for waiver in result.report.waivers:
        show(f"  waived by {waiver.owner} until {waiver.expires_at} ({waiver.id}): {waiver.reason}")


def _mark(check: Check) -> str:
    if not check.checked:
        return "not measured"
    if check.ok:
        return "waived" if check.reason.startswith(WAIVED) else "pass"
    return "FAIL"

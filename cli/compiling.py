"""``gen4 compile``: a change from CI becomes a signed Evidence Bundle, or a Rejection Report that says why not."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import shutil
import tempfile
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError
from temporalio.client import Client, WorkflowHandle

from activities.record.home import Home
from cli import session
from cli.changes import Change, applied_to, as_request, between, read_patch, toplevel
from cli.fabric import Json, ensure
from cli.junit import junit
from cli.output import emit, inert_json, say, show
from cli.remediate import (
    BudgetOption,
    FailingOption,
    LimitsOption,
    RequirementsOption,
    TestOption,
    budget_of,
    limits_of,
    local_or_url,
    requirement_lines,
    split_command,
)
from cli.reports import Report, read_report
from cli.sarif import sarif
from cli.summary import summary
from cli.timing import BENCHMARK_RUNS, BenchmarkOption, BenchmarkRunsOption, benchmark_words
from cli.waivers import WaiversOption, read_waivers
from schemas.error import InfrastructureError, InputError
from schemas.request import CompileRequest, SessionResult, explain
from workers.client import connect
from workers.settings import Settings, read_settings

AUTO = "auto"
SUMMARY_VARIABLE = "GITHUB_STEP_SUMMARY"
_SHOWN = 20
_TEXT = 800

RepositoryOption = Annotated[
    str, typer.Option("--repository", "-r", help="Local path, also of a folder inside, or allowlisted https/ssh URL.")
]


@dataclass(frozen=True)
class Outputs:
    """Where the results go. ``attestations``: beside the bundle, which is a closed set of files."""

    out: Path
    junit: Path | None
    sarif: Path | None
    summary: str

    @property
    def attestations(self) -> Path:
        return self.out.with_name(self.out.name + ".attestations")

    def refuse_unusable(self) -> None:
        """Before anything runs. Raises InputError OUT_EXISTS, OUT_INVALID."""
        for folder in (self.out, self.attestations):
            if folder.exists() or folder.is_symlink():
                raise InputError("OUT_EXISTS", f"{folder} exists already", "name a folder that does not exist yet")
        files = [self.junit, self.sarif, Path(self.summary) if self.summary not in ("", AUTO) else None]
        for path in (self.out, *(file for file in files if file is not None)):
            folder = path.absolute().parent
            if not folder.is_dir() or not os.access(folder, os.W_OK) or (path != self.out and path.is_dir()):
                raise InputError("OUT_INVALID", f"{path} cannot be written", "name a file in a folder that exists")


def register(app: typer.Typer) -> None:
    @app.command(name="compile")
    def compile_patch(
        out: Annotated[Path, typer.Option(help="Folder for the Evidence Bundle or the Rejection Report; must not exist yet.")],
        repository: RepositoryOption = ".",
        base: Annotated[
            str, typer.Option(help="What the change applies to. Default: HEAD with --patch, the first parent with --head.")
        ] = "",
        patch: Annotated[Path | None, typer.Option(help="A git diff; - reads standard input.")] = None,
        head: Annotated[str, typer.Option(help="Instead of a patch: the commit, branch or tag that has the change.")] = "",
        test: TestOption = "",
        requirements: RequirementsOption = None,
        failing: FailingOption = None,
        budget: BudgetOption = "",
        limits: LimitsOption = "",
        waivers: WaiversOption = None,
        frozen_clock: Annotated[
            bool, typer.Option("--frozen-clock", help="The clock of the tests stands at the commit time.")
        ] = False,
        runs: Annotated[
            int | None,
            typer.Option(min=2, max=10, help="Runs of the tests on each tree; fewer than 3 say nothing about time. Default: 2."),
        ] = None,
        benchmark: BenchmarkOption = "",
        benchmark_runs: BenchmarkRunsOption = BENCHMARK_RUNS,
        no_cache: Annotated[bool, typer.Option("--no-cache", help="Run everything; use no result of an earlier run.")] = False,
        junit_file: Annotated[Path | None, typer.Option("--junit", help="Write JUnit XML here.")] = None,
        sarif_file: Annotated[Path | None, typer.Option("--sarif", help="Write SARIF 2.1.0 here.")] = None,
        summary_file: Annotated[
            str, typer.Option("--summary", help=f"Write Markdown here; {AUTO}: append to the file in {SUMMARY_VARIABLE}, if set.")
        ] = "",
        as_json: Json = False,
    ) -> None:
        """Run a change through Compile and its gates; the signed Evidence Bundle goes to `--out`.

        Exit code 0: accepted; 1: rejected or irreproducible, with the signed Rejection Report in `--out`, or not admitted by
        policy; 2: usage, nothing was written; 3: infrastructure. Ctrl-C cancels the compile.

        Examples:

            git diff main...fix | gen4 compile --base main --patch - --out evidence

            gen4 compile --head HEAD --out evidence --junit junit.xml --summary auto
        """
        outputs = Outputs(out, junit_file, sarif_file, summary_file)
        outputs.refuse_unusable()
        settings, where = located(read_settings(), repository)
        command, lines = split_command(test), requirement_lines(requirements)
        waived, spend, bounds = read_waivers(waivers), budget_of(budget), limits_of(limits)
        home = Home.open(settings.home)
        change = _change(home, where, base, patch, head)
        try:
            request = CompileRequest.model_validate(
                {
                    "repository": where, "ref": change.ref, "test_command": command, "requirements": lines,
                    "failing_tests": tuple(failing or ()), "budget": spend, "limits": bounds, "waivers": waived,
                    "frozen_clock": frozen_clock, "cache": not no_cache, "runs": runs,
                    "benchmark": benchmark_words(benchmark), "benchmark_runs": benchmark_runs,
                    **as_request(home, settings.tenant, change.diff),
                }
            )  # fmt: skip
        except ValidationError as error:
            raise InputError("INVALID_INPUT", explain(error, CompileRequest), "see `gen4 compile --help`") from error
        result = session.run(_compile(settings, request))
        report = read_report(result)
        try:
            result = _write(outputs, home, result, report)
        except OSError as error:
            message = f"the verdict is {report.verdict}, but it could not be written: {error}"
            remedy = f"free the disk, then copy {result.bundle or (result.rejection.report if result.rejection else None)}"
            raise InfrastructureError("OUT_UNWRITABLE", message, remedy) from error
        emit(result) if as_json else _print(outputs, result, report)
        raise typer.Exit(report.exit_code)


def located(settings: Settings, repository: str) -> tuple[Settings, str]:
    """A path inside a repository stands for it. A fabric started here admits all of it, unless the operator named folders."""
    if "://" in repository or repository.startswith("git@"):
        return settings, local_or_url(repository)
    top = toplevel(repository)
    if "repository_roots" not in settings.model_fields_set and Path.cwd().is_relative_to(top):
        settings = settings.model_copy(update={"repository_roots": (top,)})
    return settings, str(top)


def _change(home: Home, repository: str, base: str, patch: Path | None, head: str) -> Change:
    if (patch is None) == (not head):
        raise InputError("CHANGE_MISSING", "one of --patch and --head is needed, and only one", "see `gen4 compile --help`")
    if patch is not None:
        diff = read_patch(patch)
        local = repository.startswith("/")
        return Change(applied_to(home, Path(repository), base or "HEAD") if local else base or "HEAD", diff)
    if not repository.startswith("/"):
        raise InputError("HEAD_NOT_LOCAL", "--head needs a clone on this machine", "name a local path, or send a --patch")
    return between(home, Path(repository), base, head)


async def _compile(settings: Settings, request: CompileRequest) -> SessionResult:
    fabric = ensure(settings)
    client: Client = await connect(fabric.temporal_address, fabric.namespace, external=fabric.external)
    handle: WorkflowHandle[Any, Any] = await session.start(client, "Compile", request, "compile")
    say(f"compile {handle.id}: {fabric.workflow_link(handle.id)}")
    try:
        await session.follow(handle, lambda _: False)
        return await session.result_of(handle)
    except asyncio.CancelledError:
        await asyncio.shield(handle.cancel())
        say(f"cancelled {handle.id}")
        raise


def _write(outputs: Outputs, home: Home, result: SessionResult, report: Report) -> SessionResult:
    """All results; what is returned names the copies."""
    from activities.evidence.seal import attestations_of  # the SBOM's library, behind it, is slow to import

    if report.stamp is not None and result.bundle is not None:
        _copy(Path(result.bundle), outputs.out)
        if (beside := attestations_of(home.attestations, report.stamp)).is_dir():
            _copy(beside, outputs.attestations)
        result = result.model_copy(update={"bundle": str(outputs.out)})
    elif result.rejection is not None and result.rejection.report is not None:
        _copy(Path(result.rejection.report), outputs.out)
        result = result.model_copy(update={"rejection": result.rejection.model_copy(update={"report": str(outputs.out)})})
    if outputs.junit is not None:
        outputs.junit.write_bytes(junit(report))
    if outputs.sarif is not None:
        outputs.sarif.write_text(inert_json(json.dumps(sarif(report, version("gen4")), indent=1)) + "\n")
    _summarise(outputs, result, report)
    return result


def _summarise(outputs: Outputs, result: SessionResult, report: Report) -> None:
    where = os.environ.get(SUMMARY_VARIABLE, "") if outputs.summary == AUTO else outputs.summary
    if where:
        text = summary(report, str(outputs.out) if outputs.out.exists() else "", result.trust)
        with Path(where).open("a" if outputs.summary == AUTO else "w", encoding="utf-8") as file:
            file.write(text)


def _copy(source: Path, target: Path) -> None:
    """The whole folder, or nothing."""
    with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.absolute().parent) as folder:
        made = Path(folder) / target.name
        shutil.copytree(source, made)
        made.chmod(0o755)
        made.rename(target)


def _print(outputs: Outputs, result: SessionResult, report: Report) -> None:
    show(f"{report.verdict}: {result.workflow_id}")
    if report.verdict == "accepted":
        show(f"  fix: {result.fix}")
        show(f"  evidence {outputs.out}")
        show(f"  verify it: {shlex.join(['gen4', 'verify', str(outputs.out), '--trust', str(result.trust)])}")
        if outputs.attestations.exists():
            show(f"  attestations {outputs.attestations}")
    for check in report.refused[:_SHOWN]:
        where = " ".join(part for part in (check.member, check.reason) if part)
        show(f"  {check.gate}: {check.code}: {where[:_TEXT]}".removesuffix(": "))
        if check.remedy:
            show(f"    → {check.remedy}")
    if result.rejection is not None and result.rejection.report is not None:
        show(f"  report {result.rejection.report}")

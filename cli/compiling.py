"""``gen4 compile``: a patch from CI becomes a signed Evidence Bundle, or a reason why not."""

from __future__ import annotations

import asyncio
import shutil
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer
from temporalio.client import Client, WorkflowHandle

from cli import session
from cli.fabric import Json, ensure
from cli.output import emit, say
from cli.remediate import (
    BudgetOption,
    FailingOption,
    LimitsOption,
    RepositoryOption,
    RequirementsOption,
    TestOption,
    budget_of,
    limits_of,
    local_or_url,
    print_result,
    requirement_lines,
    split_command,
)
from schemas.error import InputError
from schemas.request import CompileRequest, SessionResult
from workers.client import connect
from workers.settings import read_settings

PATCH_LIMIT = 2 * 1024 * 1024


def register(app: typer.Typer) -> None:
    @app.command(name="compile")
    def compile_patch(
        repository: RepositoryOption,
        base: Annotated[str, typer.Option(help="Commit or ref that the patch applies to.")],
        patch: Annotated[Path, typer.Option(help="A git diff; - reads standard input.")],
        out: Annotated[Path, typer.Option(help="Folder for the Evidence Bundle; must not exist yet.")],
        test: TestOption = "",
        requirements: RequirementsOption = None,
        failing: FailingOption = None,
        budget: BudgetOption = "",
        limits: LimitsOption = "",
        as_json: Json = False,
    ) -> None:
        """Run a patch through Compile and its gates; the signed Evidence Bundle goes to `--out`.

        Exit code 0: accepted; 1: rejected, with the gate and its codes. Ctrl-C cancels the compile.

        Example: `git diff main fix | gen4 compile -r . --base main --patch - --out evidence`
        """
        if out.exists():
            raise InputError("OUT_EXISTS", f"{out} exists already", "name a folder that does not exist yet")
        request = CompileRequest(
            repository=local_or_url(repository), ref=base, patch=_read(patch), test_command=split_command(test),
            requirements=requirement_lines(requirements), failing_tests=tuple(failing or ()),
            budget=budget_of(budget), limits=limits_of(limits),
        )  # fmt: skip
        result = session.run(_compile(request))
        if result.bundle is not None and result.rejection is None:
            shutil.copytree(result.bundle, out)
            result = result.model_copy(update={"bundle": str(out)})
        emit(result) if as_json else print_result(result)
        raise typer.Exit(0 if result.bundle is not None and result.rejection is None else 1)


def _read(path: Path) -> str:
    try:
        with nullcontext(sys.stdin.buffer) if str(path) == "-" else path.open("rb") as file:
            data = file.read(PATCH_LIMIT + 1)
    except OSError as error:
        raise InputError("PATCH_NOT_FOUND", f"cannot read {path}: {error.strerror}", "name a file with a git diff") from error
    if len(data) > PATCH_LIMIT:
        raise InputError("PATCH_TOO_LARGE", f"a patch may have {PATCH_LIMIT} bytes", "split the change")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError("PATCH_NOT_TEXT", "the patch is not UTF-8 text", "give a git diff without binary hunks") from error


async def _compile(request: CompileRequest) -> SessionResult:
    settings = read_settings()
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

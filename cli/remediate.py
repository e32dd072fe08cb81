"""``gen4 remediate`` and ``gen4 session``: start a remediation, follow it, look at it."""

from __future__ import annotations

import shlex
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError
from temporalio.client import WorkflowExecutionStatus

from cli import session
from cli.amounts import parse_amounts
from cli.fabric import Json, ensure
from cli.output import emit, say, show
from schemas.error import InputError
from schemas.limits import LimitRequest
from schemas.request import Budget, InvalidRequest, ReleaseChoice, RemediationRequest, SessionResult, explain
from schemas.session import State
from schemas.status import SessionStatus
from schemas.test_command import parse_test_command
from workers.client import connect
from workers.fabric import FabricState
from workers.settings import read_settings


class Mode(StrEnum):
    BRANCH = "branch"
    MERGE = "merge"


class Until(StrEnum):
    APPROVAL = "approval"
    CLOSED = "closed"


RepositoryOption = Annotated[str, typer.Option("--repository", "-r", help="Local path or allowlisted https/ssh URL.")]
TestOption = Annotated[
    str,
    typer.Option(
        "--test",
        help="pytest command, split like a shell's words, never run by one. Default: pytest on the repository. "
        "compile and ga diff also take node --test.",
    ),
]
RequirementsOption = Annotated[
    Path | None,
    typer.Option(
        "--requirements", exists=True, dir_okay=False, help="Requirements file; default: the repository's own metadata."
    ),
]
FailingOption = Annotated[
    list[str] | None, typer.Option("--failing", help="Id of a failing test that must pass; may be repeated.")
]


BudgetOption = Annotated[
    str, typer.Option("--budget", metavar="UNIT=N,…", help="The most to spend: micros, tokens, cpu_ms, wall_ms.")
]
LimitsOption = Annotated[
    str,
    typer.Option(
        "--limits", metavar="NAME=N,…", help=f"What a sandbox may use: {', '.join(LimitRequest.model_fields)}. Default: policy."
    ),
]


def register(app: typer.Typer) -> None:
    @app.command()
    def remediate(
        repository: RepositoryOption,
        goal: Annotated[str, typer.Option("--goal", "-g", help="What is wrong, in words.")],
        ref: Annotated[str, typer.Option(help="Branch, tag or commit to repair.")] = "HEAD",
        test: TestOption = "",
        requirements: RequirementsOption = None,
        failing: FailingOption = None,
        release: Annotated[Mode, typer.Option(help="A new branch gen4/<task>, or a fast-forward of the target.")] = Mode.BRANCH,
        target: Annotated[
            str | None, typer.Option(help="Branch to fast-forward with --release merge; default: the branch of --ref.")
        ] = None,
        budget: BudgetOption = "",
        limits: LimitsOption = "",
        until: Annotated[Until | None, typer.Option(help="Wait for the approval request, or for the end.")] = None,
        as_json: Json = False,
    ) -> None:
        """Repair a repository: explore, compile, three gates, signed evidence; then it waits for an approval.

        Returns at once by default; the session goes on by itself. Ctrl-C while waiting only stops the waiting.

        Examples:

            gen4 remediate -r . -g "one byte is rendered as 1.0 Byte"

            gen4 remediate -r ~/src/lib -g "TypeError on empty search" --failing tests/test_db.py::test_empty --until approval
        """
        request = _request(repository, goal, ref, test, requirements, failing, release, target, budget, limits)
        result = session.run(_remediate(request, until, as_json))
        raise typer.Exit(exit_code(result))

    @app.command(name="session")
    def show_session(workflow_id: Annotated[str, typer.Argument(help="Workflow id.")], as_json: Json = False) -> None:
        """State, stages and result of a session."""
        current = session.run(_status(workflow_id))
        if as_json:
            emit(current)
        else:
            _print_status(current)


def _request(
    repository: str,
    goal: str,
    ref: str,
    test: str,
    requirements: Path | None,
    failing: list[str] | None,
    release: Mode,
    target: str | None,
    budget: str = "",
    limits: str = "",
) -> RemediationRequest:
    try:
        command = split_command(test)
        if parse_test_command(command).runner != "pytest":
            why = "no engine repairs JavaScript yet"
            raise InputError("ENGINE_MISSING", why, "write the patch yourself and send it to `gen4 compile`")
        return RemediationRequest(
            repository=local_or_url(repository), goal=goal, ref=ref, test_command=command,
            requirements=requirement_lines(requirements), failing_tests=tuple(failing or ()),
            release=ReleaseChoice(mode=release.value, target=target), budget=budget_of(budget),
            limits=limits_of(limits),
        )  # fmt: skip
    except ValidationError as error:
        raise InputError("INVALID_INPUT", explain(error, RemediationRequest), "see `gen4 remediate --help`") from error


def split_command(text: str) -> tuple[str, ...]:
    """Split like a shell's words, and refuse at the door what the workflow would refuse."""
    try:
        words = tuple(shlex.split(text))
        parse_test_command(words)
    except (ValueError, InvalidRequest) as error:
        raise InputError(
            "TEST_COMMAND_INVALID", str(error), "give a pytest command such as 'python -m pytest -q tests'"
        ) from error
    return words


def budget_of(text: str) -> Budget | None:
    """``micros=N,tokens=N`` as people write it; nothing written is no budget of one's own.

    Raises:
        InputError: BUDGET_SYNTAX, INVALID_INPUT.
    """
    if not text:
        return None
    try:
        return Budget.model_validate(parse_amounts(text))
    except ValidationError as error:
        raise InputError("INVALID_INPUT", explain(error, Budget), "write --budget micros=N,tokens=N") from error


def limits_of(text: str) -> LimitRequest:
    """``memory_mb=4096,cpu_percent=200`` as people write it; what is not written comes from policy.

    Raises:
        InputError: LIMIT_SYNTAX, INVALID_INPUT.
    """
    found: dict[str, int] = {}
    for part in text.split(",") if text else ():
        name, _, amount = part.strip().partition("=")
        if name in found or not amount.isascii() or not amount.isdecimal():
            known = ", ".join(LimitRequest.model_fields)
            raise InputError("LIMIT_SYNTAX", f"{part.strip()!r} is no limit", f"write NAME=N,NAME=N; names: {known}")
        found[name] = int(amount)
    try:
        return LimitRequest.model_validate(found)
    except ValidationError as error:
        raise InputError("INVALID_INPUT", explain(error, LimitRequest), "see `gen4 remediate --help`") from error


def requirement_lines(path: Path | None) -> tuple[str, ...]:
    if path is None:
        return ()
    lines = (line.split(" #")[0].strip() for line in path.read_text().splitlines())
    return tuple(line for line in lines if line and not line.startswith("#"))


def local_or_url(repository: str) -> str:
    """URLs stay as they are; anything else is a path, made absolute here because the worker has another folder."""
    if "://" in repository or repository.startswith("git@"):
        return repository
    return str(Path(repository).expanduser().absolute())


async def _remediate(request: RemediationRequest, until: Until | None, as_json: bool) -> SessionResult | SessionStatus | None:
    settings = read_settings()
    fabric = ensure(settings)
    client = await connect(fabric.temporal_address, fabric.namespace, external=fabric.external)
    handle = await session.start(client, "Remediation", request, "remediation")
    say(f"session {handle.id}")
    if link := fabric.workflow_link(handle.id):
        say(f"  watch it: {link}")
    if until is None:
        document = {"workflow_id": handle.id, "run_id": handle.first_execution_run_id, "ui": fabric.workflow_link(handle.id)}
        emit(document) if as_json else show(handle.id)
        return None
    status = await session.follow(
        handle, lambda now: until is Until.APPROVAL and now.approval is not None and now.approval.status == "pending"
    )
    closed = (await handle.describe()).close_time is not None
    if closed:
        result = await session.result_of(handle)
        emit(result) if as_json else print_result(result)
        return result
    if status is not None and as_json:
        emit({"workflow_id": handle.id, **status.model_dump(mode="json", exclude_none=True)})
    elif status is not None:
        _print_waiting(handle.id, status, fabric)
    return status


async def _status(workflow_id: str) -> SessionStatus:
    settings = read_settings()
    fabric = ensure(settings)
    client = await connect(fabric.temporal_address, fabric.namespace, external=fabric.external)
    handle = client.get_workflow_handle(workflow_id)
    current = await session.status_of(handle)
    if current is None:
        raise InputError("SESSION_NOT_ANSWERING", f"{workflow_id} does not answer yet", "try again; see `gen4 status`")
    if current.result is None and (await handle.describe()).status not in (
        WorkflowExecutionStatus.RUNNING, WorkflowExecutionStatus.COMPLETED,
    ):  # fmt: skip
        await session.result_of(handle)  # raises why it failed before there was a session, such as wrong input
    return current


def exit_code(result: SessionResult | SessionStatus | None) -> int:
    """0: started, waiting for approval, or released; 1: no fix, rejected or failed."""
    if isinstance(result, SessionResult):
        return 0 if result.outcome == "merged" else 1
    return 0


def print_result(result: SessionResult) -> None:
    show(f"{result.outcome or result.state}: {result.workflow_id}")
    if result.release is not None:
        show(f"  released {result.release.commit} to {result.release.ref} ({result.release.mode})")
    if result.bundle is not None:
        show(f"  evidence {result.bundle}")
        show(f"  verify it: gen4 verify {result.bundle} --trust {result.trust}")
    if result.rejection is not None:
        show(f"  {result.rejection.stage}: {', '.join(result.rejection.codes)}: {result.rejection.message}")
        if result.rejection.remedy:
            show(f"  → {result.rejection.remedy}")


def _print_waiting(workflow_id: str, status: SessionStatus, fabric: FabricState) -> None:
    if status.approval is None:
        show(f"{workflow_id} is {status.state}")
        return
    show(f"{workflow_id} waits for an approval ({status.approval.fix} fix)")
    show(f"  look at it: gen4 approvals show {workflow_id}")
    show(f"  approve it: gen4 approve {workflow_id} --digest {status.approval.action_digest}")
    show(f"  in the UI:  {fabric.workflow_link(workflow_id)}  (JSON to send: add --print to the command above)")


def _print_status(status: SessionStatus) -> None:
    show(str(status.state))
    for stage in status.stages:
        show(f"  {stage.name:<24} {'…' if stage.ended_ms is None else f'{stage.seconds:.1f} s'} {stage.note}")
    for refused in status.refused:
        show(f"  refused: {refused.code}: {refused.message} → {refused.remedy}")
    if status.next_step:
        show(f"  next: {status.next_step}")
    if status.result is not None and status.state is State.CLOSED:
        print_result(status.result)

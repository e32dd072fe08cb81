"""Starting and following sessions: shared by the commands that wait for a workflow."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
import uuid
from collections.abc import Callable, Coroutine, Sequence
from datetime import timedelta
from typing import Any, TypeVar

from pydantic import BaseModel
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text
from temporalio.client import Client, WorkflowFailureError, WorkflowHandle
from temporalio.common import WorkflowIDReusePolicy
from temporalio.exceptions import ApplicationError, CancelledError, TerminatedError
from temporalio.service import RPCError, RPCStatusCode

from cli.output import progress, say
from schemas.capability import WORKFLOW_QUEUE
from schemas.error import Gen4Error, InfrastructureError, InputError, Refused
from schemas.request import Rejection, SessionResult
from schemas.status import SessionStatus, Stage
from schemas.text import plain

T = TypeVar("T")
ABOVE_POLICY = "_ABOVE_POLICY"
"""What the codes end in of what asks for too much: of limits, of a role's memory, of a budget."""
POLL_S = 0.25
_QUERY_TIMEOUT = timedelta(seconds=5)
_SETTLE_S = 0.1
"""Short clients of the SDK can crash at exit; see ``cli.main``."""


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """SIGTERM, which build servers send to a job that is cancelled, ends it as Ctrl-C does."""

    async def settled() -> T:
        current = asyncio.current_task()
        if current is not None and threading.current_thread() is threading.main_thread():
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, current.cancel)
        try:
            return await coroutine
        finally:
            await asyncio.sleep(_SETTLE_S)

    try:
        return asyncio.run(settled())
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None


async def start(client: Client, workflow: str, request: BaseModel, prefix: str) -> WorkflowHandle[Any, Any]:
    return await client.start_workflow(
        workflow, request.model_dump(mode="json", exclude_defaults=True), id=f"{prefix}-{uuid.uuid4()}",
        task_queue=WORKFLOW_QUEUE, id_reuse_policy=WorkflowIDReusePolicy.REJECT_DUPLICATE,
    )  # fmt: skip


async def status_of(handle: WorkflowHandle[Any, Any]) -> SessionStatus | None:
    """None while the first workflow task has not run (or no worker polls)."""
    try:
        raw = await handle.query("status", rpc_timeout=_QUERY_TIMEOUT)
    except RPCError as error:
        if error.status in (RPCStatusCode.NOT_FOUND, RPCStatusCode.INVALID_ARGUMENT):
            remedy = "see `gen4 approvals`, or list sessions in the Temporal UI"
            raise InputError("SESSION_UNKNOWN", f"no workflow {handle.id}", remedy) from error
        return None
    except Exception:  # noqa: BLE001  a query that fails while the worker restarts is no answer, not an error
        return None
    return SessionStatus.model_validate(raw)


async def result_of(handle: WorkflowHandle[Any, Any]) -> SessionResult:
    """Wait for the end of a session. Raises the typed error that a failed workflow carries."""
    return SessionResult.model_validate(await ended(handle))


async def ended(handle: WorkflowHandle[Any, Any]) -> Any:
    """The result of any workflow, as JSON has it. Raises the typed error that a failed one carries."""
    try:
        return await handle.result()
    except WorkflowFailureError as error:
        raise _typed(error.cause) from error


def _typed(cause: BaseException | None) -> Exception:
    while cause is not None and cause.__cause__ is not None and not isinstance(cause, ApplicationError):
        cause = cause.__cause__
    if isinstance(cause, ApplicationError):
        if cause.type == "InvalidInput":
            return _not_begun(cause)
        return Refused(cause.type or "WORKFLOW_FAILED", cause.message)
    if isinstance(cause, CancelledError | TerminatedError):
        return Refused("CANCELLED", "the session was cancelled")
    return InfrastructureError("WORKFLOW_FAILED", str(cause), "see the workflow in the Temporal UI")


def _not_begun(cause: ApplicationError) -> Gen4Error:
    """A request that nothing was done for: it asks for more than policy admits, or it is none."""
    if cause.details:
        why = Rejection.model_validate(cause.details[0])
        if why.codes[0].endswith(ABOVE_POLICY):
            return Refused(why.codes[0], why.message, why.remedy)
    return InputError("INVALID_INPUT", cause.message, "correct the request and start it again")


async def follow(
    handle: WorkflowHandle[Any, Any], done: Callable[[SessionStatus], bool], shown: StageLines | None = None
) -> SessionStatus | None:
    """Show stages until ``done`` or the workflow's end: live on a terminal, a line per stage elsewhere.

    Args:
        shown: the display of an earlier call, to go on with it.
    """
    ended = asyncio.ensure_future(handle.result())
    latest: SessionStatus | None = None
    with shown or display() as stages:
        try:
            while True:
                current = await status_of(handle)
                if current is not None:
                    latest = current
                    stages.update((*current.stages, *await _stages_of_children(handle, current)))
                    if done(current):
                        return latest
                if ended.done():
                    return latest
                await asyncio.wait({ended}, timeout=POLL_S)
        finally:
            ended.cancel()
            await asyncio.gather(ended, return_exceptions=True)


async def _stages_of_children(handle: WorkflowHandle[Any, Any], parent: SessionStatus) -> tuple[Stage, ...]:
    """What running children are doing; the session adopts their stages when they end."""
    stages: list[Stage] = []
    above = next((stage.name for stage in reversed(parent.stages) if stage.ended_ms is None), "")
    try:
        children = (await handle.describe()).raw_description.pending_children
        for child in children:
            status = await status_of(_client_of(handle).get_workflow_handle(child.workflow_id, run_id=child.run_id))
            stages += [_below(above or child.workflow_type_name.lower(), stage) for stage in (status.stages if status else ())]
    except (RPCError, InputError):
        return ()  # a child that has just ended is shown by its parent
    return tuple(stages)


def _below(name: str, stage: Stage) -> Stage:
    return stage.model_copy(update={"name": f"{name}: {stage.name}"})


def _client_of(handle: WorkflowHandle[Any, Any]) -> Client:
    return handle._client


def display() -> StageLines:
    return StageTable() if progress.is_terminal else StageLines()


class StageLines:
    """Plain progress: one line when a stage starts and one when it ends, however often it is updated."""

    def __init__(self) -> None:
        self._told: set[tuple[str, bool]] = set()

    def __enter__(self) -> StageLines:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def update(self, stages: Sequence[Stage]) -> None:
        for stage in stages:
            # A child's stage counts once, whether the child or, later, its parent reports it.
            name = stage.name if ": " in stage.name else f"{stage.name} {stage.started_ms}"
            ended = stage.ended_ms is not None
            if (name, ended) in self._told or (name, True) in self._told:
                continue
            self._told.add((name, ended))
            say(f"{stage.name}: {stage.seconds:.1f} s {stage.note}" if ended else f"{stage.name} …")


class StageTable(StageLines):
    """Rich progress: a table that is redrawn in place."""

    def __init__(self) -> None:
        super().__init__()
        self._live = Live(console=progress, refresh_per_second=8, transient=False)

    def __enter__(self) -> StageTable:
        self._live = Live(console=progress, refresh_per_second=8, transient=False)
        self._live.__enter__()
        return self

    def __exit__(self, *arguments: Any) -> None:
        self._live.__exit__(*arguments)

    def update(self, stages: Sequence[Stage]) -> None:
        table = Table.grid(padding=(0, 2))
        now_ms = time.time() * 1000
        for stage in stages:
            if stage.ended_ms is None:
                elapsed = f"{max(0.0, (now_ms - stage.started_ms) / 1000):.0f} s"
                table.add_row(Spinner("dots"), Text(stage.name), elapsed, Text(plain(stage.note)))
            else:
                table.add_row("[green]✓[/]", Text(stage.name), f"{stage.seconds:.1f} s", Text(plain(stage.note)))
        self._live.update(table)

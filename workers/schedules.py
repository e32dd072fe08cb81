"""The fabric's own schedules: made or brought up to date at each start of a worker; several workers at once agree."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import timedelta

from temporalio.client import (
    Client,
    Schedule,
    ScheduleActionExecutionStartWorkflow,
    ScheduleActionStartWorkflow,
    ScheduleAlreadyRunningError,
    ScheduleDescription,
    ScheduleIntervalSpec,
    ScheduleOverlapPolicy,
    SchedulePolicy,
    ScheduleSpec,
    ScheduleUpdate,
    ScheduleUpdateInput,
)
from temporalio.service import RPCError, RPCStatusCode

from schemas.capability import WORKFLOW_QUEUE
from schemas.error import InfrastructureError
from schemas.model import Payload
from workers.settings import Settings

RUN_TIMEOUT = timedelta(minutes=15)
"""A run that hangs must not keep the next ones from starting for ever."""
CATCHUP = timedelta(seconds=60)
"""What was missed while the server was down is made up for by one run."""
RPC_TIMEOUT = timedelta(seconds=5)


@dataclass(frozen=True)
class Recurring:
    id: str
    workflow: str
    every_s: int
    """0: not at all."""


class ScheduleState(Payload):
    """When a schedule last ran and how that ended; ``status`` is of the last run that ended, None before there is one."""

    id: str
    workflow: str
    every_s: int
    paused: bool = False
    last_run: str | None = None
    status: str | None = None
    workflow_id: str | None = None
    failed: bool = False


def recurring(settings: Settings) -> tuple[Recurring, ...]:
    return (
        Recurring("gen4-reaper", "Reaper", settings.reaper_s),
        Recurring("gen4-reconciliation", "Reconciliation", settings.reconciliation_s),
        Recurring("gen4-checkpoint", "Checkpoint", settings.checkpoint_s),
    )


async def ensure_schedules(client: Client, wanted: tuple[Recurring, ...]) -> None:
    """Make each schedule what the settings say. One that an operator paused stays paused.

    Raises:
        InfrastructureError: TEMPORAL_UNAVAILABLE.
    """
    try:
        for one in wanted:
            await (_ensure(client, one) if one.every_s else _remove(client, one.id))
    except RPCError as error:
        raise InfrastructureError("TEMPORAL_UNAVAILABLE", f"no schedule was made: {error.status.name}", "try again") from error


async def _ensure(client: Client, wanted: Recurring) -> None:
    schedule = Schedule(
        action=ScheduleActionStartWorkflow(
            wanted.workflow, id=wanted.id, task_queue=WORKFLOW_QUEUE, execution_timeout=RUN_TIMEOUT,
            static_summary="run by the fabric itself",
        ),
        spec=ScheduleSpec(intervals=[ScheduleIntervalSpec(every=timedelta(seconds=wanted.every_s))]),
        policy=SchedulePolicy(overlap=ScheduleOverlapPolicy.SKIP, catchup_window=CATCHUP),
    )  # fmt: skip

    def renewed(found: ScheduleUpdateInput) -> ScheduleUpdate | None:
        schedule.state = found.description.schedule.state
        return None if _same(found.description, wanted) else ScheduleUpdate(schedule)

    try:
        await client.create_schedule(wanted.id, schedule, rpc_timeout=RPC_TIMEOUT)
    except ScheduleAlreadyRunningError:
        await client.get_schedule_handle(wanted.id).update(renewed, rpc_timeout=RPC_TIMEOUT)


def _same(found: ScheduleDescription, wanted: Recurring) -> bool:
    action, spec = found.schedule.action, found.schedule.spec
    return (
        isinstance(action, ScheduleActionStartWorkflow)
        and (action.workflow, action.task_queue, action.execution_timeout) == (wanted.workflow, WORKFLOW_QUEUE, RUN_TIMEOUT)
        and [interval.every for interval in spec.intervals] == [timedelta(seconds=wanted.every_s)]
        and found.schedule.policy == SchedulePolicy(overlap=ScheduleOverlapPolicy.SKIP, catchup_window=CATCHUP)
    )


async def _remove(client: Client, schedule_id: str) -> None:
    try:
        await client.get_schedule_handle(schedule_id).delete(rpc_timeout=RPC_TIMEOUT)
    except RPCError as error:
        if error.status != RPCStatusCode.NOT_FOUND:
            raise


async def schedule_states(client: Client, wanted: tuple[Recurring, ...]) -> list[ScheduleState]:
    """What ``gen4 status`` shows.

    Raises:
        InfrastructureError: TEMPORAL_UNAVAILABLE.
    """
    try:
        return list(await asyncio.gather(*(_state(client, one) for one in wanted if one.every_s)))
    except RPCError as error:
        raise InfrastructureError("TEMPORAL_UNAVAILABLE", f"no schedule was read: {error.status.name}", "try again") from error


async def _state(client: Client, wanted: Recurring) -> ScheduleState:
    state = ScheduleState(id=wanted.id, workflow=wanted.workflow, every_s=wanted.every_s)
    try:
        found = await client.get_schedule_handle(wanted.id).describe(rpc_timeout=RPC_TIMEOUT)
    except RPCError as error:
        if error.status != RPCStatusCode.NOT_FOUND:
            raise
        return state.model_copy(update={"status": "MISSING", "failed": True})
    state = state.model_copy(update={"paused": found.schedule.state.paused})
    for result in reversed(found.info.recent_actions):
        action = result.action
        if not isinstance(action, ScheduleActionExecutionStartWorkflow) or (status := await _status(client, action)) is None:
            continue
        return state.model_copy(
            update={
                "last_run": result.started_at.strftime("%Y-%m-%dT%H:%M:%SZ"), "status": status,
                "workflow_id": action.workflow_id, "failed": status != "COMPLETED",
            }
        )  # fmt: skip
    return state


async def _status(client: Client, action: ScheduleActionExecutionStartWorkflow) -> str | None:
    """How the run ended; None while it runs, or when the server has forgotten it."""
    handle = client.get_workflow_handle(action.workflow_id)
    try:
        described = await handle.describe(rpc_timeout=RPC_TIMEOUT)
    except RPCError as error:
        if error.status != RPCStatusCode.NOT_FOUND:
            raise
        return None
    return None if described.status is None or described.status.name == "RUNNING" else described.status.name

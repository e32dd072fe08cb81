"""The gate: the one interceptor through which every activity passes, also those that nobody registered (design "The gate").

Order of one attempt: gather facts and check them one by one → a finished effect is returned, not repeated → decision
event → run → outcome of the effect → receipt event. Nothing runs while the store or the policy engine is down; that is
an outage and retried. A refusal is an event and final. Store and policy are asked from threads, never on the event loop.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from typing import Any, NoReturn, TypeVar

from pydantic import BaseModel, ValidationError
from temporalio import activity
from temporalio.api.enums.v1 import EventType
from temporalio.client import Client
from temporalio.common import RawValue
from temporalio.exceptions import ApplicationError, is_cancelled_exception
from temporalio.service import RPCError, RPCStatusCode
from temporalio.worker import ActivityInboundInterceptor, ActivityOutboundInterceptor, ExecuteActivityInput, Interceptor

from activities.kernel.acting import Acting, as_acting
from activities.kernel.admission import CHECKS, Call, Fact, Refusal
from activities.kernel.identity import Started, heir_row, keys_of, predecessor, root_row
from activities.kernel.judging import PolicyPort
from activities.kernel.outcome import MESSAGE_CHARS, Outcome, of_error, of_result
from activities.kernel.questions import ask_phase, ask_release
from activities.kernel.recording import Recording
from activities.record.executions import ExecutionRow, ExecutionRows
from activities.record.store import TenantStore
from schemas.capabilities import CAPABILITIES
from schemas.capability import Capability
from schemas.error import Gen4Error, InfrastructureError
from schemas.event import Actor
from schemas.request import explain

T = TypeVar("T")

MAX_LINEAGE = 100
"""Longest chain of parents and continued runs that is read back for a run whose row is missing."""

UNEXPECTED_ATTEMPTS = 5
"""After so many attempts an error that nobody foresaw is final: it is a defect, and waiting does not mend it."""

BEAT_S = 1.0
"""A fifth of the heartbeat timeout that capabilities have unless they say otherwise."""

RPC_TIMEOUT = timedelta(seconds=10)


@dataclass(frozen=True)
class Gate(Interceptor):
    """One per worker process.

    Args:
        client: the client of the worker; its namespace is the tenant's.
        operator_id: principal of every root execution (embedded: the local operator).
        served: ids of the capabilities that this worker implements.
    """

    client: Client
    store: TenantStore
    policy: PolicyPort
    tenant_id: str
    operator_id: str
    served: frozenset[str]

    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:
        return _Gated(next, self)


class _Gated(ActivityInboundInterceptor):
    def __init__(self, next: ActivityInboundInterceptor, gate: Gate) -> None:
        super().__init__(next)
        self._gate = gate
        self._recording = Recording(gate.store)

    def init(self, outbound: ActivityOutboundInterceptor) -> None:
        self._outbound = outbound
        super().init(outbound)

    async def execute_activity(self, input: ExecuteActivityInput) -> Any:
        async with _beating(self._outbound):
            return await self._admit(input)

    async def _admit(self, input: ExecuteActivityInput) -> Any:
        info = activity.info()
        inquiry = _Inquiry(self._gate, info, [value for value in input.args[0] if isinstance(value, RawValue)])
        call = Call(activity_type=info.activity_type, workflow_type=info.workflow_type)
        for check in CHECKS:
            call = await inquiry.gather(call, check.needs)
            if refusal := check.judge(call):
                await self._refuse(call, _who(self._gate, info, call.row), refusal)
        if call.capability is None or call.request is None:
            raise AssertionError("the checks let a call through that is not known")
        input.args = [call.request]
        return await self._run(call, call.capability, _who(self._gate, info, call.row), input)

    async def _refuse(self, call: Call, who: Acting, refusal: Refusal) -> NoReturn:
        await _in_thread("STORE_UNAVAILABLE", lambda: self._recording.refused(call, who, refusal))
        raise _failure(refusal.code, refusal.message, refusal.remedy, retryable=False)

    async def _run(self, call: Call, capability: Capability[Any, Any], who: Acting, input: ExecuteActivityInput) -> Any:
        stored = await _in_thread("STORE_UNAVAILABLE", lambda: self._recording.begin(call, capability, who))
        if stored is not None:
            return capability.output.model_validate_json(stored.result_json or "")
        started = time.monotonic()
        try:
            with as_acting(who):
                outcome = of_result(capability, await self.next.execute_activity(input))
        except BaseException as error:
            outcome = of_error(capability, error, cancelled=_is_cancelled(error))
        latency_ms = round((time.monotonic() - started) * 1000)
        settling = _in_thread(
            "STORE_UNAVAILABLE", lambda: self._recording.settle(call, capability, who, outcome, latency_ms)
        )
        try:
            await asyncio.shield(settling)
        except (ApplicationError, asyncio.CancelledError):
            if not outcome.cancelled:
                raise
        return _conclude(outcome, who)


@asynccontextmanager
async def _beating(outbound: ActivityOutboundInterceptor) -> AsyncIterator[None]:
    """Tell the server that this attempt lives, whatever its implementation does: a dead worker is noticed within seconds."""

    async def beat() -> None:
        while True:
            outbound.heartbeat()  # activity.heartbeat would wait for this very loop while a thread runs the activity
            await asyncio.sleep(BEAT_S)

    if not activity.info().heartbeat_timeout:
        yield
        return
    beating = asyncio.create_task(beat())
    try:
        yield
    finally:
        beating.cancel()


class _Inquiry:
    """Gathers the facts of one call, each once and only when a check needs it."""

    def __init__(self, gate: Gate, info: activity.Info, arguments: list[RawValue]) -> None:
        self._gate = gate
        self._info = info
        self._arguments = arguments
        self._rows = ExecutionRows(gate.store)

    async def gather(self, call: Call, fact: Fact) -> Call:
        if fact in call.known:
            return call
        call = replace(call, known=call.known | {fact})
        match fact:
            case "execution":
                return await self._execution(call)
            case "capability":
                return self._capability(call)
            case "policy":
                return replace(call, policy=await _in_thread("POLICY_UNAVAILABLE", lambda: ask_phase(self._gate.policy, call)))
            case "approval":
                who = _who(self._gate, self._info, call.row)
                ask = partial(ask_release, self._gate.policy, self._gate.store, call, who)
                return replace(call, approval=await _in_thread("POLICY_UNAVAILABLE", ask))

    # 1 ---------------------------------------------------------------------------------------------------------------

    async def _execution(self, call: Call) -> Call:
        info = self._info
        if not info.workflow_id or not info.workflow_run_id:
            return replace(call, lineage_error="the activity was not started by a workflow")
        if info.is_local:
            return replace(call, lineage_error="local activities leave no record of their input")
        if info.namespace != self._gate.client.namespace:
            return replace(call, lineage_error="the activity comes from another namespace")
        row = await self._row(info.workflow_id, info.workflow_run_id)
        if row is None:
            return replace(call, lineage_error="no run of ours stands behind this call")
        parent = None
        if row.parent_workflow_id and row.parent_run_id:
            parent = await self._row(row.parent_workflow_id, row.parent_run_id)
        return replace(call, row=row, parent_phase=parent.phase if parent else "none")

    async def _row(self, workflow_id: str, run_id: str, depth: int = 0) -> ExecutionRow | None:
        tenant = self._gate.tenant_id
        row = await _in_thread("STORE_UNAVAILABLE", lambda: self._rows.get(workflow_id, run_id))
        if row is not None or depth > MAX_LINEAGE:
            return row
        started = await read_started(self._gate.client, workflow_id, run_id)
        if started is None:
            return None
        before = predecessor(started)
        source = await self._row(*before, depth + 1) if before else None
        if before is None:
            made = root_row(started, tenant, self._gate.operator_id)
        else:
            made = heir_row(started, source) if source else None
        if made is None:
            return None
        return await _in_thread("STORE_UNAVAILABLE", lambda: self._keep(made, started))

    def _keep(self, row: ExecutionRow, started: Started) -> ExecutionRow:
        if started.original_run_id != started.run_id:
            Recording(self._gate.store).reset(row, started.original_run_id)
        return self._rows.put(row)

    # 4 ---------------------------------------------------------------------------------------------------------------

    def _capability(self, call: Call) -> Call:
        capability = CAPABILITIES.get(call.activity_type)
        if capability is None:
            return call
        call = replace(call, capability=capability, served=capability.id in self._gate.served)
        if len(self._arguments) != 1:
            return replace(call, input_error=f"expected exactly one argument, a {capability.input.__name__}")
        try:
            request = activity.payload_converter().from_payload(self._arguments[0].payload, capability.input)
        except ValidationError as error:
            return replace(call, input_error=explain(error, capability.input)[:MESSAGE_CHARS])
        except Exception as error:
            return replace(call, input_error=f"{type(error).__name__}: the argument is not a {capability.input.__name__}")
        return replace(call, request=request)


async def read_started(client: Client, workflow_id: str, run_id: str) -> Started | None:
    """What the server wrote when the run began; None if it knows no such run.

    Raises:
        ApplicationError: TEMPORAL_UNAVAILABLE, retryable.
    """
    handle = client.get_workflow_handle(workflow_id, run_id=run_id)
    try:
        async for event in handle.fetch_history_events(page_size=1, rpc_timeout=RPC_TIMEOUT):
            if event.event_type != EventType.EVENT_TYPE_WORKFLOW_EXECUTION_STARTED:
                return None
            facts = event.workflow_execution_started_event_attributes
            parent = facts.parent_workflow_execution
            return Started(
                workflow_id=workflow_id,
                run_id=run_id,
                workflow_type=facts.workflow_type.name,
                original_run_id=facts.original_execution_run_id or run_id,
                first_run_id=facts.first_execution_run_id,
                continued_run_id=facts.continued_execution_run_id or None,
                parent=(parent.workflow_id, parent.run_id) if parent.workflow_id else None,
                foreign_parent=facts.parent_workflow_namespace not in ("", client.namespace),
            )
    except RPCError as error:
        if error.status in (RPCStatusCode.NOT_FOUND, RPCStatusCode.INVALID_ARGUMENT):
            return None
        raise _failure("TEMPORAL_UNAVAILABLE", f"cannot read how the run began: {error.status.name}", retryable=True) from None
    return None


def _who(gate: Gate, info: activity.Info, row: ExecutionRow | None) -> Acting:
    workflow_id, run_id = info.workflow_id or "", info.workflow_run_id or info.activity_run_id or ""
    return Acting(
        keys=keys_of(row, gate.tenant_id),
        actor=Actor(principal_id=row.principal_id if row else "unknown", kind="human" if row else "engine"),
        phase=row.phase if row else "control",
        workflow_id=workflow_id,
        run_id=run_id,
        # The run id belongs to it: activity ids count from one again in a continued run.
        effect_key=f"{workflow_id}/{run_id}/{info.activity_id}",
        attempt_key=f"{run_id}/{info.activity_id}/{info.attempt}",
        attempt=info.attempt,
    )


async def _in_thread(code: str, work: Callable[[], T]) -> T:
    """Run blocking ``work`` off the event loop; whatever it raises is an outage of what ``code`` names."""
    try:
        return await asyncio.to_thread(work)
    except InfrastructureError as error:
        raise _failure(error.code, error.message, error.remedy, retryable=True) from None
    except Exception as error:
        raise _failure(code, f"{type(error).__name__}: {error}", "run `gen4 status`", retryable=True) from None


def _failure(code: str, message: str, remedy: str = "", *, retryable: bool) -> ApplicationError:
    """Raise it ``from None``: with causes and their traces it outgrows the 4 KiB that the server shows while it retries."""
    text = message[:MESSAGE_CHARS]
    detail = {"code": code, "message": text, "remedy": remedy[:MESSAGE_CHARS]}
    return ApplicationError(text, detail, type=code, non_retryable=not retryable)


def _conclude(outcome: Outcome, who: Acting) -> BaseModel | None:
    """The result, or the failure as Temporal needs it: stable code as type, final unless it may pass by itself."""
    error = outcome.error
    match error:
        case None:
            return outcome.result
        case Gen4Error():
            raise _failure(error.code, error.message, error.remedy, retryable=error.retryable) from None
        case ApplicationError():
            raise error
        case Exception() if not outcome.cancelled:
            final = who.attempt >= UNEXPECTED_ATTEMPTS
            raise _failure("UNEXPECTED", outcome.message, "report this defect", retryable=not final) from error
        case _:
            raise error


def _is_cancelled(error: BaseException) -> bool:
    return isinstance(error, asyncio.CancelledError) or is_cancelled_exception(error)

"""The gate: the one interceptor through which every activity passes, also those that nobody registered (design "The gate").

Order of one attempt: gather facts and check them one by one → begin (once more what can have changed, reserve, decision event;
a finished effect is returned, not repeated) → run → settle (cost, breakers, receipt event). What is free and changes nothing
is one commit. Nothing runs while the store or the policy engine is down; that is an outage and retried. A refusal is an event
and final, unless it says when to come back.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import cached_property, partial
from typing import Any, NoReturn

from pydantic import BaseModel, ValidationError
from temporalio import activity
from temporalio.api.enums.v1 import EventType
from temporalio.client import Client
from temporalio.common import RawValue
from temporalio.exceptions import ApplicationError, is_cancelled_exception
from temporalio.service import RPCError, RPCStatusCode
from temporalio.worker import ActivityInboundInterceptor, ActivityOutboundInterceptor, ExecuteActivityInput, Interceptor

from activities.kernel.acting import Acting, as_acting
from activities.kernel.admission import CHECKS, Call, Refusal
from activities.kernel.attempt import Attempt
from activities.kernel.identity import Started
from activities.kernel.inquiry import Inquiry, Questions, in_thread
from activities.kernel.kernel import Kernel
from activities.kernel.metering import Meter, as_metered
from activities.kernel.outcome import MESSAGE_CHARS, Outcome, leaves_receipt, of_error, of_result, told
from activities.kernel.rechecking import as_rechecked
from activities.kernel.recording import Recording
from activities.record.effects import StoredReceipt
from activities.record.executions import ExecutionRow
from schemas.capabilities import CAPABILITIES
from schemas.capability import Capability
from schemas.error import Gen4Error, InfrastructureError
from schemas.request import explain

ATTEMPTS_ALLOWED = 5
"""After so many failures of its own an effect is given up: it is a defect, and waiting does not mend it."""

BEAT_S = 1.0
"""A fifth of the heartbeat timeout that capabilities have unless they say otherwise."""

RPC_TIMEOUT = timedelta(seconds=10)


@dataclass(frozen=True)
class Gate(Interceptor):
    """One per worker.

    Args:
        client: the client of the worker; its namespace is the tenant's.
        served: ids of the capabilities that this worker implements.
    """

    client: Client
    kernel: Kernel
    served: frozenset[str]

    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:
        return _Gated(next, self)

    @cached_property
    def questions(self) -> Questions:
        return Questions(self.kernel)


class _Gated(ActivityInboundInterceptor):
    def __init__(self, next: ActivityInboundInterceptor, gate: Gate) -> None:
        super().__init__(next)
        self._gate = gate
        self._kernel = gate.kernel
        self._recording = Recording(gate.kernel)

    def init(self, outbound: ActivityOutboundInterceptor) -> None:
        self._outbound = outbound
        super().init(outbound)

    async def execute_activity(self, input: ExecuteActivityInput) -> Any:
        async with _beating(self._outbound):
            try:
                return await self._admit(input)
            except Gen4Error as error:  # of the gate's own; those of the activity come out of _conclude
                raise _failure(error.code, error.message, error.remedy, retryable=error.retryable) from None

    async def _admit(self, input: ExecuteActivityInput) -> Any:
        attempt = _attempt(activity.info())
        read = partial(read_started, self._gate.client)
        inquiry = Inquiry(self._kernel, self._gate.questions, attempt, self._gate.client.namespace, read)
        with self._kernel.metrics.stage("capability"):
            call = asked_for(attempt, [value for value in input.args[0] if isinstance(value, RawValue)], self._gate)
        for check in CHECKS:
            call = await inquiry.gather(call, check.needs)
            if refusal := check.judge(call):
                who = attempt.acting(call, self._kernel.store.tenant_id)
                await in_thread("STORE_UNAVAILABLE", partial(self._recording.refused, call, who, refusal))
                self._block(call, refusal)
        if call.capability is None or call.request is None or call.row is None:
            raise AssertionError("the checks let a call through that is not known")
        input.args = [call.request]
        return await self._run(call, call.capability, call.row, attempt.acting(call, self._kernel.store.tenant_id), input)

    def _block(self, call: Call, refusal: Refusal) -> NoReturn:
        trace_id = call.row.trace_id if call.row else ""
        self._kernel.metrics.decision(
            self._kernel.store.tenant_id, call.capability, refusal.decision, refusal.code, trace_id
        )
        later = refusal.retry_after_ms
        raise _failure(refusal.code, refusal.message, refusal.remedy, retryable=later is not None, retry_after_ms=later)

    async def _run(
        self, call: Call, capability: Capability[Any, Any], row: ExecutionRow, who: Acting, input: ExecuteActivityInput
    ) -> Any:
        metrics = self._kernel.metrics
        if leaves_receipt(capability) or _probes(call):
            with metrics.stage("begin"):
                begun = await in_thread("STORE_UNAVAILABLE", partial(self._recording.begin, call, capability, who, row))
            if isinstance(begun, Refusal):
                self._block(call, begun)
            if isinstance(begun, StoredReceipt):
                return capability.output.model_validate_json(begun.result_json or "")
        metrics.decision(self._kernel.store.tenant_id, capability, "allow", "ALLOW", row.trace_id)
        meter, started = Meter(self._kernel.policies.limits.attempt), time.monotonic()
        try:
            again = partial(self._recording.require_standing, call, capability, row, who.attempt_key)
            with as_acting(who), as_metered(meter), as_rechecked(again), metrics.stage("run"):
                outcome = of_result(capability, await self.next.execute_activity(input))
        except BaseException as error:
            outcome = of_error(capability, error, cancelled=_is_cancelled(error))
        latency_ms = round((time.monotonic() - started) * 1000)
        settle = partial(self._recording.settle, call, capability, who, row, outcome, latency_ms, meter.usage())
        metrics.effect(outcome.name, row.trace_id)
        failures = 0
        try:
            with metrics.stage("settle"):
                failures = await asyncio.shield(in_thread("STORE_UNAVAILABLE", settle))
        except (InfrastructureError, asyncio.CancelledError):
            if not outcome.cancelled:
                raise
        return _conclude(outcome, failures)


def asked_for(attempt: Attempt, arguments: list[RawValue], gate: Gate) -> Call:
    """What a call asks for, before it is known whether it may: needs neither store nor server."""
    call = Call(activity_type=attempt.activity_type, workflow_type=attempt.workflow_type, known=frozenset({"capability"}))
    capability = CAPABILITIES.get(attempt.activity_type)
    if capability is None:
        return call
    call = replace(
        call, capability=capability, served=capability.id in gate.served,
        catalogued=gate.kernel.catalogue.get(capability.id) == capability.descriptor_sha256,
    )  # fmt: skip
    if len(arguments) != 1:
        return replace(call, input_error=f"expected exactly one argument, a {capability.input.__name__}")
    try:
        request = activity.payload_converter().from_payload(arguments[0].payload, capability.input)
    except ValidationError as error:
        return replace(call, input_error=explain(error, capability.input)[:MESSAGE_CHARS])
    except Exception as error:
        return replace(call, input_error=f"{type(error).__name__}: the argument is not a {capability.input.__name__}")
    return replace(call, request=request)


def _probes(call: Call) -> bool:
    return call.standing is not None and any(found.decision == "probe" for found in call.standing.breakers.values())


@asynccontextmanager
async def _beating(outbound: ActivityOutboundInterceptor) -> AsyncIterator[None]:
    """Tell the server that this attempt lives, whatever its implementation does: a dead worker is noticed within seconds.

    The first beat comes after a second, so that what is over by then, nearly everything, costs the server no call more.
    """

    async def beat() -> None:
        while True:
            await asyncio.sleep(BEAT_S)
            outbound.heartbeat()  # activity.heartbeat would wait for this very loop while a thread runs the activity

    if not activity.info().heartbeat_timeout:
        yield
        return
    beating = asyncio.create_task(beat())
    try:
        yield
    finally:
        beating.cancel()


def _attempt(info: activity.Info) -> Attempt:
    return Attempt(
        activity_type=info.activity_type, workflow_type=info.workflow_type, namespace=info.namespace,
        workflow_id=info.workflow_id or "", run_id=info.workflow_run_id or "", activity_id=info.activity_id,
        number=info.attempt, is_local=info.is_local, own_run_id=info.activity_run_id or "",
    )  # fmt: skip


async def read_started(client: Client, workflow_id: str, run_id: str) -> Started | None:
    """What the server wrote when the run began; None if it knows no such run.

    Raises:
        InfrastructureError: TEMPORAL_UNAVAILABLE.
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
                stamp_type=event.principal.type if event.HasField("principal") else "",
                stamp_name=event.principal.name if event.HasField("principal") else "",
                scheduled_by=_keyword(facts.search_attributes.indexed_fields, "TemporalScheduledById"),
            )
    except RPCError as error:
        if error.status in (RPCStatusCode.NOT_FOUND, RPCStatusCode.INVALID_ARGUMENT):
            return None
        message = f"cannot read how the run began: {error.status.name}"
        raise InfrastructureError("TEMPORAL_UNAVAILABLE", message, "run `gen4 status`") from None
    return None


def _keyword(fields: Mapping[str, Any], name: str) -> str:
    """A keyword that the server wrote; what does not decode names no schedule, and so starts nothing."""
    if name not in fields:
        return ""
    try:
        return str(json.loads(fields[name].data))
    except ValueError:
        return "undecodable"


def _failure(
    code: str, message: str, remedy: str = "", *, retryable: bool, retry_after_ms: int | None = None
) -> ApplicationError:
    """Raise it ``from None``: with causes and their traces it outgrows the 4 KiB that the server shows while it retries."""
    text = told(message)
    detail = {"code": code, "message": text, "remedy": told(remedy)}
    delay = timedelta(milliseconds=max(retry_after_ms, 1)) if retry_after_ms is not None else None
    return ApplicationError(text, detail, type=code, non_retryable=not retryable, next_retry_delay=delay)


def _conclude(outcome: Outcome, failures: int) -> BaseModel | None:
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
            final = failures >= ATTEMPTS_ALLOWED
            raise _failure("UNEXPECTED", outcome.message, "report this defect", retryable=not final) from error
        case _:
            raise error


def _is_cancelled(error: BaseException) -> bool:
    return isinstance(error, asyncio.CancelledError) or is_cancelled_exception(error)

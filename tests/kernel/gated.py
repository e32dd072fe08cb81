"""A worker of the forge pool behind the gate, and one scripted workflow that plays every workflow type."""

from __future__ import annotations

import asyncio
import threading
import time
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from temporalio import workflow
from temporalio.api.common.v1 import Payload as RawPayload
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.workflowservice.v1 import ResetWorkflowExecutionRequest
from temporalio.client import Client, WorkflowHandle
from temporalio.common import RawValue, RetryPolicy
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.exceptions import ActivityError, ApplicationError
from temporalio.worker import Worker

from activities.kernel.acting import Acting, acting
from activities.kernel.gate import Gate
from activities.kernel.implementing import implements
from activities.kernel.judging import PolicyPort
from activities.kernel.kernel import Kernel
from activities.kernel.rollout import Rollout
from activities.record.chain import EventChain
from activities.record.store import Store, TenantStore
from schemas.capabilities import (
    CAPABILITIES,
    DELIVER,
    FETCH_SOURCE,
    READ_BACK,
    SEAL_COMMIT,
    FetchSource,
    SealCommit,
    SealedCommit,
)
from schemas.capability import Pool
from schemas.event import Event
from schemas.identity import Mode
from schemas.operations import Observed, ReadBack
from schemas.request import ReleaseRequest, ReleaseResult, ReleaseSummary
from schemas.task import Source
from tests.record.templates import new_sqlite
from workers.kernel import open_kernel
from workers.registration import activities_of, served_by

TENANT, OPERATOR = "local", "operator"


@dataclass(frozen=True)
class Server:
    address: str

    async def client(self) -> Client:
        deadline = time.monotonic() + 30
        while True:
            try:
                return await Client.connect(self.address, data_converter=pydantic_data_converter)
            except RuntimeError:
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(0.1)


@dataclass
class Forge:
    """Implements the forge pool and notes who called. ``trouble`` is run first and may raise."""

    calls: list[tuple[str, Acting]] = field(default_factory=list)
    trouble: Callable[[str, Acting], None] = lambda name, who: None
    threads: set[int] = field(default_factory=set)
    called: threading.Event = field(default_factory=threading.Event)

    @implements(FETCH_SOURCE)
    def fetch(self, request: FetchSource) -> Source:
        self._note("fetch")
        return Source(repository=request.repository, ref=request.ref, base_commit="1" * 40, base_tree="2" * 40, commit_time=1)

    @implements(SEAL_COMMIT)
    def seal(self, request: SealCommit) -> SealedCommit:
        self._note("seal")
        return SealedCommit(commit_id="3" * 40, target_ref=f"refs/heads/{len(self.calls)}", expected_head="0" * 40)

    @implements(DELIVER)
    def deliver(self, request: ReleaseRequest) -> ReleaseResult:
        self._note("deliver")
        return ReleaseResult(release=ReleaseSummary(mode=request.mode, ref=request.target_ref, commit=request.commit_id))

    @implements(READ_BACK)
    def read_back(self, request: ReadBack) -> Observed:
        self._note("read_back")
        return Observed(state="absent", ref="refs/heads/x")

    def _note(self, name: str) -> None:
        self.calls.append((name, acting()))
        self.threads.add(threading.get_ident())
        self.called.set()
        self.trouble(name, acting())

    def wait(self) -> None:
        """Until the first call has come."""
        assert self.called.wait(30)

    def names(self) -> list[str]:
        return [name for name, _ in self.calls]


def broken() -> RawValue:
    """A payload that says JSON and is none."""
    return RawValue(RawPayload(metadata={"encoding": b"json/plain"}, data=b'{"repository": '))


@workflow.defn(dynamic=True, sandboxed=False)
class Scripted:
    """Whatever type it is started as, it does the steps of its argument and returns what each gave."""

    def __init__(self) -> None:
        self._go = False
        self._more: list[dict[str, Any]] = []

    @workflow.signal
    def go(self, more: list[dict[str, Any]]) -> None:
        self._more, self._go = more, True

    @workflow.run
    async def run(self, args: Sequence[RawValue]) -> list[Any]:
        steps = workflow.payload_converter().from_payload(args[0].payload, list)
        done = [await self._step(step) for step in steps]
        return done + [await self._step(step) for step in self._more]

    async def _step(self, step: dict[str, Any]) -> Any:
        if "wait" in step:
            await workflow.wait_condition(lambda: self._go)
            return "waited"
        if "child" in step:
            return await workflow.execute_child_workflow(step["child"], step["steps"], id=str(workflow.uuid4()))
        if "continue" in step:
            workflow.continue_as_new(step["continue"])
        arguments = [broken() if value == "broken" else value for value in step["args"]]
        try:
            if "local" in step:
                return await workflow.execute_local_activity(
                    step["call"], args=arguments, start_to_close_timeout=timedelta(seconds=30)
                )
            return {"ok": await self._call(step["call"], arguments)}
        except (ActivityError, ApplicationError) as error:  # a local activity fails without the envelope
            cause = error.cause if isinstance(error, ActivityError) else error
            if not isinstance(cause, ApplicationError):
                raise
            return {"code": cause.type, "final": cause.non_retryable, "details": list(cause.details), "message": cause.message}

    async def _call(self, name: str, arguments: list[Any]) -> Any:
        return await workflow.execute_activity(
            name, args=arguments, start_to_close_timeout=timedelta(seconds=30), heartbeat_timeout=timedelta(seconds=5),
            cancellation_type=workflow.ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
            retry_policy=RetryPolicy(initial_interval=timedelta(milliseconds=100), maximum_interval=timedelta(milliseconds=300)),
        )  # fmt: skip


@dataclass
class Gated:
    """A client, the store behind the gate, and the implementation that it guards."""

    client: Client
    queue: str
    store: Store
    forge: Forge
    kernel: Kernel

    async def start(self, kind: str, *steps: dict[str, Any]) -> WorkflowHandle[Any, Any]:
        return await self.client.start_workflow(kind, list(steps), id=f"{kind}-{uuid.uuid4()}", task_queue=self.queue)

    async def run(self, kind: str, *steps: dict[str, Any]) -> Any:
        return await asyncio.wait_for((await self.start(kind, *steps)).result(), timeout=60)

    async def reset(self, handle: WorkflowHandle[Any, Any]) -> str:
        """Reset to the end of the first workflow task; returns the id of the new run."""
        execution = WorkflowExecution(workflow_id=handle.id, run_id=handle.first_execution_run_id or "")
        request = ResetWorkflowExecutionRequest(
            namespace=self.client.namespace, workflow_execution=execution, reason="test", workflow_task_finish_event_id=4,
            request_id=str(uuid.uuid4()),
        )  # fmt: skip
        return (await self.client.workflow_service.reset_workflow_execution(request)).run_id

    def events(self, session_id: str) -> list[tuple[Event, dict[str, Any]]]:
        """What happened under the session's lease."""
        return [pair for pair in self.chain(session_id) if pair[0].kind != "lease.issued"]

    def chain(self, session_id: str) -> list[tuple[Event, dict[str, Any]]]:
        return list(EventChain(self.store.tenant(TENANT)).read(session_id))

    def kinds(self, session_id: str) -> list[str]:
        return [event.kind for event, _ in self.events(session_id)]


def every_capability() -> dict[str, str]:
    return {capability.id: capability.descriptor_sha256 for capability in CAPABILITIES.values()}


def kernel_of(store: TenantStore, policy: PolicyPort, namespace: str = "default") -> Kernel:
    return open_kernel(store, policy, every_capability(), namespace)


@asynccontextmanager
async def gated(
    server: Server, folder: Path, policy: PolicyPort, forge: Forge | None = None, *, bed: object | None = None,
    rollout: Rollout | None = None, cooldown_ms: int | None = None, catalogue: dict[str, str] | None = None,
    identity: Mode = "embedded", url: str | None = None,
) -> AsyncIterator[Gated]:  # fmt: skip
    """Args:
    bed: implements the adaptive pool, which is then served instead of the forge.
    cooldown_ms: of every breaker; default: that of the policy.
    url: of the store; default: a file in ``folder``.
    """
    client, forge, queue = await server.client(), forge or Forge(), f"gated-{uuid.uuid4()}"
    store = Store.open(url or new_sqlite(folder / "store.db"))
    kernel = open_kernel(store.tenant(TENANT), policy, every_capability() if catalogue is None else catalogue, "default")
    rules = {kind: rule.model_copy(update={"cooldown_ms": cooldown_ms}) for kind, rule in kernel.policies.breakers.items()}
    policies = kernel.policies.model_copy(update={"breakers": rules}) if cooldown_ms is not None else kernel.policies
    kernel = replace(kernel, rollout=rollout, policies=policies, identity=identity)
    pool: Pool = "adaptive" if bed is not None else "forge"
    gate = Gate(client=client, kernel=kernel, served=served_by(pool))
    try:
        async with Worker(
            client, task_queue=queue, workflows=[Scripted], activities=activities_of([bed or forge], pool), interceptors=[gate],
            activity_executor=ThreadPoolExecutor(4), max_concurrent_activities=4,
        ):  # fmt: skip
            yield Gated(client, queue, store, forge, kernel)
    finally:
        store.close()

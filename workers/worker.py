"""``python -m workers.worker``: one process that polls the workflow queue and every activity pool of this home.

Each pool has its own queue and slots, so that pools can become processes with their own credentials without a change
to workflows. All activities pass the gate.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

from temporalio.client import Client
from temporalio.runtime import Runtime
from temporalio.worker import Worker
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner, SandboxRestrictions

from activities.control.seeding import ENGINE
from activities.kernel.gate import Gate
from activities.kernel.metrics import KernelMetrics, Watched
from activities.kernel.watching import StoreView, Watch
from activities.record.home import Home
from activities.record.kill_switches import KillSwitches
from activities.record.store import now_ms
from activities.testbed.harness import harness_version
from schemas.capabilities import RUN_TESTS
from schemas.capability import WORKFLOW_QUEUE, Pool, executor_tag, queue_beside, queue_of
from schemas.error import Gen4Error, InfrastructureError
from schemas.text import plain
from workers.client import connect
from workers.executions import IDENTITY, ServerExecutions
from workers.fabric import (
    ENDPOINTS,
    REFUSED_EXIT_CODE,
    UNAVAILABLE_EXIT_CODE,
    WORKER_READY,
    WORKER_REFUSED,
    FabricState,
    write_error,
    write_json,
)
from workers.logs import configure
from workers.ports import Ports, open_ports
from workers.registration import activities_of, check_registration, served_by
from workers.schedules import Recurring, ensure_schedules, recurring
from workers.server import prepare_server
from workers.settings import Settings, read_settings
from workers.telemetry import Telemetry, serving
from workflows import PASSTHROUGH, WORKFLOWS

SLOTS: dict[Pool, int] = {"stable": 8, "adaptive": 2, "forge": 2, "signing": 1}
"""Activities at once, per pool. Adaptive ones keep a core busy each, in a sandbox."""

CACHED_WORKFLOWS = 200
"""A cached workflow holds about 20 KiB."""

GRACE = timedelta(seconds=10)
BEAT = timedelta(seconds=1)
"""Heartbeats go out this often; the SDK's own choice, four fifths of the timeout, leaves a busy machine no slack."""
CONNECT_TIMEOUT_S = 30.0


async def serve(settings: Settings) -> None:
    """Poll until SIGTERM, then let running activities end."""
    metrics = KernelMetrics()
    with serving(metrics, settings.metrics_port) as telemetry:
        await _serve(settings, metrics, telemetry)


async def _serve(settings: Settings, metrics: KernelMetrics, telemetry: Telemetry) -> None:
    home = Home.open(settings.home)
    endpoints = FabricState.model_validate_json((home.run / ENDPOINTS).read_bytes())
    client = await _connected(endpoints, telemetry.runtime)
    if endpoints.external:
        await prepare_server(client)
    executions = ServerExecutions(client, asyncio.get_running_loop())
    ports = await asyncio.to_thread(open_ports, settings, home, endpoints, executions, metrics)
    metrics.watch(_watched(ports))
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    view = StoreView(ports.kernel.store, ports.kernel.chain)
    await _start_schedules(client, ports, recurring(settings))
    async with contextlib.AsyncExitStack() as stack:
        stack.enter_context(Watch(ports.running, view.look, view.tell))
        for worker in workers(client, ports):
            await stack.enter_async_context(worker)
        ready = {"metrics_url": telemetry.metrics_url, "temporal_metrics_url": telemetry.temporal_metrics_url}
        write_json(home.run / WORKER_READY, {"pid": os.getpid(), **ready})
        await stop.wait()


async def _start_schedules(client: Client, ports: Ports, wanted: tuple[Recurring, ...]) -> None:
    """The fabric's own principal owns them: the gate lets no schedule act without an owner."""

    def own() -> None:
        for one in wanted:
            ports.kernel.directory.own_schedule(one.id, ENGINE.principal_id, ENGINE, now_ms())

    await asyncio.to_thread(own)
    await ensure_schedules(client, wanted)


def _watched(ports: Ports) -> Watched:
    kernel = ports.kernel
    switches = KillSwitches(kernel.store)
    return Watched(
        balances=kernel.ledger.balances, breakers=kernel.breakers.all, kill_switches=lambda: len(switches.active()),
        sandboxes=lambda: len(ports.running.entries()),
    )  # fmt: skip


def workers(client: Client, ports: Ports) -> Iterator[Worker]:
    """One for workflows, one per pool, and one for what must run with our executor."""
    identity = f"{os.getpid()}@{socket.gethostname()}{IDENTITY}{executor_tag(ports.executor)}"
    yield Worker(
        client, task_queue=WORKFLOW_QUEUE, workflows=WORKFLOWS, workflow_runner=workflow_runner(),
        max_cached_workflows=CACHED_WORKFLOWS, graceful_shutdown_timeout=GRACE, disable_eager_activity_execution=True,
    )  # fmt: skip
    for pool, slots in SLOTS.items():
        check_registration(ports.implementers, pool, ports.kernel.catalogue)
        gate = Gate(client=client, kernel=ports.kernel, served=served_by(pool))
        queues = {queue_of(pool): slots}
        if pool == RUN_TESTS.pool:
            queues[queue_beside(pool, ports.executor)] = 1
        for queue, most in queues.items():
            yield Worker(
                client, task_queue=queue, activities=activities_of(ports.implementers, pool), interceptors=[gate],
                activity_executor=ThreadPoolExecutor(most, thread_name_prefix=pool), max_concurrent_activities=most,
                identity=identity,
                graceful_shutdown_timeout=GRACE, max_heartbeat_throttle_interval=BEAT, default_heartbeat_throttle_interval=BEAT,
            )  # fmt: skip


def workflow_runner() -> SandboxedWorkflowRunner:
    """Workflows are sandboxed; contracts and canonical bytes pass through (pure, and checked by a test of their imports)."""
    return SandboxedWorkflowRunner(restrictions=SandboxRestrictions.default.with_passthrough_modules(*PASSTHROUGH))


async def _connected(endpoints: FabricState, runtime: Runtime) -> Client:
    """Temporal starts at the same time as we do."""
    deadline = time.monotonic() + CONNECT_TIMEOUT_S
    while True:
        try:
            return await connect(endpoints.temporal_address, endpoints.namespace, external=endpoints.external, runtime=runtime)
        except InfrastructureError:
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.1)


def main() -> int:
    configure()
    harness_version()  # of the code that this process runs, whatever is installed under it later
    settings = read_settings()
    refused = Home.open(settings.home).run / WORKER_REFUSED
    refused.unlink(missing_ok=True)
    try:
        asyncio.run(serve(settings))
    except Gen4Error as error:
        write_error(refused, error)
        print(plain(str(error)), file=sys.stderr, flush=True)
        return UNAVAILABLE_EXIT_CODE if error.retryable else REFUSED_EXIT_CODE
    return 0


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)

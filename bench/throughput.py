"""What the gate costs a workflow: one-activity workflows per second, gated against ungated, on one Temporal server.

    python -m bench.throughput [--rounds N] [--workflows N] [--concurrency N] [--unsandboxed]

Both arms have the settings of a worker, the same workflow, the same activity and as many threads; they differ in the gate
alone, with a real store on disk and a real policy engine behind it. Rounds alternate, because the load of the machine
changes. Prints one JSON document: workflows per second of each round and the ratio of all rounds; processor milliseconds a
workflow of this process and of the server, and their ratio, which the load of the machine changes less; and mean
milliseconds of each stage of the gate, waiting for threads and for the store's writer included.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from temporalio import activity
from temporalio.client import Client
from temporalio.common import RawValue
from temporalio.worker import Interceptor, UnsandboxedWorkflowRunner, Worker, WorkflowRunner

from activities.kernel.implementing import implements
from bench.gates import GateBed, open_gate_bed
from bench.one_activity import OneActivity
from bench.servers import Server, client_of, policy_engine, temporal_server
from schemas.capabilities import FETCH_SOURCE, FetchSource
from schemas.task import Source
from workers.worker import CACHED_WORKFLOWS, workflow_runner

TARGET = 0.8
WARM_UP = 40
ROUND_LIMIT = timedelta(seconds=60)

SOURCE = Source(repository="/repository", ref="HEAD", base_commit="1" * 40, base_tree="2" * 40, commit_time=1)


class Forge:
    """Answers at once, so that what is measured is the way there and back."""

    @implements(FETCH_SOURCE)
    def fetch(self, request: FetchSource) -> Source:
        return SOURCE


@activity.defn(dynamic=True)
def gated_fetch(request: Sequence[RawValue]) -> Any:
    """As a worker registers it: the gate has put the decoded request here."""
    return Forge().fetch(request)  # type: ignore[arg-type]


@activity.defn(name=FETCH_SOURCE.id)
def ungated_fetch(request: FetchSource) -> Source:
    return SOURCE


@dataclass
class Arm:
    """Rounds of one kind. ``queue``: of the workflows; the activity's is beside it."""

    name: str
    queue: str = field(default_factory=lambda: f"bench-{uuid.uuid4()}")
    per_s: list[float] = field(default_factory=list)
    cpu_ms: list[float] = field(default_factory=list)
    server_cpu_ms: list[float] = field(default_factory=list)

    @property
    def activity_queue(self) -> str:
        return f"{self.queue}.activities"

    def workers(
        self, client: Client, activities: list[Any], interceptors: list[Interceptor], slots: int, runner: WorkflowRunner
    ) -> Iterator[Worker]:
        yield Worker(
            client, task_queue=self.queue, workflows=[OneActivity], workflow_runner=runner,
            max_cached_workflows=CACHED_WORKFLOWS, disable_eager_activity_execution=True,
        )  # fmt: skip
        yield Worker(
            client, task_queue=self.activity_queue, activities=activities, interceptors=interceptors,
            activity_executor=ThreadPoolExecutor(slots), max_concurrent_activities=slots,
        )  # fmt: skip

    async def round(self, client: Client, server: Server, workflows: int, concurrency: int) -> None:
        began, cpu, server_cpu = time.perf_counter(), time.process_time(), server.cpu_s()
        await self.run(client, workflows, concurrency)
        self.per_s.append(round(workflows / (time.perf_counter() - began), 1))
        self.cpu_ms.append((time.process_time() - cpu) * 1000 / workflows)
        self.server_cpu_ms.append((server.cpu_s() - server_cpu) * 1000 / workflows)

    async def run(self, client: Client, workflows: int, concurrency: int) -> None:
        places = asyncio.Semaphore(concurrency)

        async def one() -> None:
            async with places:
                found = await client.execute_workflow(
                    OneActivity.run, self.activity_queue, id=f"bench-{uuid.uuid4()}", task_queue=self.queue,
                    execution_timeout=ROUND_LIMIT,
                )
                if found != SOURCE.base_tree:
                    raise AssertionError(f"{self.name}: the workflow returned {found!r}")

        await asyncio.gather(*(one() for _ in range(workflows)))

    @property
    def all_cpu_ms(self) -> float:
        """Processor time a workflow, of this process and the server; the policy engine's is left out."""
        return statistics.fmean(self.cpu_ms) + statistics.fmean(self.server_cpu_ms)

    def report(self) -> dict[str, Any]:
        return {
            "per_s": self.per_s, "median_per_s": round(statistics.median(self.per_s), 1),
            "cpu_ms_a_workflow": round(statistics.fmean(self.cpu_ms), 2),
            "server_cpu_ms_a_workflow": round(statistics.fmean(self.server_cpu_ms), 2),
        }  # fmt: skip


async def measure(server: Server, bed: GateBed, options: argparse.Namespace) -> dict[str, Any]:
    client = await client_of(server.address)
    gated, ungated = Arm("gated"), Arm("ungated")
    gate = bed.gate(client)
    runner = UnsandboxedWorkflowRunner() if options.unsandboxed else workflow_runner()
    async with AsyncExitStack() as stack:
        for worker in [
            *gated.workers(client, [gated_fetch], [gate], options.concurrency, runner),
            *ungated.workers(client, [ungated_fetch], [], options.concurrency, runner),
        ]:
            await stack.enter_async_context(worker)
        for arm in (ungated, gated):
            await arm.run(client, WARM_UP, options.concurrency)
        for number in range(options.rounds):
            for arm in (gated, ungated) if number % 2 else (ungated, gated):
                await arm.round(client, server, options.workflows, options.concurrency)
    ratio = statistics.harmonic_mean(gated.per_s) / statistics.harmonic_mean(ungated.per_s)  # rounds are of the same size
    return {
        "gated": gated.report(), "ungated": ungated.report(), "gate_stages_ms": bed.stage_ms(),
        "cpu_ratio": round(ungated.all_cpu_ms / gated.all_cpu_ms, 3), "ratio": round(ratio, 3), "target": TARGET,
        "met": ratio >= TARGET,
    }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--workflows", type=int, default=100, help="per round and arm")
    parser.add_argument("--concurrency", type=int, default=50)
    parser.add_argument("--unsandboxed", action="store_true", help="without the SDK's workflow sandbox, which workers use")
    options = parser.parse_args()
    with temporal_server() as server, policy_engine() as policy, open_gate_bed(policy) as bed:
        result = asyncio.run(measure(server, bed, options))
    print(json.dumps({**vars(options), **result}, indent=2))
    return 0 if result["met"] else 1


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)

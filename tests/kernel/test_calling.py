"""What a workflow's ``call`` asks of the server: pool, ceilings, endless retries, typed results."""

from __future__ import annotations

import asyncio
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

from temporalio import workflow
from temporalio.worker import Worker

from activities.kernel.gate import Gate
from activities.record.store import Store
from schemas.capabilities import FETCH_SOURCE, SEAL_COMMIT, FetchSource, SealCommit
from schemas.capability import queue_of
from schemas.request import BundleRef
from tests.kernel.gated import TENANT, Forge, Server, kernel_of
from tests.policy.running import RunningOpa
from tests.record.templates import new_sqlite
from workers.registration import activities_of, served_by
from workflows.calling import call


@workflow.defn(name="Remediation", sandboxed=False)
class Calls:
    @workflow.run
    async def run(self) -> list[str]:
        source = await call(FETCH_SOURCE, FetchSource(repository="/r", ref="main"), summary="ä" * 150)
        bundle = BundleRef(directory="/b", bundle_digest="sha256:" + "4" * 64, stamp_id="s", stamp_sha256="5" * 64)
        request = SealCommit(
            source=source, result_tree="6" * 40, bundle=bundle, goal="g", explorer="e", mode="branch", target=None
        )
        sealed = await call(SEAL_COMMIT, request, timeout=timedelta(days=9))
        return [type(source).__name__, type(sealed).__name__]


def test_calls_reach_their_pool_with_its_limits(server: Server, opa: RunningOpa, folder: Path) -> None:
    async def scenario() -> None:
        client, store = await server.client(), Store.open(new_sqlite(folder / "store.db"))
        gate = Gate(client=client, kernel=kernel_of(store.tenant(TENANT), opa.engine), served=served_by("forge"))
        pool: dict[str, Any] = {
            "activities": activities_of([Forge()], "forge"), "interceptors": [gate], "activity_executor": ThreadPoolExecutor(2),
        }  # fmt: skip
        queue = f"calls-{uuid.uuid4()}"
        async with (
            Worker(client, task_queue=queue, workflows=[Calls]),
            Worker(client, task_queue=queue_of("forge"), max_concurrent_activities=2, **pool),
        ):
            handle = await client.start_workflow("Remediation", id=f"calls-{uuid.uuid4()}", task_queue=queue)
            assert await asyncio.wait_for(handle.result(), 30) == ["Source", "SealedCommit"]
        events = (await handle.fetch_history()).events
        fetch, seal = [
            (event.activity_task_scheduled_event_attributes, event.user_metadata)
            for event in events
            if event.HasField("activity_task_scheduled_event_attributes")
        ]
        assert fetch[0].task_queue.name == "gen4.forge" and fetch[0].activity_type.name == "forge.fetch_source"
        assert fetch[0].start_to_close_timeout.ToTimedelta() == FETCH_SOURCE.timeout
        assert fetch[0].heartbeat_timeout.ToTimedelta() == FETCH_SOURCE.heartbeat
        assert fetch[0].retry_policy.maximum_attempts == 0
        assert fetch[0].retry_policy.maximum_interval.ToTimedelta() == timedelta(seconds=10)
        assert len(fetch[1].summary.data) <= 202  # 200 bytes and the quotes of JSON
        assert seal[0].start_to_close_timeout.ToTimedelta() == SEAL_COMMIT.timeout  # a ceiling, whatever was asked
        store.close()

    asyncio.run(scenario())

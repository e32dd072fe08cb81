"""What the fabric asks of a Temporal server, and the schedules that it keeps there."""

from __future__ import annotations

import asyncio
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from temporalio.api.enums.v1 import IndexedValueType
from temporalio.api.operatorservice.v1 import AddSearchAttributesRequest, ListSearchAttributesRequest
from temporalio.client import Client, ScheduleActionStartWorkflow
from temporalio.service import RPCError

from schemas.error import InfrastructureError, Refused
from tests.policy.running import free_port
from workers.client import connect
from workers.executions import ServerExecutions
from workers.fabric import SEARCH_ATTRIBUTES
from workers.schedules import Recurring, ensure_schedules, schedule_states
from workers.server import prepare_server
from workers.toolchain import locate

REAPER = Recurring("gen4-reaper", "Reaper", 60)
NAMESPACES = ("plain", "odd")


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    port = free_port()
    argv = [str(locate("temporal").path), "server", "start-dev", "--headless", "--ip", "127.0.0.1", "--port", str(port)]
    argv += ["--log-level", "error", *(word for name in NAMESPACES for word in ("--namespace", name))]
    folder = tmp_path_factory.mktemp("temporal")
    server = subprocess.Popen(argv, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    yield f"127.0.0.1:{port}"
    server.terminate()
    server.wait(20)


def run(address: str, work: Callable[[Client], Awaitable[Any]], namespace: str = "plain") -> Any:
    async def together() -> Any:
        deadline = time.monotonic() + 30
        while True:
            try:
                return await work(await connect(address, namespace))
            except InfrastructureError:
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(0.2)

    return asyncio.run(together())


def test_missing_search_attributes_are_added_once(address: str) -> None:
    async def prepare(client: Client) -> set[str]:
        await prepare_server(client)
        await prepare_server(client)
        known = await client.operator_service.list_search_attributes(ListSearchAttributesRequest(namespace=client.namespace))
        return set(known.custom_attributes)

    assert run(address, prepare) >= set(SEARCH_ATTRIBUTES)


def test_an_attribute_of_another_type_is_refused(address: str) -> None:
    async def prepare(client: Client) -> None:
        wrong = {"Risk": IndexedValueType.INDEXED_VALUE_TYPE_INT}
        await client.operator_service.add_search_attributes(
            AddSearchAttributesRequest(namespace=client.namespace, search_attributes=wrong)
        )
        await prepare_server(client)

    with pytest.raises(Refused, match=r"SEARCH_ATTRIBUTE_TYPE: Risk"):
        run(address, prepare, "odd")


def test_a_namespace_that_is_missing_is_refused(address: str) -> None:
    with pytest.raises(Refused, match="NAMESPACE_MISSING"):
        run(address, prepare_server, "absent")


def test_an_external_server_that_does_not_answer_names_its_settings() -> None:
    with pytest.raises(InfrastructureError) as error:
        asyncio.run(connect(f"127.0.0.1:{free_port()}", "plain", external=True))
    assert error.value.code == "TEMPORAL_UNREACHABLE" and "GEN4_TEMPORAL_ADDRESS" in error.value.remedy


def test_a_schedule_follows_the_settings_and_stays_paused(address: str) -> None:
    async def change(client: Client) -> None:
        handle = client.get_schedule_handle(REAPER.id)
        await asyncio.gather(*(ensure_schedules(client, (REAPER,)) for _ in range(3)))
        (state,) = await schedule_states(client, (REAPER,))
        assert (state.paused, state.last_run, state.failed) == (False, None, False)
        await handle.pause()
        await ensure_schedules(client, (Recurring(REAPER.id, "Reaper", 7),))
        found = await handle.describe()
        assert isinstance(found.schedule.action, ScheduleActionStartWorkflow)
        assert [interval.every.total_seconds() for interval in found.schedule.spec.intervals] == [7]
        assert found.schedule.state.paused
        updated = found.info.last_updated_at
        await ensure_schedules(client, (Recurring(REAPER.id, "Reaper", 7),))
        assert (await handle.describe()).info.last_updated_at == updated, "nothing changed, nothing is written"
        await ensure_schedules(client, (Recurring(REAPER.id, "Reaper", 0),))
        await ensure_schedules(client, (Recurring(REAPER.id, "Reaper", 0),))
        with pytest.raises(RPCError):
            await handle.describe()
        (missing,) = await schedule_states(client, (REAPER,))
        assert (missing.status, missing.failed) == ("MISSING", True)

    run(address, change)


def test_the_record_of_a_run_is_what_the_server_says(address: str) -> None:
    async def ask(client: Client) -> None:
        executions = ServerExecutions(client, asyncio.get_running_loop())
        handle = await client.start_workflow("Anything", id="w", task_queue="nobody")

        def look() -> None:
            facts = executions.describe("w")
            assert facts is not None and facts.running
            assert facts.run_id == facts.first_run_id == handle.first_execution_run_id
            assert executions.describe("w", facts.run_id) == facts
            assert executions.terminate("w", facts.run_id, "test")
            assert not executions.terminate("w", facts.run_id, "test")
            ended = executions.describe("w")
            assert ended is not None and ended.status == "TERMINATED"
            history = executions.history("w", facts.run_id)
            assert history is not None and "workflowExecutionTerminatedEventAttributes" in history["events"][-1]
            assert executions.describe("nobody") is None
            assert executions.history("w", "00000000-0000-4000-8000-000000000000") is None
            assert not executions.terminate("nobody", "00000000-0000-4000-8000-000000000000", "test")

        await asyncio.to_thread(look)

    run(address, ask)


def test_a_server_that_is_gone_is_an_outage_for_whoever_asks(tmp_path: Path) -> None:
    port = free_port()
    argv = [str(locate("temporal").path), "server", "start-dev", "--headless", "--ip", "127.0.0.1", "--port", str(port)]
    server = subprocess.Popen(
        [*argv, "--log-level", "error"], cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )

    async def ask(client: Client) -> str:
        executions = ServerExecutions(client, asyncio.get_running_loop())
        server.kill()
        server.wait(10)
        try:
            await asyncio.to_thread(executions.describe, "w")
        except InfrastructureError as error:
            return error.code
        return ""

    assert run(f"127.0.0.1:{port}", ask, "default") == "TEMPORAL_UNAVAILABLE"

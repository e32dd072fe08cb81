"""Whoever ends a session ends what runs for it: the sandbox is gone within seconds, whether it was cancelled or terminated."""

from __future__ import annotations

import asyncio
import re
import time
import urllib.request
from typing import Any

import pytest
from temporalio.client import Client

from tests.e2e.harness import BUGGY, Fabric
from workers.client import connect

SLOW = {**BUGGY, "tests/test_slow.py": "import time\n\n\ndef test_slow():\n    time.sleep(55)\n"}
GONE_S, CLOSED_S = 10.0, 45.0


def sandboxes(status: dict[str, Any]) -> int:
    with urllib.request.urlopen(status["metrics_url"], timeout=5) as answer:  # noqa: S310  our own, on loopback
        found = re.search(r"^gen4_sandboxes_running(?:\{.*\})? ([0-9.]+)$", answer.read().decode(), re.MULTILINE)
    assert found is not None
    return int(float(found[1]))


def until(reached: Any, timeout: float) -> float:
    """Seconds until it was reached."""
    began = time.monotonic()
    while not reached():
        assert time.monotonic() - began < timeout
        time.sleep(0.1)
    return time.monotonic() - began


@pytest.mark.parametrize("how", ["cancel", "terminate"])
def test_the_sandbox_is_gone_and_the_session_closed(fabric: Fabric, how: str) -> None:
    path = fabric.repository(f"slow-{how}", SLOW)
    started = fabric.gen4("remediate", "--repository", str(path), "--goal", "x", "--json").json
    status = fabric.status()
    until(lambda: sandboxes(status) > 0 and "testbed.run_tests" in fabric.gen4("events", started["workflow_id"]).out, 60)

    async def end() -> None:
        client: Client = await connect(status["temporal_address"], "default")
        await getattr(client.get_workflow_handle(started["workflow_id"]), how)()

    asyncio.run(end())
    assert until(lambda: sandboxes(status) == 0, GONE_S) < GONE_S

    async def reap() -> None:
        client: Client = await connect(status["temporal_address"], "default")
        await client.get_schedule_handle("gen4-reaper").trigger()

    if how == "terminate":
        asyncio.run(reap())
    until(lambda: "session.closed" in fabric.gen4("events", started["workflow_id"]).out, CLOSED_S)
    assert fabric.gen4("events", started["workflow_id"], "--verify").code == 0
    assert fabric.gen4("ledger", "reconcile", "--json").code == 0

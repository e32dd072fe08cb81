"""``kill -9`` of worker, executor and server in every phase: the session goes on, effects stay single."""

from __future__ import annotations

import os
import signal
import sqlite3
import time
from pathlib import Path
from typing import Any

from tests.e2e.harness import Fabric, closed, git, waiting


def stage_runs(name: str) -> Any:
    return lambda document: any(stage["name"].startswith(name) and stage.get("ended_ms") is None for stage in document["stages"])


def kill(fabric: Fabric, process: str) -> None:
    os.kill(fabric.state()["processes"][process], signal.SIGKILL)


def effects_per_key(fabric: Fabric) -> dict[str, int]:
    with sqlite3.connect(f"file:{fabric.home / 'store.db'}?mode=ro", uri=True) as store:
        return dict(store.execute("select effect_key, count(*) from effect group by effect_key").fetchall())


def start(fabric: Fabric, name: str) -> tuple[Path, str]:
    repository = fabric.repository(name)
    started = fabric.gen4("remediate", "-r", str(repository), "-g", "clamp is wrong", "--json").json
    return repository, started["workflow_id"]


def approve(fabric: Fabric, workflow_id: str) -> None:
    pending = fabric.wait_for(workflow_id, waiting)
    approved = fabric.gen4("approve", workflow_id, "--digest", pending["approval"]["action_digest"])
    assert approved.code == 0, approved.err


def delivered_once(fabric: Fabric, repository: Path, workflow_id: str) -> None:
    """The session got to its end, and nothing that it did outside was done twice."""
    result = fabric.wait_for(workflow_id, closed)["result"]
    assert result["outcome"] == "merged"
    assert git(repository, "rev-parse", result["release"]["ref"]) == result["release"]["commit"]
    kinds = [event["kind"] for event in fabric.gen4("events", workflow_id, "--json").json]
    assert kinds.count("change.opened") == 1
    assert set(effects_per_key(fabric).values()) == {1}
    assert fabric.gen4("events", workflow_id, "--verify").code == 0


def test_worker_then_executor_killed_in_the_middle_of_a_session_are_replaced_and_it_goes_on(fabric: Fabric) -> None:
    repository, workflow_id = start(fabric, "killed-explore")
    for process, stage in (("worker", "explore"), ("executor", "compile")):
        fabric.wait_for(workflow_id, stage_runs(stage))
        kill(fabric, process)
    approve(fabric, workflow_id)
    delivered_once(fabric, repository, workflow_id)


def test_a_worker_killed_in_compile_and_right_after_the_approval_delivers_once(fabric: Fabric) -> None:
    repository, workflow_id = start(fabric, "killed-compile")
    fabric.wait_for(workflow_id, stage_runs("compile"))
    kill(fabric, "worker")
    fabric.wait_for(workflow_id, waiting)
    worker = fabric.state()["processes"]["worker"]
    approve(fabric, workflow_id)
    os.kill(worker, signal.SIGKILL)
    delivered_once(fabric, repository, workflow_id)


def test_a_server_killed_and_a_fabric_stopped_while_a_session_waits_lose_nothing(fabric: Fabric) -> None:
    repository, workflow_id = start(fabric, "killed-server")
    pending = fabric.wait_for(workflow_id, waiting)["approval"]
    kill(fabric, "temporal")
    time.sleep(1)
    assert fabric.wait_for(workflow_id, waiting)["approval"] == pending
    assert fabric.gen4("down").code == 0
    assert fabric.gen4("status").code == 3
    assert fabric.gen4("up").code == 0
    approve(fabric, workflow_id)
    delivered_once(fabric, repository, workflow_id)

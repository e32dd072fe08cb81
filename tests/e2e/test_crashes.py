"""``kill -9`` of worker, executor and server in every phase: the session goes on, effects stay single."""

from __future__ import annotations

import os
import signal
import sqlite3
import time
from typing import Any

import pytest

from tests.e2e.harness import Fabric, git
from tests.e2e.test_remediation import closed, waiting


def stage_runs(name: str) -> Any:
    return lambda document: any(stage["name"].startswith(name) and stage.get("ended_ms") is None for stage in document["stages"])


def kill(fabric: Fabric, process: str) -> None:
    os.kill(fabric.status()["processes"][process], signal.SIGKILL)


def effects_per_key(fabric: Fabric) -> dict[str, int]:
    with sqlite3.connect(f"file:{fabric.home / 'store.db'}?mode=ro", uri=True) as store:
        return dict(store.execute("select effect_key, count(*) from effect group by effect_key").fetchall())


def start(fabric: Fabric, name: str) -> tuple[Any, str]:
    repository = fabric.repository(name)
    started = fabric.gen4("remediate", "-r", str(repository), "-g", "clamp is wrong", "--json").json
    return repository, started["workflow_id"]


def finish(fabric: Fabric, workflow_id: str) -> Any:
    pending = fabric.wait_for(workflow_id, waiting)
    approve = fabric.gen4("approve", workflow_id, "--digest", pending["approval"]["action_digest"])
    assert approve.code == 0, approve.err
    return fabric.wait_for(workflow_id, closed)["result"]


@pytest.mark.parametrize(("process", "stage"), [("worker", "explore"), ("worker", "compile"), ("executor", "compile")])
def test_a_process_killed_in_a_phase_is_replaced_and_the_session_goes_on(fabric: Fabric, process: str, stage: str) -> None:
    repository, workflow_id = start(fabric, f"killed-{process}-{stage}")
    fabric.wait_for(workflow_id, stage_runs(stage))
    kill(fabric, process)
    result = finish(fabric, workflow_id)
    assert git(repository, "rev-parse", result["release"]["ref"]) == result["release"]["commit"]
    assert set(effects_per_key(fabric).values()) == {1}
    assert fabric.gen4("events", workflow_id, "--verify").code == 0


def test_a_worker_killed_right_after_the_approval_delivers_once(fabric: Fabric) -> None:
    repository, workflow_id = start(fabric, "killed-release")
    pending = fabric.wait_for(workflow_id, waiting)
    worker = fabric.status()["processes"]["worker"]
    fabric.gen4("approve", workflow_id, "--digest", pending["approval"]["action_digest"])
    os.kill(worker, signal.SIGKILL)
    result = fabric.wait_for(workflow_id, closed)["result"]
    assert result["outcome"] == "merged"
    kinds = [event["kind"] for event in fabric.gen4("events", workflow_id, "--json").json]
    assert kinds.count("change.opened") == 1
    assert set(effects_per_key(fabric).values()) == {1}
    assert git(repository, "rev-parse", result["release"]["ref"]) == result["release"]["commit"]


def test_a_server_killed_while_waiting_comes_back_and_takes_the_approval(fabric: Fabric) -> None:
    _, workflow_id = start(fabric, "killed-server")
    fabric.wait_for(workflow_id, waiting)
    kill(fabric, "temporal")
    time.sleep(1)
    assert finish(fabric, workflow_id)["outcome"] == "merged"


def test_down_and_up_between_request_and_approval_loses_nothing(fabric: Fabric) -> None:
    _, workflow_id = start(fabric, "down-and-up")
    fabric.wait_for(workflow_id, waiting)
    assert fabric.gen4("down").code == 0
    assert fabric.gen4("status").code == 3
    assert fabric.gen4("up").code == 0
    assert finish(fabric, workflow_id)["outcome"] == "merged"

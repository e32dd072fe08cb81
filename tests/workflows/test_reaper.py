"""Sessions whose workflow ended without closing them are closed, whoever ended it and wherever they were."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from temporalio.client import WorkflowExecutionStatus, WorkflowHandle

from activities.record.kill_switches import KillSwitches
from activities.record.leases import Leases
from activities.record.store import now_ms
from schemas.capability import WORKFLOW_QUEUE
from schemas.event import Actor
from schemas.operations import ReaperState
from schemas.status import SessionStatus
from tests.e2e.harness import git
from tests.workflows.harness import FIXED, TENANT, Fabric

Make = Callable[..., Path]
Reached = Callable[[SessionStatus], bool]


def start(fabric: Fabric, repository: Path, goal: str = "the answer is wrong") -> WorkflowHandle[Any, Any]:
    return fabric.start({"repository": str(repository), "goal": goal})


def reap(fabric: Fabric) -> ReaperState:
    handle = fabric.run(fabric.client.start_workflow("Reaper", id=f"reaper-{time.time_ns()}", task_queue=WORKFLOW_QUEUE))
    return ReaperState.model_validate(fabric.run(handle.result()))


def closings(fabric: Fabric, handle: WorkflowHandle[Any, Any]) -> list[dict[str, Any]]:
    return fabric.payloads(handle, "session.closed")


def in_stage(name: str) -> Reached:
    return lambda now: any(stage.name.startswith(name) for stage in now.stages)


def children(fabric: Fabric, handle: WorkflowHandle[Any, Any]) -> list[WorkflowExecutionStatus | None]:
    """How the children of a session ended, or that they run."""
    history = fabric.run(handle.fetch_history())
    started = [
        event.child_workflow_execution_started_event_attributes.workflow_execution
        for event in history.events
        if event.HasField("child_workflow_execution_started_event_attributes")
    ]
    return [
        fabric.run(fabric.client.get_workflow_handle(one.workflow_id, run_id=one.run_id).describe()).status for one in started
    ]


def test_a_terminated_session_is_closed_with_everything_that_was_open(fabric: Fabric, repository: Make) -> None:
    handle = start(fabric, repository())
    pending = fabric.pending(handle)
    fabric.run(handle.terminate("by hand"))
    assert closings(fabric, handle) == []
    reap(fabric)
    (closed,) = closings(fabric, handle)
    assert (closed["reason_code"], closed["outcome"], closed["codes"]) == ("failed_final", "failed", ["TERMINATED"])
    (revoked,) = fabric.payloads(handle, "approval.revoked")
    assert (revoked["approval_id"], revoked["status"]) == (pending.approval_id, "cancelled")
    lease = Leases(fabric.store.tenant(TENANT)).newest(None, handle.first_execution_run_id or "")
    assert lease is not None and lease.revoked_at_ms is not None
    last = fabric.payloads(handle, "session.transition")[-1]
    assert (last["signal"], last["to_state"], last["reason_code"]) == ("Closed", "Closed", "failed_final")
    moves = [move["state_seq"] for move in fabric.payloads(handle, "session.transition")]
    assert moves == list(range(1, len(moves) + 1))
    assert fabric.chain.verify(handle.first_execution_run_id or "") == []


def test_its_history_is_kept_and_names_every_run(fabric: Fabric, repository: Make) -> None:
    handle = start(fabric, repository(), "the key sk-abcdefghijklmnopqrstuvwxyz012345 is wrong")
    fabric.pending(handle)
    fabric.run(handle.terminate())
    reap(fabric)
    (closed,) = closings(fabric, handle)
    kept = {one["workflow_id"]: fabric.blobs.get_json(one["history"]["sha256"]) for one in closed["histories"]}
    assert handle.id in kept
    assert [name.removeprefix(f"{handle.id}/").split("/")[0] for name in kept if name != handle.id] == ["explore", "compile"]
    assert "workflowExecutionTerminatedEventAttributes" in kept[handle.id]["events"][-1]
    (given,) = kept[handle.id]["events"][0]["workflowExecutionStartedEventAttributes"]["input"]["payloads"]
    goal = json.loads(base64.b64decode(given["data"]))["goal"]
    assert goal == "the key [redacted:model_key] is wrong"


@pytest.mark.parametrize(("stage", "purpose"), [("explore", "explore"), ("compile", "patched")])
def test_what_still_runs_for_it_is_ended(fabric: Fabric, repository: Make, stage: str, purpose: str) -> None:
    with fabric.held(purpose):
        handle = start(fabric, repository())
        fabric.wait(handle, in_stage(stage))
        time.sleep(1)
        fabric.run(handle.terminate())
        reap(fabric)
    assert closings(fabric, handle)[0]["codes"] == ["TERMINATED"]
    assert WorkflowExecutionStatus.RUNNING not in children(fabric, handle)
    (closed,) = closings(fabric, handle)
    assert closed["histories"]
    assert all(entry.debits_pending == 0 for entry in fabric.kernel.ledger.balances(handle.first_execution_run_id or ""))


def test_a_session_that_runs_or_waits_is_left_alone(fabric: Fabric, repository: Make) -> None:
    handle = start(fabric, repository())
    pending = fabric.pending(handle)
    assert reap(fabric).examined >= 1
    assert closings(fabric, handle) == []
    fabric.signal(handle, "approve", fabric.decision(pending))
    assert fabric.result(handle).outcome == "merged"
    reap(fabric)
    assert len(closings(fabric, handle)) == 1


def test_reaping_twice_and_at_once_closes_once(fabric: Fabric, repository: Make) -> None:
    handle = start(fabric, repository())
    fabric.pending(handle)
    fabric.run(handle.terminate())

    async def both() -> list[ReaperState]:
        handles = [
            await fabric.client.start_workflow("Reaper", id=f"reaper-{time.time_ns()}-{n}", task_queue=WORKFLOW_QUEUE)
            for n in range(3)
        ]
        return [ReaperState.model_validate(await one.result()) for one in handles]

    results = fabric.run(both())
    assert sum(result.reaped for result in results) == 1
    assert reap(fabric).reaped == 0
    assert len(closings(fabric, handle)) == 1


def test_a_workflow_id_that_another_session_uses_now_hides_nothing(fabric: Fabric, repository: Make) -> None:
    first = start(fabric, repository())
    fabric.pending(first)
    fabric.run(first.terminate())
    again = {"repository": str(repository()), "goal": "again"}
    second = fabric.run(fabric.client.start_workflow("Remediation", again, id=first.id, task_queue=WORKFLOW_QUEUE))
    fabric.pending(second)
    reap(fabric)
    assert closings(fabric, first)[0]["codes"] == ["TERMINATED"]
    assert closings(fabric, second) == []
    fabric.run(second.cancel())
    fabric.ended(second)


def test_a_reset_session_is_closed_when_its_new_run_has_failed(fabric: Fabric, repository: Make) -> None:
    handle = start(fabric, repository())
    fabric.pending(handle)
    again = fabric.reset(handle, 4)
    assert fabric.ended(again) is WorkflowExecutionStatus.FAILED
    reap(fabric)
    assert closings(fabric, handle)[0]["codes"] == ["FAILED"]


def test_a_compile_of_ci_has_no_machine_and_is_closed_too(fabric: Fabric, repository: Make) -> None:
    path = repository()
    (path / "lib.py").write_bytes(FIXED)
    patch = git(path, "diff") + "\n"
    with fabric.held():
        handle = fabric.start({"repository": str(path), "ref": "main", "patch": patch}, kind="Compile")
        fabric.wait(handle, in_stage("run both"))
        fabric.run(handle.terminate())
        reap(fabric)
    assert closings(fabric, handle)[0]["codes"] == ["TERMINATED"]
    assert fabric.payloads(handle, "session.transition") == []


def test_a_reaper_started_with_anything_else_says_what_it_takes(fabric: Fabric) -> None:
    handle = fabric.run(
        fabric.client.start_workflow(
            "Reaper", {"after": 1, "session_id": "x"}, id=f"reaper-{time.time_ns()}", task_queue=WORKFLOW_QUEUE
        )
    )
    assert fabric.failure(handle).type == "InvalidInput"


def test_it_goes_on_while_a_kill_switch_stops_everything_else(fabric: Fabric, repository: Make) -> None:
    handle = start(fabric, repository())
    fabric.pending(handle)
    switches, operator = KillSwitches(fabric.store.tenant(TENANT)), Actor(principal_id="operator", kind="human")
    switches.set("tenant", "", True, "test", operator, now_ms())
    try:
        fabric.run(handle.terminate())
        reap(fabric)
    finally:
        switches.set("tenant", "", False, "test", operator, now_ms())
    assert closings(fabric, handle)[0]["codes"] == ["TERMINATED"]

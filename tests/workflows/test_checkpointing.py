"""The schedule's checkpoint signs every chain, those of the schedules too."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from activities.record.checkpoints import Checkpoints
from schemas.capability import WORKFLOW_QUEUE
from schemas.checkpoint import CheckpointTaken
from tests.workflows.harness import TENANT, Fabric


def take(fabric: Fabric) -> CheckpointTaken:
    handle = fabric.run(fabric.client.start_workflow("Checkpoint", id=f"checkpoint-{time.time_ns()}", task_queue=WORKFLOW_QUEUE))
    return CheckpointTaken.model_validate(fabric.run(handle.result()))


def test_each_covers_what_was_recorded_since(fabric: Fabric, repository: Callable[..., Path]) -> None:
    first = take(fabric)
    fabric.ended(fabric.start({"repository": str(repository()), "goal": "x", "release": {"mode": "branch", "target": "main"}}))
    second = take(fabric)
    assert second.number == first.number + 1
    assert second.sessions > first.sessions
    taken = Checkpoints(fabric.store.tenant(TENANT), fabric.chain).all()
    assert taken[-1].checkpoint.previous_root == first.root_sha256

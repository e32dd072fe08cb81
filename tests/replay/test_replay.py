"""Histories of earlier sessions replay on today's workflows: sessions that wait for weeks survive an upgrade."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from temporalio.client import WorkflowHistory
from temporalio.worker import Replayer
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner, SandboxRestrictions

from workers.converter import data_converter
from workflows import PASSTHROUGH, WORKFLOWS

HISTORIES = sorted((Path(__file__).parent / "histories").glob("*.json"))


def replay(history: str) -> None:
    # Ids of children contain that of the root, which the first event names.
    workflow_id = json.loads(history)["events"][0]["workflowExecutionStartedEventAttributes"]["workflowId"]
    replayer = Replayer(
        workflows=WORKFLOWS, data_converter=data_converter,
        workflow_runner=SandboxedWorkflowRunner(restrictions=SandboxRestrictions.default.with_passthrough_modules(*PASSTHROUGH)),
    )  # fmt: skip
    asyncio.run(replayer.replay_workflow(WorkflowHistory.from_json(workflow_id, history)))


def test_every_type_and_every_kind_of_end_is_among_them() -> None:
    names = {path.stem for path in HISTORIES}
    assert names >= {
        "released", "released-explore-1", "released-compile-1", "released-compile-2", "released-release-1", "rejected", "nothing",
        "cancelled", "refused", "ci", "reaper", "reconciliation", "checkpoint", "measured-ci", "measured-ci-cached",
        "measured-ci-elsewhere", "measured-ci-nobody-elsewhere", "measured-ci-refused", "measured-ci-flaky", "ga-diff",
    }  # fmt: skip


@pytest.mark.parametrize("path", HISTORIES, ids=lambda path: path.stem)
def test_a_recorded_session_replays(path: Path) -> None:
    replay(path.read_text())


def test_a_history_that_our_workflows_did_not_write_is_noticed() -> None:
    document = json.loads((HISTORIES[0].parent / "nothing.json").read_text())
    for event in document["events"]:
        attributes = event.get("activityTaskScheduledEventAttributes")
        if attributes and attributes["activityType"]["name"] == "policy.review_request":
            attributes["activityType"]["name"] = "forge.deliver"
    with pytest.raises(Exception, match=r"(?i)nondeterminism"):
        replay(json.dumps(document))

"""Effects that nobody saw the end of are settled by what they left behind, and never repeated."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from temporalio.client import WorkflowHandle

from activities.forge.activities import ForgeActivities
from activities.record.effects import Effects
from activities.record.tables import EFFECT
from schemas.capability import WORKFLOW_QUEUE
from schemas.error import InfrastructureError
from schemas.operations import ReconciliationReport
from schemas.request import ReleaseResult
from tests.e2e.harness import git
from tests.workflows.harness import TENANT, Fabric

Make = Callable[..., Path]
Handle = WorkflowHandle[Any, Any]


def reconcile(fabric: Fabric) -> ReconciliationReport:
    handle = fabric.run(
        fabric.client.start_workflow("Reconciliation", id=f"reconciliation-{time.time_ns()}", task_queue=WORKFLOW_QUEUE)
    )
    return ReconciliationReport.model_validate(fabric.run(handle.result()))


def forge_of(fabric: Fabric) -> ForgeActivities:
    return next(one for one in fabric.implementers if isinstance(one, ForgeActivities))


@contextmanager
def failing(monkeypatch: pytest.MonkeyPatch, owner: object, name: str) -> Iterator[list[int]]:
    """``owner.name`` is an outage; the list tells how often it was tried."""
    tried: list[int] = []

    def out(*_: Any, **__: Any) -> None:
        tried.append(1)
        raise InfrastructureError("OUTAGE", "the network is gone")

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, out)
        yield tried


def cut_off(fabric: Fabric, repository: Path, monkeypatch: pytest.MonkeyPatch, where: tuple[object, str]) -> tuple[Handle, str]:
    """A session that was terminated during its delivery: everything up to ``where`` had happened. Also its delivery's key."""
    handle = fabric.start({"repository": str(repository), "goal": "the answer is wrong"})
    pending = fabric.pending(handle)
    with failing(monkeypatch, *where) as tried:
        fabric.signal(handle, "approve", fabric.decision(pending))
        deadline = time.monotonic() + 30
        while not tried:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        history = fabric.run(handle.fetch_history())
        started = [event.child_workflow_execution_started_event_attributes for event in history.events]
        (release,) = [one.workflow_execution for one in started if one.workflow_type.name == "Release"]
        fabric.run(handle.terminate())
        fabric.run(fabric.client.get_workflow_handle(release.workflow_id, run_id=release.run_id).terminate())
        time.sleep(0.5)  # the attempt ends, and is recorded
    (key,) = {
        payload["effect_key"]
        for event, payload in fabric.chain.read(handle.first_execution_run_id or "")
        if event.capability_id == "forge.deliver" and "effect_key" in payload
    }
    return handle, key


def outcome(fabric: Fabric, effect_key: str) -> tuple[str, str | None]:
    stored = Effects(fabric.store.tenant(TENANT)).get(effect_key)
    assert stored is not None
    return stored.outcome, stored.result_json


def test_a_delivery_that_arrived_is_found_at_its_target(
    fabric: Fabric, repository: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = repository()
    handle, key = cut_off(fabric, path, monkeypatch, (forge_of(fabric), "_record"))
    assert outcome(fabric, key)[0] == "unknown"
    assert "change.opened" not in fabric.kinds(handle)
    report = reconcile(fabric)
    assert report.succeeded >= 1
    name, result = outcome(fabric, key)
    release = ReleaseResult.model_validate_json(result or "").release
    assert name == "succeeded" and release is not None
    assert git(path, "rev-parse", release.ref) == release.commit
    (change,) = fabric.payloads(handle, "change.opened")
    assert change["commit"] == release.commit
    (reconciled,) = fabric.payloads(handle, "task.reconciled")
    assert (reconciled["was"], reconciled["outcome"], reconciled["code"]) == ("unknown", "succeeded", "DELIVERED")
    assert reconciled["observed"]["head"] == release.commit


def test_a_delivery_that_never_left_is_failed_and_not_made_up_for(
    fabric: Fabric, repository: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = repository()
    before = git(path, "for-each-ref")
    handle, key = cut_off(fabric, path, monkeypatch, (fabric.objects, "push"))
    reconcile(fabric)
    assert outcome(fabric, key)[0] == "failed"
    assert fabric.payloads(handle, "task.reconciled")[0]["code"] == "NOT_DELIVERED"
    assert git(path, "for-each-ref") == before
    reconcile(fabric)
    assert len(fabric.payloads(handle, "task.reconciled")) == 1


def test_a_target_that_does_not_answer_is_asked_again_by_the_next_run(
    fabric: Fabric, repository: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = repository()
    handle, key = cut_off(fabric, path, monkeypatch, (forge_of(fabric), "_record"))
    away = path.with_name(f"{path.name}-away")
    shutil.move(path, away)
    report = reconcile(fabric)
    assert f"{key}: TARGET_UNREACHABLE" in report.left
    assert outcome(fabric, key)[0] == "unknown"
    assert fabric.payloads(handle, "task.reconciled") == []
    shutil.move(away, path)
    assert key not in " ".join(reconcile(fabric).left)
    assert outcome(fabric, key)[0] == "succeeded"


def test_an_effect_that_is_still_tried_is_left_to_its_attempts(
    fabric: Fabric, repository: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    handle = fabric.start({"repository": str(repository()), "goal": "the answer is wrong"})
    pending = fabric.pending(handle)
    with failing(monkeypatch, fabric.objects, "push") as tried:
        fabric.signal(handle, "approve", fabric.decision(pending))
        deadline = time.monotonic() + 30
        while len(tried) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert reconcile(fabric).waiting >= 1
    assert fabric.payloads(handle, "task.reconciled") == []
    assert fabric.result(handle).outcome == "merged"


@pytest.mark.parametrize("recorded", [True, False])
def test_a_record_is_looked_for_by_its_own_event(fabric: Fabric, repository: Make, recorded: bool) -> None:
    """Of a session that ended: its own opening is there; a transition under another key is not."""
    handle = fabric.start({"repository": str(repository()), "goal": "the answer is wrong"})
    fabric.pending(handle)
    fabric.run(handle.cancel())
    fabric.ended(handle)
    opened = next(
        payload["effect_key"]
        for event, payload in fabric.chain.read(handle.first_execution_run_id or "")
        if event.capability_id == "control.open_session"
    )
    key = opened if recorded else f"{handle.id}/{handle.first_execution_run_id}/4711"
    lose_outcome(fabric, opened, key)
    reconcile(fabric)
    (settled,) = fabric.payloads(handle, "task.reconciled")
    assert (settled["effect_key"], settled["outcome"]) == (key, "succeeded" if recorded else "failed")
    assert settled["code"] == ("RECORDED" if recorded else "NOT_OBSERVED")
    assert fabric.chain.verify(handle.first_execution_run_id or "") == []


def lose_outcome(fabric: Fabric, effect_key: str, new_key: str) -> None:
    """As if the worker had died right after the effect: the row says that it was begun, and no more."""
    where = (EFFECT.c.tenant_id == TENANT) & (EFFECT.c.effect_key == effect_key)
    change = EFFECT.update().where(where).values(outcome="started", result_json=None, effect_key=new_key)
    fabric.store.tenant(TENANT).write(lambda connection: connection.execute(change).rowcount)

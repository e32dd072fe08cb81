"""Sessions from request to release, and every way in which one ends before."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from temporalio.client import WorkflowExecutionStatus

from schemas.session import State
from tests.e2e.harness import git
from tests.workflows.harness import BUGGY, FIXED, Fabric

Make = Callable[..., Path]


def ask(repository: Path, **more: object) -> dict[str, object]:
    return {"repository": str(repository), "goal": "the answer is wrong", **more}


def test_an_approved_fix_is_released_on_a_new_branch(fabric: Fabric, repository: Make) -> None:
    path = repository()
    head = git(path, "rev-parse", "HEAD")
    handle = fabric.start(ask(path))
    pending = fabric.pending(handle)
    assert fabric.status(handle).next_step
    fabric.signal(handle, "approve", fabric.decision(pending, reason="read it"))
    result = fabric.result(handle)
    assert (result.state, result.outcome, result.fix) == (State.CLOSED, "merged", "complete")
    assert result.release is not None and result.approval is not None
    assert result.approval.status == "redeemed"
    assert git(path, "rev-parse", result.release.ref) == result.release.commit == pending.action.commit_id
    assert git(path, "rev-parse", f"{result.release.commit}^") == head
    assert git(path, "status", "--porcelain") == ""
    assert result.rejection is None


def test_the_chain_tells_the_session_in_order(fabric: Fabric, repository: Make) -> None:
    handle = fabric.start(ask(repository(bare=True), release={"mode": "merge"}))
    fabric.signal(handle, "approve", fabric.decision(fabric.pending(handle)))
    assert fabric.result(handle).outcome == "merged"
    moves = [(item["from_state"], item["signal"], item["to_state"]) for item in fabric.payloads(handle, "session.transition")]
    assert moves == [
        ("Intake", "IntentReceived", "PolicyReview"), ("PolicyReview", "PolicyApproved", "Planned"),
        ("Planned", "PlanCommitted", "Scheduled"), ("Scheduled", "TaskScheduled", "Executing"),
        ("Executing", "ExecutionStarted", "Executing"), ("Executing", "VerifyPassed", "Verifying"),
        ("Verifying", "VerifyPassed", "Closed"),
    ]  # fmt: skip
    kinds = [kind for kind in fabric.kinds(handle) if kind.startswith(("session.o", "session.c", "approval", "change"))]
    assert kinds == [
        "session.opened",
        "approval.requested",
        "approval.decided",
        "approval.redeemed",
        "change.merged",
        "session.closed",
    ]
    assert fabric.chain.verify(handle.first_execution_run_id or "") == []


def test_a_candidate_that_compile_rejects_gives_way_to_the_next(fabric: Fabric, repository: Make) -> None:
    handle = fabric.start(ask(repository(proposals=[FIXED + b"# LOSES\n", FIXED])))
    pending = fabric.pending(handle)
    names = [stage.name for stage in fabric.status(handle).stages]
    assert "compile 1" in names and "compile 2" in names
    moves = [item["signal"] for item in fabric.payloads(handle, "session.transition")]
    assert moves.count("VerifyRejected") == 2, "one signal, two hops"
    fabric.signal(handle, "reject", fabric.decision(pending, "reject", reason="not so"))
    assert fabric.result(handle).outcome == "rejected"


@pytest.mark.parametrize(
    ("lib", "proposals", "outcome", "stage", "code"),
    [
        (b"UNTESTED = 1\n", None, "no_fix_found", "explore", "NO_TESTS"),
        (b"GREEDY = 1\n", None, "no_fix_found", "explore", "MEMORY_LIMIT"),
        (FIXED, None, "no_fix_found", "explore", "NO_FAILING_TEST"),
        (BUGGY, [], "no_fix_found", "explore", "NO_FIX_FOUND"),
        (b"NEWER = 1\n", None, "failed", "explore", "PYTHON_TOO_OLD"),
        (BUGGY, [b"CONFTEST = 42\n"], "no_fix_found", "explore", "POLICY_DENIED"),
        (BUGGY, [b"answer = 0\n"], "rejected", "compile", "NOTHING_FIXED"),
        (BUGGY, [FIXED + b"# LOSES\n"], "rejected", "regression gate", "REG_TEST_LOST"),
        (BUGGY, [FIXED + b"# FLAKY\n"], "rejected", "determinism gate", "DET_DIGEST"),
    ],
)
def test_an_end_without_a_fix_says_where_and_why(
    fabric: Fabric, repository: Make, lib: bytes, proposals: list[bytes] | None, outcome: str, stage: str, code: str
) -> None:
    handle = fabric.start(ask(repository(lib, proposals=proposals)))
    result = fabric.result(handle)
    assert (result.state, result.outcome) == (State.CLOSED, outcome)
    assert result.rejection is not None
    assert (result.rejection.stage, code in result.rejection.codes) == (stage, True), result.rejection
    assert result.rejection.message and result.rejection.remedy
    assert result.release is None
    assert fabric.kinds(handle)[-2:] == ["session.closed", "task.receipt"]


def test_a_bundle_that_the_trust_gate_refuses_is_never_asked_about(fabric: Fabric, repository: Make) -> None:
    fabric.notary.distrusts = True
    try:
        result = fabric.result(fabric.start(ask(repository())))
    finally:
        fabric.notary.distrusts = False
    assert result.outcome == "rejected" and result.rejection is not None
    assert result.rejection.stage == "trust gate"
    assert result.approval is None


def test_policy_denies_before_anything_is_fetched(fabric: Fabric, repository: Make) -> None:
    handle = fabric.start(ask(repository(), release={"mode": "branch", "target": "main"}))
    result = fabric.result(handle)
    assert result.rejection is not None and result.rejection.codes == ("POLICY_DENIED", "request.release")
    moves = [item["signal"] for item in fabric.payloads(handle, "session.transition")]
    assert moves == ["IntentReceived", "PolicyRejected", "Closed"]


def test_a_target_that_moved_while_waiting_is_not_overwritten(fabric: Fabric, repository: Make) -> None:
    bare = repository(bare=True)
    work = Path(str(bare).removesuffix(".git"))
    handle = fabric.start(ask(bare, release={"mode": "merge"}))
    pending = fabric.pending(handle)
    git(work, "commit", "-q", "--allow-empty", "-m", "someone else")
    git(work, "push", "-q", str(bare), "main")
    head = git(bare, "rev-parse", "main")
    fabric.signal(handle, "approve", fabric.decision(pending))
    result = fabric.result(handle)
    assert (result.outcome, result.codes) == ("failed", ("TARGET_CHANGED",))
    assert git(bare, "rev-parse", "main") == head


def test_merging_into_a_checked_out_branch_is_refused_before_anybody_is_asked(fabric: Fabric, repository: Make) -> None:
    result = fabric.result(fabric.start(ask(repository(), release={"mode": "merge"})))
    assert result.codes == ("TARGET_CHECKED_OUT",)
    assert result.approval is None


def test_a_cancelled_session_cancels_its_children_and_is_recorded(fabric: Fabric, repository: Make) -> None:
    fabric.bed.hold.set()
    try:
        handle = fabric.start(ask(repository()))
        fabric.wait(handle, lambda now: any(stage.name == "explore" for stage in now.stages))
        fabric.run(handle.cancel())
        assert fabric.ended(handle) is WorkflowExecutionStatus.CANCELED
    finally:
        fabric.bed.hold.clear()
    closed = fabric.payloads(handle, "session.closed")
    assert [item["outcome"] for item in closed] == ["cancelled"]
    assert fabric.status(handle).state is State.CLOSED


def test_a_cancellation_is_not_lost_where_a_step_ends_by_itself(fabric: Fabric, repository: Make) -> None:
    fabric.bed.hold.set()
    fabric.bed.deaf = True
    try:
        handle = fabric.start(ask(repository()))
        fabric.wait(handle, lambda now: any(stage.name == "explore" for stage in now.stages))
        fabric.run(handle.cancel())
        time.sleep(1)
        fabric.bed.hold.clear()
        assert fabric.ended(handle) is WorkflowExecutionStatus.CANCELED
    finally:
        fabric.bed.hold.clear()
        fabric.bed.deaf = False
    assert "approval.requested" not in fabric.kinds(handle)


def test_cancelling_while_waiting_cancels_the_request(fabric: Fabric, repository: Make) -> None:
    handle = fabric.start(ask(repository()))
    pending = fabric.pending(handle)
    fabric.run(handle.cancel())
    assert fabric.ended(handle) is WorkflowExecutionStatus.CANCELED
    assert fabric.payloads(handle, "approval.revoked")[0]["approval_id"] == pending.approval_id
    assert fabric.status(handle).approval.status == "cancelled"  # type: ignore[union-attr]


def test_search_attributes_tell_tenant_state_and_repository_but_no_goal(fabric: Fabric, repository: Make) -> None:
    path = repository(FIXED)
    handle = fabric.start(ask(path))
    fabric.result(handle)
    attributes = fabric.run(handle.describe()).search_attributes
    assert {name: attributes[name] for name in ("Tenant", "SessionState", "Phase", "Risk", "Repository")} == {
        "Tenant": ["local"], "SessionState": ["Closed"], "Phase": ["control"], "Risk": ["medium"], "Repository": [str(path)]
    }  # fmt: skip

"""Decisions that do not count: wrong digest, wrong key, replayed, expired, after a reset; and those that do (contracts §11)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from temporalio.client import WorkflowExecutionStatus

from activities.control.approvers import add_approver, new_key
from schemas.task import SessionConfig
from tests.workflows.harness import Fabric

Make = Callable[..., Path]


@pytest.fixture
def session(fabric: Fabric, repository: Make) -> Any:
    handle = fabric.start({"repository": str(repository()), "goal": "the answer is wrong"})
    yield handle
    status = fabric.run(handle.describe()).status
    if status is WorkflowExecutionStatus.RUNNING:
        fabric.run(handle.cancel())
        fabric.ended(handle)


def test_only_the_whole_signed_decision_of_an_approver_counts(fabric: Fabric, session: Any, tmp_path: Path) -> None:
    pending = fabric.pending(session)
    stranger = new_key(tmp_path / "stranger", comment="stranger")
    other_digest = "sha256:" + "0" * 64
    good = fabric.decision(pending, reason="as signed")
    attempts: list[tuple[dict[str, Any], str]] = [
        ({**good, "action_digest": other_digest}, "DIGEST_MISMATCH"),
        ({**good, "approval_id": "another"}, "UNKNOWN_APPROVAL"),
        ({**good, "signature": None}, "SIGNATURE_MISSING"),
        ({**good, "signature": "-----BEGIN SSH SIGNATURE-----\nAAAA\n-----END SSH SIGNATURE-----\n"}, "BAD_SIGNATURE"),
        ({**good, "reason": "another reason"}, "BAD_SIGNATURE"),
        (fabric.decision(pending, "reject"), "BAD_SIGNATURE"),
        (fabric.decision(pending, key=stranger), "ROLE_NOT_ELIGIBLE"),
        (fabric.decision(pending, argument_pins={"target_ref": "refs/heads/main"}), "WIDENED"),
        (fabric.decision(pending, argument_pins={"mode": "branch"}) | {"argument_pins": {}}, "BAD_SIGNATURE"),
    ]
    for document, _ in attempts:
        fabric.signal(session, "approve", document)
    assert fabric.refused(session, len(attempts)) == [code for _, code in attempts]
    fabric.signal(session, "approve", fabric.decision(pending, argument_pins={"mode": "branch"}))
    assert fabric.result(session).outcome == "merged"


def test_a_decision_of_another_session_is_worth_nothing_here(fabric: Fabric, session: Any, repository: Make) -> None:
    other = fabric.start({"repository": str(repository()), "goal": "the answer is wrong"})
    foreign = fabric.decision(fabric.pending(other))
    fabric.pending(session)
    fabric.signal(session, "approve", foreign)
    assert fabric.refused(session, 1) == ["UNKNOWN_APPROVAL"]
    fabric.signal(other, "reject", fabric.decision(fabric.pending(other), "reject"))
    assert fabric.result(other).codes == ("APPROVAL_REJECTED",)


def test_the_same_approval_twice_is_one_effect(fabric: Fabric, session: Any) -> None:
    decision = fabric.decision(fabric.pending(session))
    fabric.signal(session, "approve", decision)
    fabric.signal(session, "approve", decision)
    assert fabric.result(session).outcome == "merged"
    kinds = fabric.kinds(session)
    assert [kinds.count(kind) for kind in ("approval.decided", "approval.redeemed", "change.opened")] == [1, 1, 1]


def test_a_rejection_is_final_and_releases_nothing(fabric: Fabric, session: Any) -> None:
    pending = fabric.pending(session)
    fabric.signal(session, "reject", fabric.decision(pending, "reject", reason="wrong place"))
    fabric.signal(session, "approve", fabric.decision(pending))
    result = fabric.result(session)
    assert (result.outcome, result.codes, result.release) == ("rejected", ("APPROVAL_REJECTED",), None)
    assert result.rejection is not None and "wrong place" in result.rejection.message
    assert "approval.redeemed" not in fabric.kinds(session)


def test_expiry_rejects(fabric: Fabric, repository: Make) -> None:
    usual = fabric.control._config
    fabric.control._config = SessionConfig(approval_expiry_ms=1_500)
    try:
        handle = fabric.start({"repository": str(repository()), "goal": "the answer is wrong"})
        late = fabric.decision(fabric.pending(handle))
        result = fabric.result(handle)
    finally:
        fabric.control._config = usual
    assert (result.outcome, result.codes) == ("rejected", ("EXPIRED",))
    assert result.approval is not None and result.approval.status == "expired"
    assert "approval.expired" in fabric.kinds(handle)
    with pytest.raises(Exception, match="completed"):
        fabric.signal(handle, "approve", late)


def test_a_changed_list_of_approvers_voids_what_was_asked(fabric: Fabric, session: Any, tmp_path: Path) -> None:
    decision = fabric.decision(fabric.pending(session))
    before = (fabric.home.keys / "approvers.json").read_bytes()
    add_approver(fabric.home, "newcomer", new_key(tmp_path / "newcomer", comment="newcomer"))
    try:
        fabric.signal(session, "approve", decision)
        assert fabric.refused(session, 1) == ["POLICY_CHANGED"]
    finally:
        (fabric.home.keys / "approvers.json").write_bytes(before)


def test_an_approval_never_survives_a_reset(fabric: Fabric, session: Any) -> None:
    pending = fabric.pending(session)
    history = fabric.run(session.fetch_history())
    last = max(event.event_id for event in history.events if event.HasField("workflow_task_completed_event_attributes"))
    again = fabric.reset(session, last)
    fabric.signal(again, "approve", fabric.decision(pending))
    status = fabric.wait(again, lambda now: len(now.refused) > 0)
    assert [item.code for item in status.refused] == ["RUN_RESET"]
    assert "approval.decided" not in fabric.kinds(session)
    assert "execution.reset" in fabric.kinds(session)
    fabric.run(again.terminate())


def test_a_reset_to_the_middle_stops_with_its_reason(fabric: Fabric, session: Any) -> None:
    fabric.pending(session)
    again = fabric.reset(session, 4)
    assert fabric.failure(again).type in ("RUN_RESET", "InvalidInput")

"""Requests, decisions and their single use, on a real store with real SSH keys."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from activities.control.approvers import add_approver, new_key
from activities.evidence.checkpointing import load_checkpoint_signer
from activities.record.checkpoints import Checkpoints
from schemas.approval import ApprovalRequest, Ruling, SignedDecision, refusal
from schemas.capabilities import CloseSession, JudgeDecision
from schemas.error import Refused
from schemas.event import EventDraft
from tests.control.conftest import Desk


def code_of(ruling: Ruling) -> str | None:
    return ruling.refusal.code if ruling.refusal else None


def test_a_request_names_approvers_expiry_undo_and_what_evidence_cannot_show(desk: Desk) -> None:
    asked = desk.ask()
    assert asked.action_digest == asked.action.digest
    assert asked.eligible_approvers == ("operator",)
    assert asked.expires_at_ms == desk.now + 10_000
    assert asked.approval_id[14] == "7" and asked.run_id == "run"
    assert "refs/heads/gen4/task" in asked.rollback
    assert any("one user id" in risk for risk in asked.residual_risk)
    assert desk.stored(asked).request == asked


def test_an_attempt_that_comes_again_asks_once(desk: Desk) -> None:
    assert desk.ask("ask") == desk.ask("ask")
    assert desk.kinds() == ["approval.requested"]


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"session_id": "other"}, "ACTION_FOREIGN"),
        ({"tenant_id": "other"}, "ACTION_FOREIGN"),
        ({"policy_digest": "sha256:" + "d" * 64}, "POLICY_CHANGED"),
        ({"approvers_digest": "sha256:" + "d" * 64}, "POLICY_CHANGED"),
    ],
)
def test_what_cannot_be_asked(desk: Desk, changes: dict[str, Any], code: str) -> None:
    with pytest.raises(Refused, match=code):
        desk.ask(**changes)
    assert desk.kinds() == []


def test_without_approvers_nobody_is_asked(desk: Desk) -> None:
    (desk.home.keys / "approvers.json").write_text("[]")
    with pytest.raises(Refused, match="NO_APPROVERS"):
        desk.ask()


def test_an_approval_counts_once_and_is_recorded_with_its_approver(desk: Desk) -> None:
    asked = desk.ask()
    ruling = desk.judge(asked, desk.signed(asked))
    assert (ruling.accepted, ruling.approver_id) == (True, "operator")
    assert desk.stored(asked).request.status == "approved"
    assert code_of(desk.judge(asked, desk.signed(asked))) == "ALREADY_FINAL"
    assert code_of(desk.judge(asked, desk.signed(asked, "reject"))) == "ALREADY_FINAL"
    assert desk.kinds() == ["approval.requested", "approval.decided", "approval.refused", "approval.refused"]
    assert list(desk.chain.read("s"))[1][0].actor.principal_id == "operator"


def test_an_attempt_that_comes_again_gets_the_same_ruling(desk: Desk) -> None:
    asked = desk.ask()
    first = desk.judge(asked, desk.signed(asked), "judge")
    assert desk.judge(asked, desk.signed(asked), "judge") == first
    assert desk.kinds().count("approval.decided") == 1


def expired(desk: Desk, asked: ApprovalRequest) -> Ruling:
    desk.now += 10_000
    return desk.judge(asked, desk.signed(asked))


def policy_changed(desk: Desk, asked: ApprovalRequest) -> Ruling:
    desk.policy.policy_digest = "sha256:" + "d" * 64
    return desk.judge(asked, desk.signed(asked))


def after_a_reset(desk: Desk, asked: ApprovalRequest) -> Ruling:
    return desk.judge(asked, desk.signed(asked), run_id="another-run")


def unknown_signal(desk: Desk, asked: ApprovalRequest) -> Ruling:
    return desk.judge(asked, SignedDecision(kind="unknown", refusal=refusal("UNKNOWN_SIGNAL", "x"), received_at_ms=0))


def nothing(desk: Desk, asked: ApprovalRequest) -> Ruling:
    return desk.judge(asked, SignedDecision(kind="approve", received_at_ms=0))


def by_a_stranger(desk: Desk, asked: ApprovalRequest) -> Ruling:
    return desk.judge(asked, desk.signed(asked, key=new_key(desk.home.keys / "stranger", comment="stranger")))


@pytest.mark.parametrize(
    ("attempt", "code"),
    [
        (expired, "EXPIRED"), (policy_changed, "POLICY_CHANGED"), (after_a_reset, "RUN_RESET"),
        (unknown_signal, "UNKNOWN_SIGNAL"), (nothing, "MALFORMED"), (by_a_stranger, "ROLE_NOT_ELIGIBLE"),
    ],
)  # fmt: skip
def test_decisions_that_do_not_count(desk: Desk, attempt: Callable[[Desk, ApprovalRequest], Ruling], code: str) -> None:
    asked = desk.ask()
    assert code_of(attempt(desk, asked)) == code
    assert desk.stored(asked).request.status == "pending"
    assert desk.kinds()[-1] == "approval.refused"


def test_a_rejection_counts_under_a_new_policy_too(desk: Desk) -> None:
    asked = desk.ask()
    desk.policy.policy_digest = "sha256:" + "d" * 64
    assert code_of(desk.judge(asked, desk.signed(asked))) == "POLICY_CHANGED"
    stranger = new_key(desk.home.keys / "stranger", comment="stranger")
    assert code_of(desk.judge(asked, desk.signed(asked, "reject", key=stranger))) == "ROLE_NOT_ELIGIBLE"
    assert desk.judge(asked, desk.signed(asked, "reject")).accepted
    assert desk.stored(asked).request.status == "rejected"


def test_a_commit_signature_is_no_approval(desk: Desk) -> None:
    from activities.kernel import ssh
    from schemas.approval import signed_bytes

    asked = desk.ask()
    good = desk.signed(asked)
    assert good.decision is not None
    foreign = ssh.sign(signed_bytes(asked, "approve", "", {}), desk.key, "git")
    signed = good.model_copy(update={"decision": good.decision.model_copy(update={"signature": foreign})})
    assert code_of(desk.judge(asked, signed)) == "BAD_SIGNATURE"


def test_a_request_that_is_not_stored_is_unknown(desk: Desk) -> None:
    asked = desk.ask()
    with pytest.raises(Refused, match="UNKNOWN_APPROVAL"):
        desk.do(desk.control.judge_decision, JudgeDecision(approval_id="none", signed=desk.signed(asked)))


def test_of_two_decisions_at_once_one_counts(desk: Desk) -> None:
    asked = desk.ask()
    kinds: list[Any] = ["approve", "reject", "approve", "reject"]
    rulings: list[Ruling] = []
    decisions = [desk.signed(asked, kind) for kind in kinds]
    threads = [threading.Thread(target=lambda one=one: rulings.append(desk.judge(asked, one))) for one in decisions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(ruling.accepted for ruling in rulings) == 1
    assert desk.kinds().count("approval.decided") == 1


def test_an_approval_is_redeemed_once(desk: Desk) -> None:
    asked = desk.ask()
    desk.judge(asked, desk.signed(asked))
    first = desk.redeem(asked, "redeem")
    assert first.deliver_by_ms == desk.now + 500
    desk.now += 100
    assert desk.redeem(asked, "redeem") == first, "the same call, tried again"
    with pytest.raises(Refused, match="ALREADY_FINAL"):
        desk.redeem(asked)
    assert desk.stored(asked).request.status == "redeemed"
    assert desk.kinds().count("approval.redeemed") == 1


def test_what_cannot_be_redeemed(desk: Desk, tmp_path: Path) -> None:
    asked = desk.ask()
    with pytest.raises(Refused, match="ALREADY_FINAL"):
        desk.redeem(asked)
    desk.judge(asked, desk.signed(asked))
    with pytest.raises(Refused, match="DIGEST_MISMATCH"):
        desk.redeem(asked, digest="sha256:" + "0" * 64)
    add_approver(desk.home, "newcomer", new_key(tmp_path / "newcomer", comment="newcomer"))
    with pytest.raises(Refused, match="POLICY_CHANGED"):
        desk.redeem(asked)
    desk.now = asked.expires_at_ms
    with pytest.raises(Refused, match="EXPIRED"):
        desk.redeem(asked)
    assert desk.stored(asked).request.status == "approved"


@pytest.mark.parametrize(
    ("approve", "expired", "status", "kind"),
    [
        (False, True, "expired", "approval.expired"),
        (False, False, "cancelled", "approval.revoked"),
        (True, False, "revoked", "approval.revoked"),
    ],
)
def test_closing_leaves_nothing_open(desk: Desk, approve: bool, expired: bool, status: str, kind: str) -> None:
    asked = desk.ask()
    if approve:
        desk.judge(asked, desk.signed(asked))
    close = CloseSession(reason_code="cancelled", outcome="cancelled", expired_approval_id=asked.approval_id if expired else None)
    desk.do(desk.control.close_session, close, "close")
    desk.do(desk.control.close_session, close, "close")
    assert desk.stored(asked).request.status == status
    assert desk.kinds()[-2:] == [kind, "session.closed"]
    assert desk.chain.verify("s") == []


def test_a_request_names_the_last_checkpoint_and_the_sessions_head_in_it(desk: Desk) -> None:
    """Whoever keeps the request can tell later that records before it are gone."""
    desk.chain.append(desk.keys, desk.who().actor, EventDraft(kind="task.started", idempotency_key="k", payload={}))
    taken = Checkpoints(desk.tenant).take(load_checkpoint_signer(desk.home.keys), desk.now)
    asked = desk.ask()
    assert asked.checkpoint is not None and asked.checkpoint.head is not None
    assert (asked.checkpoint.number, asked.checkpoint.root_sha256) == (taken.number, taken.root_sha256)
    assert (asked.checkpoint.head.session_id, asked.checkpoint.head.seq) == ("s", 1)
    assert desk.stored(asked).request == asked and desk.judge(asked, desk.signed(asked)).accepted

"""Does a decision count? Keys, history and the state of the request are asked; the payload is not believed."""

from __future__ import annotations

from activities.control.approvers import Approvers
from activities.kernel import ssh
from activities.kernel.acting import Acting
from activities.record.approvals import StoredApproval
from schemas.approval import (
    SIGNATURE_NAMESPACE,
    ApprovalRequest,
    Decision,
    DecisionKind,
    Refusal,
    Ruling,
    SignedDecision,
    precheck,
    refusal,
    signed_bytes,
)


def judge_decision(
    stored: StoredApproval, signed: SignedDecision, who: Acting, *, now_ms: int, policy_digest: str, approvers: Approvers
) -> Ruling:
    """Accept a decision, or say why it does not count.

    1. It could be read at all.
    2. It is for this request of this session, made by this very run.
    3. The request is pending and not expired; digest and pins are its own.
    4. Policy and the list of approvers are those under which it was asked. A rejection counts all the same: it releases
       nothing, and else the session would wait until the request expires.
    5. An approver signed the whole decision object.
    """
    if signed.refusal is not None or signed.decision is None or signed.kind == "unknown":
        return _refused(signed, signed.refusal or refusal("MALFORMED", "no decision was given"))
    request, decision, kind = stored.request, signed.decision, signed.kind
    refused = (
        _belongs(stored, who)
        or precheck(request, decision, now_ms)
        or (_unchanged(request, policy_digest=policy_digest, approvers_digest=approvers.digest) if kind != "reject" else None)
    )
    if refused is not None:
        return _refused(signed, refused)
    approver = _signer(request, decision, kind, approvers)
    if isinstance(approver, Refusal):
        return _refused(signed, approver)
    return Ruling(accepted=True, kind=kind, approver_id=approver, reason=decision.reason)


def _belongs(stored: StoredApproval, who: Acting) -> Refusal | None:
    if (stored.keys.tenant_id, stored.keys.session_id) != (who.keys.tenant_id, who.keys.session_id):
        return refusal("UNKNOWN_APPROVAL", "the request belongs to another session")
    if stored.request.run_id != who.run_id:
        return refusal("RUN_RESET", "the request was made by an earlier run, before a reset")
    return None


def _unchanged(request: ApprovalRequest, *, policy_digest: str, approvers_digest: str) -> Refusal | None:
    if request.action.policy_digest != policy_digest:
        return refusal("POLICY_CHANGED", "the policy is not the one under which the change was reviewed")
    if request.action.approvers_digest != approvers_digest:
        return refusal("POLICY_CHANGED", "the list of approvers is not the one under which the approval was asked")
    return None


def _signer(request: ApprovalRequest, decision: Decision, kind: DecisionKind, approvers: Approvers) -> str | Refusal:
    if not decision.signature:
        return refusal("SIGNATURE_MISSING", "the decision carries no signature")
    data = signed_bytes(request, kind, decision.reason, decision.argument_pins)
    approver = approvers.signer_of(data, decision.signature)
    if approver is not None:
        return approver
    if ssh.is_intact(data, decision.signature, SIGNATURE_NAMESPACE):
        return refusal("ROLE_NOT_ELIGIBLE", "the signature is sound, but its key is not an approver's")
    return refusal("BAD_SIGNATURE", "the signature is not over this decision on this request")


def _refused(signed: SignedDecision, why: Refusal) -> Ruling:
    return Ruling(accepted=False, kind=signed.kind, refusal=why)

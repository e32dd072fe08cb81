"""May this be delivered, read right before the push (threats 6.7). Pure."""

from __future__ import annotations

from activities.kernel.acting import Acting
from activities.record.approvals import StoredApproval
from schemas.approval import REFUSALS
from schemas.error import Refused
from schemas.request import ReleaseRequest

_FIELDS = ("repository", "target_ref", "expected_head", "commit_id", "mode", "session_id")


def refuse_unapproved(stored: StoredApproval | None, request: ReleaseRequest, who: Acting) -> StoredApproval:
    """The redeemed approval of exactly this action, in this session.

    Raises:
        Refused: UNKNOWN_APPROVAL, APPROVAL_REQUIRED, DIGEST_MISMATCH.
    """
    if stored is None or (stored.keys.tenant_id, stored.keys.session_id) != (who.keys.tenant_id, who.keys.session_id):
        raise Refused("UNKNOWN_APPROVAL", "no such request in this session", REFUSALS["UNKNOWN_APPROVAL"])
    if stored.request.status != "redeemed":
        raise Refused("APPROVAL_REQUIRED", f"the approval is {stored.request.status}, not redeemed", "start a new remediation")
    action = stored.request.action
    asked = request.model_dump(include=set(_FIELDS))
    same = asked == action.model_dump(include=set(_FIELDS))
    if not same or not action.digest == stored.request.action_digest == request.action_digest:
        raise Refused("DIGEST_MISMATCH", "the request is not the approved action", REFUSALS["DIGEST_MISMATCH"])
    return stored


def release_of(stored: StoredApproval) -> ReleaseRequest:
    """The request that the approval allows, and no other."""
    action = stored.request.action
    return ReleaseRequest(
        **action.model_dump(include=set(_FIELDS)), approval_id=stored.request.approval_id,
        action_digest=stored.request.action_digest,
    )  # fmt: skip


def refuse_late(stored: StoredApproval, *, now_ms: int, policy_digest: str) -> None:
    """What may have changed since the approval was redeemed.

    Raises:
        Refused: EXPIRED, POLICY_CHANGED.
    """
    if stored.deliver_by_ms is None or now_ms >= stored.deliver_by_ms:
        raise Refused("EXPIRED", "the time to deliver is over", REFUSALS["EXPIRED"])
    if stored.request.action.policy_digest != policy_digest:
        raise Refused("POLICY_CHANGED", "the policy changed since the approval", REFUSALS["POLICY_CHANGED"])

"""Approvals: the request, what a captain sends, the signed decision object, and the reducer over both (contracts §11)."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from schemas.canonical import jcs, jcs_sha256
from schemas.checkpoint import CheckpointRef
from schemas.model import Digest, Door, GitId, Payload, Sha256
from schemas.request import ReleaseMode, explain
from schemas.text import plain

DecisionKind = Literal["approve", "reject"]
DoorKind = Literal["approve", "reject", "unknown"]
"""``unknown``: a signal by a name that no handler has; recorded and refused."""
ApprovalStatus = Literal["pending", "approved", "rejected", "redeemed", "expired", "revoked", "cancelled"]
SIGNATURE_NAMESPACE = "gen4-approval"

REFUSALS: dict[str, str] = {
    "UNKNOWN_SIGNAL": "send `approve` or `reject` with the JSON object that `gen4 approve ID --digest D --print` prints",
    "MALFORMED": "send the JSON object that `gen4 approve ID --digest D --print` prints",
    "UNKNOWN_APPROVAL": "use the approval_id of the pending request",
    "DIGEST_MISMATCH": "send all 64 hex digits of the pending request's action_digest",
    "SIGNATURE_MISSING": "sign the decision with a key that the configuration names as an approver",
    "BAD_SIGNATURE": "sign the decision object of this request unchanged, with an approver's key",
    "ROLE_NOT_ELIGIBLE": "ask somebody whom the configuration names as an approver",
    "EXPIRED": "start a new remediation; an expired request cannot be approved",
    "ALREADY_FINAL": "nothing to do: the request was decided already",
    "RUN_RESET": "start a new remediation; approvals never survive a reset",
    "POLICY_CHANGED": "start a new remediation under the new policy",
    "TARGET_CHANGED": "start a new remediation on the new head",
    "WIDENED": "pins may only narrow; leave argument_pins out or repeat values of the request",
}
"""Every refusal code of this version with its remedy."""


class Action(Payload):
    """What exactly is approved; ``action_digest`` = sha256 of its JCS bytes (contracts §2, threats 5.2)."""

    verb: Literal["deliver"] = "deliver"
    repository: str
    target_ref: str
    expected_head: GitId
    commit_id: GitId
    result_tree: GitId
    bundle_digest: Digest
    stamp_sha256: Sha256
    policy_digest: Digest
    approvers_digest: Digest
    tenant_id: str
    session_id: str
    mode: ReleaseMode
    revert: str
    """What undoes it, by name: ``delete-branch`` or ``reset-to:<expected head>``."""

    @property
    def digest(self) -> str:
        return "sha256:" + jcs_sha256(self)


class ApprovalRequest(Payload):
    """One pending decision. It is shown, signed over in part, and stored; it never changes but for ``status``."""

    approval_id: str
    action: Action
    action_digest: Digest
    stamp_id: str
    fix: Literal["complete", "partial"]
    requester_id: str
    eligible_approvers: tuple[str, ...]
    run_id: str
    nonce: str
    requested_at_ms: int
    expires_at_ms: int
    rollback: str
    residual_risk: tuple[str, ...] = ()
    checkpoint: CheckpointRef | None = None
    """The last checkpoint when it was asked: whoever keeps the request can tell later that records before it are gone."""
    status: ApprovalStatus = "pending"


class Decision(Door):
    """What a captain sends, by signal or ``gen4 approve``: everything else is filled by the receiver."""

    approval_id: Annotated[str, Field(min_length=1, max_length=64)]
    action_digest: Digest
    reason: Annotated[str, Field(max_length=2_000)] = ""
    argument_pins: dict[str, str] = {}
    """May only repeat values of the action (narrow); anything else is WIDENED."""
    signature: Annotated[str, Field(max_length=16_384)] | None = None
    """Armoured SSH signature, namespace ``gen4-approval``, over :func:`signed_bytes`."""


class Refusal(Payload):
    """A decision that does not count; recorded, shown, and the workflow goes on waiting."""

    code: str
    message: str
    remedy: str


def refusal(code: str, message: str) -> Refusal:
    return Refusal(code=code, message=message, remedy=REFUSALS[code])


def signed_bytes(request: ApprovalRequest, decision: DecisionKind, reason: str, argument_pins: dict[str, str]) -> bytes:
    """The bytes that a signature covers: the whole decision object but itself (threats 6.1)."""
    return jcs(
        {
            "approval_id": request.approval_id,
            "action_digest": request.action_digest,
            "nonce": request.nonce,
            "decision": decision,
            "argument_pins": argument_pins,
            "reason": reason,
            "tenant_id": request.action.tenant_id,
            "run_id": request.run_id,
            "expires_at": str(request.expires_at_ms),
        }
    )


def parse_decision(payload: Any, extra: tuple[Any, ...]) -> Decision | Refusal:
    """Pure and total: a signal handler may call it with anything."""
    if extra or not isinstance(payload, dict):
        return refusal("MALFORMED", "expected exactly one JSON object")
    try:
        return Decision.model_validate(payload)
    except ValidationError as error:
        return refusal("MALFORMED", plain(explain(error, Decision))[:2_000])


def precheck(request: ApprovalRequest, decision: Decision, now_ms: int) -> Refusal | None:
    """Everything about a decision that needs no key: identity of the request, digest, state, expiry, pins."""
    if decision.approval_id != request.approval_id:
        return refusal("UNKNOWN_APPROVAL", "no pending request has this approval_id")
    if request.status != "pending":
        return refusal("ALREADY_FINAL", f"the request is {request.status}")
    if decision.action_digest != request.action_digest:
        return refusal("DIGEST_MISMATCH", "the action_digest is not that of the pending request")
    if now_ms >= request.expires_at_ms:
        return refusal("EXPIRED", "the request has expired")
    action = request.action.model_dump(mode="json")
    if any(action.get(key) != value for key, value in decision.argument_pins.items()):
        return refusal("WIDENED", "argument_pins differ from the action of the request")
    return None


class SignedDecision(Payload):
    """What happened at the door, in order of arrival: a decision to be judged, or a refusal already."""

    kind: DoorKind
    decision: Decision | None = None
    refusal: Refusal | None = None
    received_at_ms: int


class Ruling(Payload):
    """Result of judging one decision against keys and history."""

    accepted: bool
    kind: DoorKind
    approver_id: str | None = None
    refusal: Refusal | None = None
    reason: str = ""

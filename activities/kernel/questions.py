"""The two questions that the gate asks the policy engine, and the facts that they carry."""

from __future__ import annotations

import time
from typing import Any

from activities.kernel.acting import Acting
from activities.kernel.admission import Call
from activities.kernel.judging import PolicyPort
from activities.record.approvals import Approvals, StoredApproval
from activities.record.effects import Effects
from activities.record.store import TenantStore
from schemas.policy import PolicyDecision


def ask_phase(policy: PolicyPort, call: Call) -> PolicyDecision:
    """May this phase use this capability?"""
    phase = call.row.phase if call.row else "none"
    return policy.decide("gen4.gate", {"phase": phase, "parent": call.parent_phase, "capability": call.activity_type})


def ask_release(policy: PolicyPort, store: TenantStore, call: Call, who: Acting) -> PolicyDecision | None:
    """Is this irreversible action approved, now? None where the request names no approval that we know: not asked, denied."""
    approval_id = getattr(call.request, "approval_id", None)
    if call.capability is None or call.capability.side_effect != "irreversible" or not isinstance(approval_id, str):
        return None
    stored = Approvals(store).get(approval_id)
    if stored is None or call.request is None:
        return None
    question = {
        "now_ms": time.time_ns() // 1_000_000,
        "resuming": Effects(store).get(who.effect_key) is not None,
        "tenant_id": who.keys.tenant_id,
        "session_id": who.keys.session_id,
        "request": call.request.model_dump(mode="json"),
        "approval": _approval_facts(stored),
    }
    return policy.decide("gen4.release", question)


def _approval_facts(stored: StoredApproval) -> dict[str, Any]:
    request = stored.request
    return {
        "approval_id": request.approval_id, "status": request.status, "action_digest": request.action_digest,
        "computed_digest": request.action.digest, "deliver_by_ms": stored.deliver_by_ms,
        "action": request.action.model_dump(mode="json"),
    }  # fmt: skip

"""The two questions that the gate asks the policy engine, and the facts that they carry."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from activities.kernel.acting import Acting
from activities.kernel.admission import Call
from activities.kernel.judging import PolicyPort
from activities.record.approvals import Approvals, StoredApproval
from activities.record.effects import Effects
from activities.record.store import TenantStore
from schemas.canonical import jcs_sha256
from schemas.policy import PolicyDecision

MEMO_MS = 2_000
"""How long an answer may stand in for the engine. It is also how soon an engine that went away is noticed."""
MEMO_SIZE = 4_096


class PhaseQuestions:
    """May this phase use this capability? The same question within a moment gets the same answer without the engine.

    Only this decision is remembered, by policy digest and input: never a lease, a switch, a breaker, a budget or an approval.
    """

    def __init__(self, policy: PolicyPort, clock: Callable[[], float] = time.monotonic) -> None:
        self._policy = policy
        self._clock = clock
        self._lock = threading.Lock()
        self._memo: dict[tuple[str, str], tuple[float, PolicyDecision]] = {}

    def remembered(self, call: Call) -> PolicyDecision | None:
        """Touches nothing but memory."""
        with self._lock:
            found = self._memo.get(self._key(_phase_question(call)))
        return found[1] if found and (self._clock() - found[0]) * 1000 < MEMO_MS else None

    def ask(self, call: Call) -> PolicyDecision:
        """Raises InfrastructureError when nobody answers."""
        question = _phase_question(call)
        asked = self._clock()
        answer = self._policy.decide("gen4.gate", question)
        with self._lock:
            if len(self._memo) >= MEMO_SIZE:
                self._memo.clear()
            self._memo[self._key(question)] = (asked, answer)
        return answer

    def _key(self, question: dict[str, str]) -> tuple[str, str]:
        return self._policy.policy_digest, jcs_sha256(question)


def _phase_question(call: Call) -> dict[str, str]:
    phase, role = (call.row.phase, call.row.role) if call.row else ("none", "none")
    return {
        "phase": phase, "parent": call.parent_phase, "capability": call.activity_type, "role": role,
        "descriptor_sha256": call.capability.descriptor_sha256 if call.capability else "",
    }  # fmt: skip


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

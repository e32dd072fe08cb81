"""The gate's checks, in the order of contracts §2: small pure functions over what is known of a call; the first refusal decides.

Numbers are those of the contract; checks that are not built (3 degrade profile, 12 token for another process) are absent.
What must not change between the check and the effect (lease, switches, breakers) is checked twice by the same functions: before
the policy is asked, and in the transaction that begins the effect. Check 10, the budget, is that transaction's reservation.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel

from activities.kernel.identity import PHASES
from activities.record.executions import ExecutionRow
from schemas.breaker import Admission
from schemas.capability import Capability
from schemas.identity import IdentityFacts, IdentityRefusal, Wanted, judge_bearer, judge_identity
from schemas.kill_switch import KillSwitch
from schemas.policy import PolicyDecision

Fact = Literal["execution", "standing", "capability", "policy", "limits", "approval", "candidate"]
Decision = Literal["blocked", "requires_approval"]


@dataclass(frozen=True)
class Standing:
    """What the store says of a call at one moment: who acts under which lease, what is switched off, what is broken."""

    identity: IdentityFacts
    kill: KillSwitch | None
    breakers: dict[int, Admission]
    """By check number: 7 the capability's own, 8 that of the server it depends on."""
    now_ms: int


@dataclass(frozen=True)
class Call:
    """What the gate knows of one attempt of one activity. Facts come in the order in which the checks need them."""

    activity_type: str
    workflow_type: str | None
    row: ExecutionRow | None = None
    lineage_error: str = ""
    """Why there is no row."""
    starter_error: IdentityRefusal | None = None
    """Why nobody stands behind the run that started it all."""
    parent_phase: str = "none"
    standing: Standing | None = None
    capability: Capability[Any, Any] | None = None
    served: bool = False
    """This worker implements the capability."""
    catalogued: bool = False
    """What this worker declares of the capability is what the policy's catalogue lists."""
    request: BaseModel | None = None
    input_error: str = ""
    """Why there is no request."""
    policy: PolicyDecision | None = None
    limit_error: tuple[str, str] | None = None
    """Code and message of the limit that the request asks to exceed."""
    approval: PolicyDecision | None = None
    """The release policy's decision; asked for irreversible capabilities only."""
    candidate: PolicyDecision | None = None
    """What a candidate policy version would decide; None where there is none."""
    candidate_enforced: bool = False
    known: frozenset[Fact] = field(default_factory=frozenset)


class Refusal(NamedTuple):
    """``check_no`` as in contracts §2. With ``retry_after_ms`` the same call may pass later; otherwise it is final."""

    check_no: int
    code: str
    message: str
    remedy: str
    decision: Decision = "blocked"
    retry_after_ms: int | None = None


class Check(NamedTuple):
    number: int
    name: str
    needs: Fact
    judge: Callable[[Call], Refusal | None]


# --- 1 who acts ------------------------------------------------------------------------------------------------------


def known_execution(call: Call) -> Refusal | None:
    if call.starter_error is not None:
        return Refusal(1, *call.starter_error)
    if call.row is None or call.workflow_type is None or PHASES.get(call.workflow_type) != call.row.phase:
        reason = call.lineage_error or "the call does not come from a run of one of our workflow types"
        return Refusal(1, "EXECUTION_UNKNOWN", reason, f"start one of {', '.join(sorted(PHASES))}")
    return None


def not_reset(call: Call) -> Refusal | None:
    if call.row is not None and call.row.reset:
        return Refusal(1, "RUN_RESET", "the run was reset; what was approved before does not carry over", "start a new one")
    return None


def entitled(call: Call) -> Refusal | None:
    if _contains(call):
        return None
    if call.standing is None or call.row is None:
        return Refusal(1, "LEASE_MISSING", "nothing is known of who acts", "start a new session")
    judge = judge_identity if call.capability is not None else judge_bearer
    refusal = judge(call.standing.identity, wanted(call.row, call), call.standing.now_ms)
    if refusal is None or (refusal.code in ("LEASE_MISSING", "LEASE_EXPIRED") and call.standing.kill is not None):
        return None  # no lease is issued while a switch is on; check 2 says so
    return Refusal(1, *refusal)


def wanted(row: ExecutionRow, call: Call) -> Wanted:
    """What this call asks of the identity of its run."""
    limits = getattr(call.request, "limits", None)
    return Wanted(
        tenant_id=row.tenant_id, session_id=row.session_id, principal_id=row.principal_id, role=row.role,
        capability_id=call.activity_type[:200], side_effect=call.capability.side_effect if call.capability else "none",
        memory_mb=getattr(limits, "memory_mb", None) or 0,
    )  # fmt: skip


# --- 2 switches ------------------------------------------------------------------------------------------------------


def not_killed(call: Call) -> Refusal | None:
    if _contains(call):
        return None
    kill = call.standing.kill if call.standing else None
    if kill is None:
        return None
    what = f"{kill.scope} {kill.target}".strip()
    remedy = "an operator lifts it with `gen4 kill off`, then start a new session"
    return Refusal(2, "KILL_SWITCH", f"the switch for {what} is on: {kill.reason}", remedy)


# --- 4 to 6 what is asked for ----------------------------------------------------------------------------------------


def declared(call: Call) -> Refusal | None:
    if call.capability is None or call.capability.id != call.activity_type:
        return Refusal(4, "CAP_UNKNOWN", f"no capability is called {call.activity_type[:200]!r}", "use a declared capability")
    if not call.served:
        return Refusal(4, "CAP_NOT_SERVED", f"this pool does not serve {call.activity_type}", "send it to the queue of its pool")
    if not call.catalogued:
        message = f"{call.activity_type} is not what the policy's catalogue lists under this name"
        return Refusal(4, "CAP_DIGEST_CHANGED", message, "review the change, then `make catalogue`, and start the fabric again")
    return None


def decodes(call: Call) -> Refusal | None:
    if call.capability is None or not isinstance(call.request, call.capability.input):
        return Refusal(4, "INPUT_INVALID", call.input_error or "the input does not decode", "send the declared input model")
    return None


def allowed(call: Call) -> Refusal | None:
    return _judged(call.policy, 5, "POLICY_DENIED", "call it from the phase that policies/data.json names")


def within_limits(call: Call) -> Refusal | None:
    if call.limit_error is None:
        return None
    code, message = call.limit_error
    return Refusal(6, code, message, "ask for less, or raise the limit in policies/data.json")


# --- 7 to 11 may it happen now ---------------------------------------------------------------------------------------


def capability_works(call: Call) -> Refusal | None:
    return _breaker(call, 7)


def server_works(call: Call) -> Refusal | None:
    return _breaker(call, 8)


def redeemed(call: Call) -> Refusal | None:
    if call.capability is not None and call.capability.side_effect != "irreversible":
        return None
    remedy = "obtain an approval of exactly this action and redeem it in time"
    refusal = _judged(call.approval, 9, "APPROVAL_REQUIRED", remedy)
    return refusal._replace(decision="requires_approval") if refusal else None


def candidate_agrees(call: Call) -> Refusal | None:
    if call.candidate is None or not call.candidate_enforced:
        return None
    remedy = "the operator is trying a stricter policy version on this session"
    return _judged(call.candidate, 11, "CANDIDATE_POLICY_DENIED", remedy)


CHECKS: tuple[Check, ...] = (
    Check(1, "known execution", "execution", known_execution),
    Check(1, "not reset", "execution", not_reset),
    Check(1, "identity and lease", "standing", entitled),
    Check(2, "kill switch", "standing", not_killed),
    Check(4, "declared capability", "capability", declared),
    Check(4, "input decodes", "capability", decodes),
    Check(5, "policy", "policy", allowed),
    Check(6, "limits", "limits", within_limits),
    Check(7, "capability breaker", "standing", capability_works),
    Check(8, "server breaker", "standing", server_works),
    Check(9, "approval redeemed", "approval", redeemed),
    Check(11, "candidate policy", "candidate", candidate_agrees),
)

RECHECKED: tuple[Check, ...] = tuple(check for check in CHECKS if check.needs == "standing")
"""What is looked at again in the transaction that begins the effect."""


def first_refusal(call: Call, checks: tuple[Check, ...] = CHECKS) -> Refusal | None:
    """The verdict on a call of which everything is known; the gate itself asks check by check."""
    for check in checks:
        if refusal := check.judge(call):
            return refusal
    return None


def _contains(call: Call) -> bool:
    return call.capability is not None and call.capability.containment


def _breaker(call: Call, number: int) -> Refusal | None:
    admission = call.standing.breakers.get(number) if call.standing and not _contains(call) else None
    if admission is None or admission.decision != "refused":
        return None
    state = admission.state
    message = f"{state.scope_key} is {state.phase} after {state.failure_count} failures: {state.last_reason}"
    return Refusal(
        number, "BREAKER_OPEN", message[:1_000], "wait: it is tried again by itself", retry_after_ms=admission.retry_after_ms
    )


def _judged(decision: PolicyDecision | None, number: int, code: str, remedy: str) -> Refusal | None:
    if decision is None:
        return Refusal(number, code, "the policy was not asked", remedy)
    if decision.decision == "allow":
        return None
    reasons = "; ".join(f"{rule.rule_id}: {rule.message}" for rule in decision.denials)
    return Refusal(number, code, reasons[:1_000] or "denied", remedy)

"""The gate's checks, in the order of contracts §2: small pure functions over what is known of a call; the first refusal decides.

Numbers are those of the contract; checks that are not built are absent from the list.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel

from activities.kernel.identity import PHASES
from activities.record.executions import ExecutionRow
from schemas.capability import Capability
from schemas.policy import PolicyDecision

Fact = Literal["execution", "capability", "policy", "approval"]


@dataclass(frozen=True)
class Call:
    """What the gate knows of one attempt of one activity. Facts come in the order in which the checks need them."""

    activity_type: str
    workflow_type: str | None
    row: ExecutionRow | None = None
    lineage_error: str = ""
    """Why there is no row."""
    parent_phase: str = "none"
    capability: Capability[Any, Any] | None = None
    served: bool = False
    """This worker implements the capability."""
    request: BaseModel | None = None
    input_error: str = ""
    """Why there is no request."""
    policy: PolicyDecision | None = None
    approval: PolicyDecision | None = None
    """The release policy's decision; asked for irreversible capabilities only."""
    known: frozenset[Fact] = field(default_factory=frozenset)


class Refusal(NamedTuple):
    """``check_no`` as in contracts §2."""

    check_no: int
    code: str
    message: str
    remedy: str


class Check(NamedTuple):
    number: int
    name: str
    needs: Fact
    judge: Callable[[Call], Refusal | None]


def known_execution(call: Call) -> Refusal | None:
    if call.row is None or call.workflow_type is None or PHASES.get(call.workflow_type) != call.row.phase:
        reason = call.lineage_error or "the call does not come from a run of one of our workflow types"
        return Refusal(1, "EXECUTION_UNKNOWN", reason, f"start one of {', '.join(sorted(PHASES))}")
    return None


def not_reset(call: Call) -> Refusal | None:
    if call.row is not None and call.row.reset:
        return Refusal(1, "RUN_RESET", "the run was reset; what was approved before does not carry over", "start a new one")
    return None


def declared(call: Call) -> Refusal | None:
    if call.capability is None or call.capability.id != call.activity_type:
        return Refusal(4, "CAP_UNKNOWN", f"no capability is called {call.activity_type[:200]!r}", "use a declared capability")
    if not call.served:
        return Refusal(4, "CAP_NOT_SERVED", f"this pool does not serve {call.activity_type}", "send it to the queue of its pool")
    return None


def decodes(call: Call) -> Refusal | None:
    if call.capability is None or not isinstance(call.request, call.capability.input):
        return Refusal(4, "INPUT_INVALID", call.input_error or "the input does not decode", "send the declared input model")
    return None


def allowed(call: Call) -> Refusal | None:
    return _judged(call.policy, 5, "POLICY_DENIED", "call it from the phase that policies/data.json names")


def redeemed(call: Call) -> Refusal | None:
    if call.capability is not None and call.capability.side_effect != "irreversible":
        return None
    return _judged(call.approval, 9, "APPROVAL_REQUIRED", "obtain an approval of exactly this action and redeem it in time")


CHECKS: tuple[Check, ...] = (
    Check(1, "known execution", "execution", known_execution),
    Check(1, "not reset", "execution", not_reset),
    Check(4, "declared capability", "capability", declared),
    Check(4, "input decodes", "capability", decodes),
    Check(5, "policy", "policy", allowed),
    Check(9, "approval redeemed", "approval", redeemed),
)


def first_refusal(call: Call, checks: tuple[Check, ...] = CHECKS) -> Refusal | None:
    """The verdict on a call of which everything is known; the gate itself asks check by check."""
    return next((refusal for check in checks if (refusal := check.judge(call)) is not None), None)


def _judged(decision: PolicyDecision | None, number: int, code: str, remedy: str) -> Refusal | None:
    if decision is None:
        return Refusal(number, code, "the policy was not asked", remedy)
    if decision.decision == "allow":
        return None
    reasons = "; ".join(f"{rule.rule_id}: {rule.message}" for rule in decision.denials)
    return Refusal(number, code, reasons[:1_000] or "denied", remedy)

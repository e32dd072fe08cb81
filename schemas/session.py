"""The session machine ``session.v1``: 8 states, 11 signals, one table for workflow, tests and docs (contracts §1)."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

from schemas.model import Payload

MACHINE_VERSION = "session.v1"


class State(StrEnum):
    INTAKE = "Intake"
    POLICY_REVIEW = "PolicyReview"
    PLANNED = "Planned"
    SCHEDULED = "Scheduled"
    EXECUTING = "Executing"
    VERIFYING = "Verifying"
    CLOSED = "Closed"
    BLOCKED = "Blocked"


class Signal(StrEnum):
    INTENT_RECEIVED = "IntentReceived"
    POLICY_APPROVED = "PolicyApproved"
    POLICY_REJECTED = "PolicyRejected"
    PLAN_COMMITTED = "PlanCommitted"
    TASK_SCHEDULED = "TaskScheduled"
    EXECUTION_STARTED = "ExecutionStarted"
    EXECUTION_FAILED = "ExecutionFailed"
    RUNTIME_BLOCKED = "RuntimeBlocked"
    VERIFY_PASSED = "VerifyPassed"
    VERIFY_REJECTED = "VerifyRejected"
    CLOSED = "Closed"


_I, _R, _P, _S = State.INTAKE, State.POLICY_REVIEW, State.PLANNED, State.SCHEDULED
_E, _V, _C, _B = State.EXECUTING, State.VERIFYING, State.CLOSED, State.BLOCKED

TABLE: dict[tuple[State, Signal], tuple[State, ...]] = {
    (_I, Signal.INTENT_RECEIVED): (_R,),
    (_R, Signal.POLICY_APPROVED): (_P,),
    (_E, Signal.POLICY_APPROVED): (_E,),
    (_B, Signal.POLICY_APPROVED): (_P,),
    (_R, Signal.POLICY_REJECTED): (_R,),
    (_P, Signal.POLICY_REJECTED): (_R,),
    (_E, Signal.POLICY_REJECTED): (_P,),
    (_P, Signal.PLAN_COMMITTED): (_S,),
    (_E, Signal.PLAN_COMMITTED): (_E,),
    (_P, Signal.TASK_SCHEDULED): (_S,),
    (_S, Signal.TASK_SCHEDULED): (_E,),
    (_E, Signal.TASK_SCHEDULED): (_E,),
    (_S, Signal.EXECUTION_STARTED): (_E,),
    (_E, Signal.EXECUTION_STARTED): (_E,),
    (_E, Signal.EXECUTION_FAILED): (_P,),
    (_E, Signal.RUNTIME_BLOCKED): (_B,),
    (_E, Signal.VERIFY_PASSED): (_V,),
    (_V, Signal.VERIFY_PASSED): (_C,),
    (_C, Signal.VERIFY_PASSED): (_C,),
    (_P, Signal.VERIFY_REJECTED): (_P,),
    (_E, Signal.VERIFY_REJECTED): (_V, _P),
    (_V, Signal.VERIFY_REJECTED): (_P,),
    (_C, Signal.VERIFY_REJECTED): (_P,),
    **{(state, Signal.CLOSED): (_C,) for state in State},
}
"""Legal pairs and their hops; a pair that is absent is illegal and changes nothing."""

CloseReason = Literal[
    "cancelled", "duplicate", "resolved_externally", "approval_rejected", "kill_switch", "failed_final", "released", "compiled"
]
"""``compiled``: a Compile that CI started came to its verdict; such a session has no machine."""
ABORTS: frozenset[str] = frozenset(
    {"cancelled", "duplicate", "resolved_externally", "approval_rejected", "kill_switch", "failed_final"}
)
"""Why a session may be closed from any state; only a delivered fix closes otherwise."""
Outcome = Literal[
    "merged", "merged_rolled_back", "rejected", "no_fix_found", "duplicate", "resolved_externally", "cancelled", "failed"
]


class TransitionRecord(Payload):
    """One hop. ``state_seq`` is gapless within a session."""

    machine_version: str = MACHINE_VERSION
    state_seq: int
    from_state: State
    signal: Signal
    to_state: State
    hop: Literal[1, 2]
    stage: str = ""
    cycle: int = 0
    reason_code: str = ""
    reason: str = ""


class IllegalTransition(Payload):
    """The answer to a pair that the table does not have; recorded as ``session.transition_refused``."""

    code: Literal["ILLEGAL_TRANSITION", "GUARD_FAILED"] = "ILLEGAL_TRANSITION"
    from_state: State
    signal: Signal
    state_seq: int


def step(
    state: State, state_seq: int, signal: Signal, *, stage: str = "", cycle: int = 0, reason_code: str = "", reason: str = ""
) -> tuple[TransitionRecord, ...] | IllegalTransition:
    """The records that ``signal`` causes in ``state``, or the refusal. Pure and total.

    Args:
        state_seq: number of the last record of the session (0 = none yet).
    """
    hops = TABLE.get((state, signal))
    if hops is None:
        return IllegalTransition(from_state=state, signal=signal, state_seq=state_seq)
    records: list[TransitionRecord] = []
    origin = state
    for hop, target in enumerate(hops, start=1):
        records.append(
            TransitionRecord(
                state_seq=state_seq + hop, from_state=origin, signal=signal, to_state=target, hop=1 if hop == 1 else 2,
                stage=stage, cycle=cycle, reason_code=reason_code, reason=reason,
            )
        )
        origin = target
    return tuple(records)


class Attested(Payload):
    """What a session has established so far; the guards read it, nothing else."""

    candidate_verified: bool = False
    """A candidate passed Explore's confirmation and Compile."""
    gates_passed: bool = False
    """Compile accepted the candidate and all three gates passed."""
    approval_id: str = ""
    redeemed: bool = False
    delivered: bool = False
    """The target's ref was read back after the delivery."""
    cause_gone: bool = False
    """What blocked the session was looked at again and is no longer there."""


def guard_holds(
    state: State, signal: Signal, attested: Attested, *, reason_code: str = "", outcome: Outcome | None = None
) -> bool:
    """Whether a legal pair may be taken now (contracts §1, guards). Pure and total."""
    match (state, signal):
        case (State.CLOSED, Signal.VERIFY_REJECTED):
            return False  # a closed workflow takes no signal: reopening is a new session
        case (State.EXECUTING, Signal.VERIFY_PASSED):
            return attested.candidate_verified
        case (State.VERIFYING, Signal.VERIFY_PASSED):
            return attested.gates_passed and attested.redeemed and attested.delivered
        case (State.EXECUTING, Signal.POLICY_APPROVED):
            return attested.approval_id != ""
        case (State.BLOCKED, Signal.POLICY_APPROVED):
            return attested.cause_gone
        case (state, Signal.CLOSED) if state is not State.CLOSED:
            return reason_code in ABORTS and outcome not in ("merged", "merged_rolled_back")
        case _:
            return True


def advance(
    state: State, state_seq: int, signal: Signal, attested: Attested, *, stage: str = "", cycle: int = 0, reason_code: str = "",
    reason: str = "", outcome: Outcome | None = None,
) -> tuple[TransitionRecord, ...] | IllegalTransition:  # fmt: skip
    """:func:`step` behind its guards: the only way in which a workflow moves."""
    if (state, signal) in TABLE and not guard_holds(state, signal, attested, reason_code=reason_code, outcome=outcome):
        return IllegalTransition(code="GUARD_FAILED", from_state=state, signal=signal, state_seq=state_seq)
    return step(state, state_seq, signal, stage=stage, cycle=cycle, reason_code=reason_code, reason=reason)

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
    "cancelled", "duplicate", "resolved_externally", "approval_rejected", "kill_switch", "failed_final", "released"
]
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

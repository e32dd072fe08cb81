"""The session machine: all 88 pairs, its guards, and any sequence of signals."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from schemas.session import ABORTS, TABLE, Attested, IllegalTransition, Signal, State, TransitionRecord, advance, step

LETTERS = {
    "I": State.INTAKE, "R": State.POLICY_REVIEW, "P": State.PLANNED, "S": State.SCHEDULED, "E": State.EXECUTING,
    "V": State.VERIFYING, "C": State.CLOSED, "B": State.BLOCKED,
}  # fmt: skip
# Written down a second time, as in the contract: columns I R P S E V C B.
CONTRACT = {
    "IntentReceived": "R . . . . . . .", "PolicyApproved": ". P . . E . . P", "PolicyRejected": ". R R . P . . .",
    "PlanCommitted": ". . S . E . . .", "TaskScheduled": ". . S E E . . .", "ExecutionStarted": ". . . E E . . .",
    "ExecutionFailed": ". . . . P . . .", "RuntimeBlocked": ". . . . B . . .", "VerifyPassed": ". . . . V C C .",
    "VerifyRejected": ". . P . VP P P .", "Closed": "C C C C C C C C",
}  # fmt: skip
PAIRS = [
    (state, Signal(signal), tuple(LETTERS[letter] for letter in cell if letter != "."))
    for signal, row in CONTRACT.items()
    for state, cell in zip(LETTERS.values(), row.split(), strict=True)
]
EVERYTHING = Attested(candidate_verified=True, gates_passed=True, approval_id="a", redeemed=True, delivered=True, cause_gone=True)


def test_the_table_has_88_pairs_of_which_31_are_legal() -> None:
    assert len(PAIRS) == 88
    assert sum(bool(hops) for _, _, hops in PAIRS) == len(TABLE) == 31


@pytest.mark.parametrize(("state", "signal", "hops"), PAIRS)
def test_each_pair_is_as_in_the_contract(state: State, signal: Signal, hops: tuple[State, ...]) -> None:
    result = step(state, 7, signal)
    if not hops:
        assert result == IllegalTransition(from_state=state, signal=signal, state_seq=7)
        return
    assert isinstance(result, tuple)
    assert [(record.from_state, record.to_state) for record in result] == list(zip((state, *hops), hops, strict=False))
    assert [record.state_seq for record in result] == list(range(8, 8 + len(hops)))
    assert [record.hop for record in result] == list(range(1, 1 + len(hops)))


@pytest.mark.parametrize(
    ("state", "signal", "missing"),
    [
        (State.EXECUTING, Signal.VERIFY_PASSED, "candidate_verified"),
        (State.VERIFYING, Signal.VERIFY_PASSED, "gates_passed"),
        (State.VERIFYING, Signal.VERIFY_PASSED, "redeemed"),
        (State.VERIFYING, Signal.VERIFY_PASSED, "delivered"),
        (State.EXECUTING, Signal.POLICY_APPROVED, "approval_id"),
        (State.BLOCKED, Signal.POLICY_APPROVED, "cause_gone"),
    ],
)
def test_a_guard_holds_only_with_what_was_established(state: State, signal: Signal, missing: str) -> None:
    assert isinstance(advance(state, 3, signal, EVERYTHING), tuple)
    lacking = EVERYTHING.model_copy(update={missing: type(getattr(EVERYTHING, missing))()})
    refused = advance(state, 3, signal, lacking)
    assert refused == IllegalTransition(code="GUARD_FAILED", from_state=state, signal=signal, state_seq=3)


@pytest.mark.parametrize("state", [state for state in State if state is not State.CLOSED])
def test_closing_needs_an_abort_reason_and_is_never_merged(state: State) -> None:
    for reason in ABORTS:
        assert isinstance(advance(state, 0, Signal.CLOSED, Attested(), reason_code=reason, outcome="failed"), tuple)
        assert isinstance(advance(state, 0, Signal.CLOSED, Attested(), reason_code=reason, outcome="merged"), IllegalTransition)
    for reason in ("", "released", "compiled", "because"):
        assert isinstance(advance(state, 0, Signal.CLOSED, EVERYTHING, reason_code=reason), IllegalTransition)


def test_a_closed_session_is_not_reopened_in_place() -> None:
    assert isinstance(advance(State.CLOSED, 9, Signal.VERIFY_REJECTED, EVERYTHING), IllegalTransition)


class AnySession(RuleBasedStateMachine):
    """Whatever is sent: numbers have no gaps, records join, refusals change nothing, nothing merges without its guards."""

    def __init__(self) -> None:
        super().__init__()
        self.state, self.seq = State.INTAKE, 0
        self.records: list[TransitionRecord] = []
        self.attested = Attested()

    @rule(fact=st.sampled_from(["candidate_verified", "gates_passed", "redeemed", "delivered"]))
    def establish(self, fact: str) -> None:
        self.attested = self.attested.model_copy(update={fact: True})

    @rule(signal=st.sampled_from(Signal), reason=st.sampled_from([*sorted(ABORTS), "", "released"]))
    def send(self, signal: Signal, reason: str) -> None:
        result = advance(self.state, self.seq, signal, self.attested, reason_code=reason)
        if isinstance(result, IllegalTransition):
            assert (result.from_state, result.state_seq) == (self.state, self.seq)
            return
        self.records.extend(result)
        self.state, self.seq = result[-1].to_state, result[-1].state_seq

    @invariant()
    def gapless_and_joined(self) -> None:
        assert [record.state_seq for record in self.records] == list(range(1, self.seq + 1))
        for before, after in zip(self.records, self.records[1:], strict=False):
            assert before.to_state is after.from_state

    @invariant()
    def delivered_before_done(self) -> None:
        if any((r.from_state, r.signal) == (State.VERIFYING, Signal.VERIFY_PASSED) for r in self.records):
            assert self.attested.redeemed and self.attested.delivered and self.attested.gates_passed


TestAnySession = AnySession.TestCase


@given(st.sampled_from(State), st.integers(0, 10**6), st.sampled_from(Signal), st.text(), st.text())
def test_step_is_total(state: State, seq: int, signal: Signal, stage: str, reason: str) -> None:
    assert isinstance(step(state, seq, signal, stage=stage, reason=reason), tuple | IllegalTransition)

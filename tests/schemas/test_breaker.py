"""The breaker as a state machine: whatever happens in whatever order, little gets through while it is open, and it recovers."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from schemas.breaker import BreakerRule, BreakerState, abandoned, admit, failed, fresh, recoveries, reset, scope_key, succeeded

RULE = BreakerRule(threshold=3, cooldown_ms=1_000)
KEY = scope_key("acme", "tool", "testbed.run_tests")


def opened(at_ms: int = 0) -> BreakerState:
    state = fresh(KEY, RULE)
    for number in range(RULE.threshold):
        state = failed(state, f"a{number}", "HARNESS_BROKEN", at_ms)
    return state


def half_open() -> BreakerState:
    return admit(opened(), "probe", 1_000).state


def test_failures_in_a_row_open_it_and_a_success_between_them_does_not_count_on() -> None:
    state = fresh(KEY, RULE)
    for ok in (False, False, True, False, False):
        state = succeeded(state, "a", 1) if ok else failed(state, "a", "X", 1)
        assert state.phase == "closed"
    assert failed(state, "a", "X", 1).phase == "open"


def test_open_refuses_and_says_how_long() -> None:
    admission = admit(opened(at_ms=500), "next", 700)
    assert (admission.decision, admission.retry_after_ms) == ("refused", 800)


def test_after_the_cooldown_one_probe_goes_and_the_others_wait_for_it() -> None:
    first = admit(opened(), "probe", 1_000)
    assert (first.decision, first.state.phase) == ("probe", "half_open")
    assert admit(first.state, "another", 1_001).decision == "refused"
    assert admit(first.state, "probe", 1_001).decision == "probe", "the same attempt asks again after a lost answer"


@pytest.mark.parametrize(
    ("settle", "phase"),
    [
        (lambda state: succeeded(state, "probe", 1_500), "closed"),
        (lambda state: failed(state, "probe", "X", 1_500), "open"),
        (lambda state: abandoned(state, "probe"), "half_open"),
        (lambda state: succeeded(state, "late", 1_500), "half_open"),
        (lambda state: failed(state, "late", "X", 1_500), "half_open"),
        (lambda state: abandoned(state, "late"), "half_open"),
    ],
)
def test_only_the_probe_decides(settle: Callable[[BreakerState], BreakerState], phase: str) -> None:
    assert settle(half_open()).phase == phase


def test_a_lost_probe_frees_its_place_and_its_late_result_does_not_count() -> None:
    state = half_open()
    assert admit(state, "second", 1_999).decision == "refused"
    second = admit(state, "second", 2_000)
    assert second.decision == "probe"
    assert succeeded(second.state, "probe", 2_001) is second.state
    assert succeeded(second.state, "second", 2_001).phase == "closed"


def test_a_probe_may_be_given_its_own_bound() -> None:
    state = admit(opened(), "long", 1_000, probe_ms=60_000).state
    refused = admit(state, "another", 30_000)
    assert (refused.decision, refused.retry_after_ms) == ("refused", RULE.cooldown_ms)
    assert admit(state, "another", 61_000).decision == "probe"


def test_work_that_takes_longer_than_a_cooldown_closes_it_although_other_probes_went_meanwhile() -> None:
    first = admit(opened(), "first", 1_000).state
    second = admit(first, "second", 1_000 + RULE.cooldown_ms)
    assert second.decision == "probe"
    assert failed(second.state, "first", "X", 2_500, generation=first.generation) is second.state
    assert succeeded(second.state, "first", 2_500, generation=first.generation).phase == "closed"
    reopened = failed(second.state, "second", "X", 2_500)
    assert succeeded(reopened, "first", 2_600, generation=first.generation) is reopened


def test_an_abandoned_probe_frees_its_place_at_once() -> None:
    assert admit(abandoned(half_open(), "probe"), "next", 1_001).decision == "probe"


def test_results_that_are_older_than_an_outage_do_not_count() -> None:
    closed = succeeded(half_open(), "probe", 1_500)
    assert failed(closed, "from before", "X", 1_600, generation=1) is closed
    assert failed(closed, "from now", "X", 1_600, generation=closed.generation).failure_count == 1


def test_a_success_of_a_clean_breaker_is_nothing_to_write() -> None:
    state = fresh(KEY, RULE)
    assert succeeded(state, "a", 1) is state


@given(st.integers(0, 10**13), st.integers(0, 10**13))
def test_a_clock_that_goes_backwards_lets_nobody_wait_longer_than_a_cooldown(at_ms: int, now_ms: int) -> None:
    admission = admit(opened(at_ms), "next", now_ms)
    assert admission.retry_after_ms <= RULE.cooldown_ms
    later = admit(admission.state, "next", now_ms + RULE.cooldown_ms)
    assert later.decision == "probe"


def test_an_operator_closes_it() -> None:
    state = reset(opened(), 10)
    assert (state.phase, state.failure_count, state.opened_at_ms, state.failing_since_ms) == ("closed", 0, None, None)


def test_recovery_is_measured_from_the_first_opening_whatever_probes_did() -> None:
    events = [
        {"scope_key": "a", "to": "open", "at_ms": 100}, {"scope_key": "b", "to": "open", "at_ms": 150},
        {"scope_key": "a", "to": "half_open", "at_ms": 200}, {"scope_key": "a", "to": "open", "at_ms": 210},
        {"scope_key": "a", "to": "half_open", "at_ms": 400}, {"scope_key": "a", "to": "closed", "at_ms": 450},
    ]  # fmt: skip
    assert recoveries(events) == [("a", 100, 350), ("b", 150, None)]


class BreakerMachine(RuleBasedStateMachine):
    """Attempts are admitted, end, get lost and report late, while time passes or jumps back."""

    @initialize(threshold=st.integers(1, 4), cooldown_ms=st.integers(1, 500))
    def begin(self, threshold: int, cooldown_ms: int) -> None:
        self.state = fresh(KEY, BreakerRule(threshold=threshold, cooldown_ms=cooldown_ms))
        self.now, self.count = 1_000, 0
        self.running: dict[str, tuple[str, int]] = {}
        """Decision and generation by attempt."""

    @rule(by=st.integers(-300, 700))
    def time_passes(self, by: int) -> None:
        self.now = max(0, self.now + by)

    @rule()
    def attempt(self) -> None:
        self.count += 1
        name = f"a{self.count}"
        before = self.state
        admission = admit(before, name, self.now)
        self.state = admission.state
        if admission.decision == "refused":
            assert before.phase != "closed"
            assert 0 < admission.retry_after_ms <= before.cooldown_ms
        else:
            assert (admission.decision == "probe") == (before.phase != "closed")
            self.running[name] = (admission.decision, self.state.generation)

    @rule(data=st.data(), how=st.sampled_from(["ok", "failed", "abandoned"]))
    def end(self, data: st.DataObject, how: str) -> None:
        if not self.running:
            return
        name = data.draw(st.sampled_from(sorted(self.running)))
        _, generation = self.running.pop(name)
        before = self.state
        match how:
            case "ok":
                self.state = succeeded(before, name, self.now, generation=generation)
            case "failed":
                self.state = failed(before, name, "X", self.now, generation=generation)
            case _:
                self.state = abandoned(before, name)
        overtaken = how == "ok" and before.phase == "half_open" and generation == before.generation
        if before.phase != "closed" and name != before.probe_id and not overtaken:
            assert self.state is before, "a late result changed an open breaker"
        if before.phase == "closed" and generation != before.generation:
            assert self.state is before, "a result from before the outage counted"

    @invariant()
    def the_state_is_sound(self) -> None:
        state = getattr(self, "state", None)
        if state is None:
            return
        if state.phase == "closed":
            assert state.failure_count < state.threshold
            assert (state.opened_at_ms, state.failing_since_ms, state.probe_id) == (None, None, None)
        else:
            assert state.opened_at_ms is not None and state.failing_since_ms is not None
        assert (state.probe_id is None) or state.phase == "half_open", "at most one probe, and only half-open"

    def teardown(self) -> None:
        """Once successes come it closes, from wherever it was left."""
        state, now = getattr(self, "state", None), getattr(self, "now", 0)
        if state is None:
            return
        for number in range(4):
            now += state.cooldown_ms
            admission = admit(state, f"last{number}", now)
            state = admission.state
            if admission.decision != "refused":
                state = succeeded(state, f"last{number}", now, generation=state.generation)
        assert (state.phase, state.failure_count) == ("closed", 0)


TestBreakerMachine = BreakerMachine.TestCase
TestBreakerMachine.settings = settings(max_examples=300, stateful_step_count=40, deadline=None)

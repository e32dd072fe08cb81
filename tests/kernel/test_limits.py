"""Limits: completed from policy, refused above it, carried by every call that the gate checks, and counted by a meter."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from activities.kernel.estimating import END_MARGIN_MS, bounds_of
from activities.kernel.limiting import KernelPolicy, check_limits, session_limits
from activities.kernel.metering import Meter, as_metered, metering
from schemas.capabilities import CAPABILITIES
from schemas.error import Refused, Stopped
from schemas.ledger import Usage
from schemas.limits import (
    CODE,
    AttemptLimits,
    LimitRefusal,
    LimitRequest,
    RequestedLimits,
    SandboxLimits,
    effective,
    exceeding,
    limits_of,
)
from schemas.model import Payload
from schemas.request import CompileRequest, RemediationRequest
from schemas.testing import Limits

POLICY = KernelPolicy.load().limits
NAMES = tuple(SandboxLimits.model_fields)
ATTEMPT = AttemptLimits(tool_calls=2, steps=3, tokens=10)


class WithLimits(Payload):
    limits: Limits


class WithBounds(Payload):
    wall_ms: int
    keep: int


def test_what_is_not_given_comes_from_policy() -> None:
    assert session_limits(RequestedLimits()) == limits_of(POLICY.default)
    given_one = session_limits(RequestedLimits(memory_mb=4096))
    assert given_one == limits_of(POLICY.default).model_copy(update={"memory_mb": 4096})


def test_policy_defaults_are_those_of_a_call_that_says_nothing() -> None:
    assert limits_of(POLICY.default) == Limits()


def test_policy_allows_its_own_defaults() -> None:
    default, most = POLICY.default.model_dump(), POLICY.maximum.model_dump()
    assert all(default[name] <= most[name] for name in NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_each_limit_above_policy_is_refused_and_named(name: str) -> None:
    most = getattr(POLICY.maximum, name)
    assert isinstance(effective(RequestedLimits(**{name: most}), POLICY), Limits)
    with pytest.raises(Refused, match=f"{CODE}.*{name} {most + 1}"):
        session_limits(RequestedLimits(**{name: most + 1}))


@given(st.dictionaries(st.sampled_from(NAMES), st.integers(1, 2**53 - 1)))
def test_nothing_is_clamped(asked: dict[str, int]) -> None:
    found = effective(RequestedLimits(**asked), POLICY)
    if isinstance(found, LimitRefusal):
        assert any(value > getattr(POLICY.maximum, name) for name, value in asked.items())
        return
    for name, value in asked.items():
        got = round(found.cpus * 100) if name == "cpu_percent" else getattr(found, name)
        assert got == value
    assert exceeding(found, POLICY) is None


@pytest.mark.parametrize("value", [0, -1, 2**53, "many"])
def test_nonsense_does_not_pass_the_door(value: Any) -> None:
    with pytest.raises(ValidationError):
        RemediationRequest(repository="/r", goal="g", limits={"memory_mb": value})


@pytest.mark.parametrize("model", [RemediationRequest, CompileRequest])
def test_a_limit_that_does_not_exist_is_refused_at_the_door(model: type[RemediationRequest]) -> None:
    with pytest.raises(ValidationError, match="memory"):
        model.model_validate({"repository": "/r", "goal": "g", "limits": {"memory": 1}})


def test_between_our_own_parts_an_unknown_limit_is_ignored() -> None:
    assert RequestedLimits.model_validate({"memory_mb": 1, "later": 2}) == RequestedLimits(memory_mb=1)
    assert issubclass(LimitRequest, RequestedLimits)


@pytest.mark.parametrize(
    ("request_", "found"),
    [
        (WithLimits(limits=Limits()), None),
        (WithLimits(limits=Limits(memory_mb=POLICY.maximum.memory_mb + 1)), "memory_mb"),
        (WithLimits(limits=Limits(cpus=1_000)), "cpu_percent"),
        (WithLimits(limits=Limits(cpus=float("inf"))), "cpu_percent"),
        (WithLimits(limits=Limits(cpus=float("nan"))), "cpu_percent"),
        (WithLimits(limits=Limits(pids=0)), "pids"),
        (WithLimits(limits=Limits(wall_ms=-1)), "wall_ms"),
        (WithBounds(wall_ms=POLICY.request.wall_ms, keep=POLICY.request.candidates), None),
        (WithBounds(wall_ms=POLICY.request.wall_ms + 1, keep=1), "wall_ms"),
        (WithBounds(wall_ms=1, keep=POLICY.request.candidates + 1), "keep"),
        (WithBounds(wall_ms=0, keep=1), "wall_ms"),
        (None, None),
    ],
)
def test_the_gate_checks_what_a_call_carries(request_: Payload | None, found: str | None) -> None:
    refusal = check_limits(request_, POLICY)
    assert (refusal is None) == (found is None)
    if refusal is not None and found is not None:
        assert refusal.code == CODE and refusal.message.startswith(found)


def test_every_call_that_runs_a_plan_in_a_sandbox_carries_its_limits() -> None:
    plans = {name for name, capability in CAPABILITIES.items() if "plan" in capability.input.model_fields and capability.metered}
    assert plans == {"testbed.run_tests", "testbed.run_benchmark", "explore.localize", "explore.repair"}
    assert all(CAPABILITIES[name].input.model_fields["limits"].annotation is Limits for name in plans)


def test_a_meter_counts_and_sandboxes_side_by_side_take_their_time_once() -> None:
    now = 0
    meter = Meter(clock=lambda: now * 1_000_000)
    meter.tool_call()
    with meter.sandbox():
        now += 10
        with meter.sandbox():
            now += 5
        now += 1
        assert meter.usage().wall_ms == 16
    now += 100
    with meter.sandbox():
        now += 4
    meter.cpu(7)
    meter.cpu(-3)
    meter.egress(11)
    meter.tokens("a-model", prompt=5, completion=2, cached=1)
    assert meter.usage() == Usage(
        tool_calls=1, wall_ms=20, cpu_ms=7, egress_bytes=11, prompt_tokens=5, completion_tokens=2, cached_tokens=1,
        model="a-model",
    )  # fmt: skip


@pytest.mark.parametrize("name", ["tool_calls", "tokens"])
def test_a_meter_stops_what_goes_beyond_its_allowance(name: str) -> None:
    meter, most = Meter(ATTEMPT), getattr(ATTEMPT, name)
    use = {"tool_calls": meter.tool_call, "tokens": lambda: meter.tokens("m", prompt=1, completion=0)}[name]
    for _ in range(most):
        use()
    with pytest.raises(Stopped, match=f"{name.upper()}_LIMIT"):
        use()


def test_tokens_that_were_used_are_counted_also_when_they_were_too_many() -> None:
    meter = Meter(ATTEMPT)
    with pytest.raises(Stopped):
        meter.tokens("m", prompt=100, completion=1)
    assert meter.usage().prompt_tokens == 100


def test_threads_do_not_lose_counts() -> None:
    meter = Meter()
    threads = [threading.Thread(target=lambda: [meter.cpu(1) for _ in range(1_000)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert meter.usage().cpu_ms == 8_000


def test_the_running_attempts_meter_is_the_one_that_is_found() -> None:
    assert metering() is not metering(), "outside an attempt nobody counts"
    with as_metered(Meter()) as meter:
        assert metering() is meter


def test_what_is_reserved_for_a_search_covers_its_margins_and_the_confirmation_beside_it() -> None:
    class Search(Payload):
        limits: Limits = Limits(cpus=1.5, wall_ms=60_000)
        wall_ms: int = 100_000

    bounds = bounds_of(CAPABILITIES["explore.repair"], Search(), POLICY)
    assert bounds.wall_ms > 100_000 + 120_000 + 60_000
    assert bounds.cpu_percent == 300
    ceiling = bounds_of(CAPABILITIES["explore.repair"], Search(wall_ms=10**12), POLICY)
    assert ceiling.wall_ms == 24 * 3_600_000 + END_MARGIN_MS
    tests = bounds_of(CAPABILITIES["testbed.run_tests"], WithLimits(limits=Limits()), POLICY)
    assert (tests.wall_ms, tests.cpu_percent) == (3_600_000 + END_MARGIN_MS, 100)

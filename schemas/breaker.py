"""The circuit breaker: a pure reducer over a row that all workers share (contracts §6).

    closed ──threshold failures in a row──▶ open ──cooldown──▶ half_open ──probe succeeded──▶ closed
                                             ▲                     │
                                             └────probe failed─────┘

Open and half-open, one attempt at most runs: the probe, for a bounded time. What an attempt reports counts only if the
breaker still is in the state that admitted it; later reports change nothing. Nothing here reads a clock: time that goes
backwards is noticed, and nobody waits longer for it than a cooldown, or than a probe may take.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple

from schemas.model import Payload

BreakerPhase = Literal["closed", "open", "half_open"]
BreakerKind = Literal["tool", "server", "model"]
REASON_CHARS = 256


class BreakerRule(Payload):
    """``threshold`` failures in a row open it; ``cooldown_ms`` later a probe may try."""

    threshold: int
    cooldown_ms: int


class BreakerState(Payload):
    """``scope_key`` is ``<tenant>:tool|server|model:<id>``. ``generation`` counts the changes of phase."""

    scope_key: str
    phase: BreakerPhase = "closed"
    failure_count: int = 0
    """Failures since the last success."""
    success_count: int = 0
    """Successes that ended a row of failures; a success of a clean breaker writes nothing."""
    threshold: int
    cooldown_ms: int
    failing_since_ms: int | None = None
    """When it left ``closed``: the recovery time is counted from here, however many probes fail."""
    opened_at_ms: int | None = None
    """Of the last opening: the cooldown is counted from here."""
    probe_id: str | None = None
    probe_from_ms: int | None = None
    probe_until_ms: int | None = None
    """A probe that has not ended by then is taken to be lost, and another one may go."""
    last_failure_ms: int | None = None
    last_success_ms: int | None = None
    last_reason: str = ""
    generation: int = 1

    @property
    def clean(self) -> bool:
        """Closed, and nothing failed since the last success."""
        return self.phase == "closed" and self.failure_count == 0


class Admission(Payload):
    """``state`` is what is to be kept. Its ``generation`` goes back with the result of the attempt."""

    decision: Literal["allow", "probe", "refused"]
    state: BreakerState
    retry_after_ms: int = 0


def scope_key(tenant_id: str, kind: BreakerKind, id: str) -> str:
    return f"{tenant_id}:{kind}:{id}"


def fresh(key: str, rule: BreakerRule) -> BreakerState:
    return BreakerState(scope_key=key, threshold=rule.threshold, cooldown_ms=rule.cooldown_ms)


def admit(state: BreakerState, probe_id: str, now_ms: int, *, probe_ms: int | None = None) -> Admission:
    """May the attempt ``probe_id`` run? Asked again by the same probe, the answer is the same.

    Args:
        probe_ms: how long a probe may run before it counts as lost; default: one cooldown.
    """
    if state.phase == "closed":
        return Admission(decision="allow", state=state)
    state = _rebased(state, now_ms)
    if state.phase == "open":
        wait = (state.opened_at_ms or 0) + state.cooldown_ms - now_ms
        if wait > 0:
            return Admission(decision="refused", state=state, retry_after_ms=wait)
        state = _moved(state, "half_open")
    elif state.probe_id == probe_id:
        return Admission(decision="probe", state=state)
    elif state.probe_id is not None and (state.probe_until_ms or 0) > now_ms:
        wait = min((state.probe_until_ms or 0) - now_ms, state.cooldown_ms)
        return Admission(decision="refused", state=state, retry_after_ms=wait)
    until = now_ms + (state.cooldown_ms if probe_ms is None else probe_ms)
    return Admission(decision="probe", state=_with(state, probe_id=probe_id, probe_from_ms=now_ms, probe_until_ms=until))


def succeeded(state: BreakerState, probe_id: str, now_ms: int, *, generation: int | None = None) -> BreakerState:
    """The attempt ``probe_id`` succeeded. The very same object comes back where nothing changes.

    Args:
        generation: of the admission; a result from another generation is too late to say anything. A probe that took longer
            than its place was kept closes the breaker as well, while that is still half-open: else work that always takes
            longer than a cooldown never would.
    """
    overtaken = state.phase == "half_open" and generation == state.generation
    if not (overtaken or _counts(state, probe_id, generation)) or (state.phase == "closed" and state.failure_count == 0):
        return state
    healthy = _with(state, failure_count=0, success_count=state.success_count + 1, last_success_ms=now_ms)
    return healthy if state.phase == "closed" else _closed(healthy)


def failed(
    state: BreakerState, probe_id: str, reason: str, now_ms: int, *, generation: int | None = None
) -> BreakerState:
    """The attempt ``probe_id`` failed for a reason that lies in the scope; see :func:`succeeded`."""
    if not _counts(state, probe_id, generation):
        return state
    state = _with(
        state, failure_count=state.failure_count + 1, last_failure_ms=now_ms, last_reason=reason[:REASON_CHARS]
    )
    if state.phase == "closed" and state.failure_count < state.threshold:
        return state
    since = now_ms if state.failing_since_ms is None else state.failing_since_ms
    return _with(_moved(state, "open"), opened_at_ms=now_ms, failing_since_ms=since)


def abandoned(state: BreakerState, probe_id: str) -> BreakerState:
    """The attempt ended without saying anything about the scope (cancelled, refused): a probe's place is free again."""
    if state.phase == "half_open" and state.probe_id == probe_id:
        return _with(state, probe_id=None, probe_from_ms=None, probe_until_ms=None)
    return state


def reset(state: BreakerState, now_ms: int) -> BreakerState:
    """Closed by an operator, with no failure counted; results from before an outage that it ends no longer count."""
    healthy = _with(state, failure_count=0, last_success_ms=now_ms)
    return _closed(healthy) if state.phase != "closed" else healthy


class Recovery(NamedTuple):
    """One outage of a scope, from ``closed`` to ``closed``. ``mttr_ms`` is None while it lasts."""

    scope_key: str
    failing_since_ms: int
    mttr_ms: int | None


def recoveries(payloads: Iterable[Mapping[str, Any]]) -> list[Recovery]:
    """Outages and how long they took, from the payloads of ``breaker.changed`` events alone, in the order of the chain."""
    began: dict[str, int] = {}
    found: list[Recovery] = []
    for payload in payloads:
        key, at_ms = str(payload["scope_key"]), int(payload["at_ms"])
        if payload["to"] == "closed":
            if (since := began.pop(key, None)) is not None:
                found.append(Recovery(key, since, max(0, at_ms - since)))
        else:
            began.setdefault(key, at_ms)
    return found + [Recovery(key, since, None) for key, since in began.items()]


def _counts(state: BreakerState, probe_id: str, generation: int | None) -> bool:
    if state.phase == "closed":
        return generation is None or generation == state.generation
    return state.phase == "half_open" and state.probe_id == probe_id


def _rebased(state: BreakerState, now_ms: int) -> BreakerState:
    """Where the clock went back behind the beginning of the wait: with a wait that begins now."""
    if state.opened_at_ms is not None and now_ms < state.opened_at_ms:
        state = _with(state, opened_at_ms=now_ms)
    if state.probe_from_ms is not None and state.probe_until_ms is not None and now_ms < state.probe_from_ms:
        until = now_ms + state.probe_until_ms - state.probe_from_ms
        state = _with(state, probe_from_ms=now_ms, probe_until_ms=until)
    return state


def _closed(state: BreakerState) -> BreakerState:
    return _with(_moved(state, "closed"), opened_at_ms=None, failing_since_ms=None)


def _moved(state: BreakerState, phase: BreakerPhase) -> BreakerState:
    return _with(state, phase=phase, generation=state.generation + 1, probe_id=None, probe_from_ms=None, probe_until_ms=None)


def _with(state: BreakerState, **changes: Any) -> BreakerState:
    return state.model_copy(update=changes)

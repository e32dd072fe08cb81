"""The circuit breaker: a pure reducer over a row that all workers share (contracts §6)."""

from __future__ import annotations

from typing import Literal

from schemas.model import Payload

BreakerPhase = Literal["closed", "open", "half_open"]


class BreakerState(Payload):
    """``scope_key`` is ``<tenant>:tool|server|model:<id>``. ``generation`` counts the changes of phase."""

    scope_key: str
    phase: BreakerPhase = "closed"
    failure_count: int = 0
    success_count: int = 0
    threshold: int
    cooldown_ms: int
    opened_at_ms: int | None = None
    probe_id: str | None = None
    probe_until_ms: int | None = None
    """A probe that has not ended by then is taken to be lost, and another one may go."""
    last_failure_ms: int | None = None
    last_success_ms: int | None = None
    last_reason: str = ""
    generation: int = 1

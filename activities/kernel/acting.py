"""Who is acting: set by the gate around every activity, read by implementations that record what they did."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass

from schemas.event import Actor
from schemas.identity import Role
from schemas.task import Phase, TraceKeys


@dataclass(frozen=True)
class Acting:
    """``effect_key`` is the business identity of this call (same on every attempt), ``attempt_key`` of this attempt."""

    keys: TraceKeys
    actor: Actor
    phase: Phase
    workflow_id: str
    run_id: str
    effect_key: str
    attempt_key: str
    attempt: int
    capability_id: str = ""
    """Empty where the call was refused before it was known."""
    role: Role = "operator"
    generation: int = 1
    """Of the execution: a reset run has a higher one, which fences the runs before it."""


_current: ContextVar[Acting] = ContextVar("acting")


def acting() -> Acting:
    """Raises LookupError outside the gate: nothing of ours runs ungated."""
    return _current.get()


class as_acting:
    """``with as_acting(who): …`` — used by the gate, and by tests."""

    def __init__(self, who: Acting) -> None:
        self._who = who

    def __enter__(self) -> Acting:
        self._token = _current.set(self._who)
        return self._who

    def __exit__(self, *_: object) -> None:
        _current.reset(self._token)

"""The answer of the query ``status``: what a session is doing, for progress displays and the demo's summary."""

from __future__ import annotations

from schemas.approval import ApprovalRequest, Refusal
from schemas.model import Payload
from schemas.request import SessionResult
from schemas.session import State


class Stage(Payload):
    """One stage with its times in UTC milliseconds of workflow time; ``ended_ms`` is None while it runs."""

    name: str
    started_ms: int
    ended_ms: int | None = None
    note: str = ""

    @property
    def seconds(self) -> float:
        return ((self.ended_ms or self.started_ms) - self.started_ms) / 1000


class SessionStatus(Payload):
    state: State
    stages: tuple[Stage, ...] = ()
    next_step: str = ""
    """What a human has to do next, in one sentence; empty: nothing."""
    approval: ApprovalRequest | None = None
    refused: tuple[Refusal, ...] = ()
    result: SessionResult | None = None

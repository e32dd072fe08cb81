"""Limits of an envelope (contracts §2): what is not given comes from policy, what exceeds policy is refused, never clamped."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple

from pydantic import ConfigDict, Field

from schemas.model import Payload
from schemas.testing import Limits

CODE = "LIMIT_ABOVE_POLICY"
_Positive = Annotated[int, Field(ge=1, le=2**53 - 1)]


class SandboxLimits(Payload):
    """What one sandbox may use; each is enforced by both backends."""

    cpu_percent: _Positive
    """100 = one core."""
    memory_mb: _Positive
    pids: _Positive
    wall_ms: _Positive
    """One run of all tests."""
    test_ms: _Positive
    """One test."""
    output_bytes: _Positive
    disk_mb: _Positive


class RequestedLimits(Payload):
    """What a request may ask for; a field that is left out takes the value of policy."""

    cpu_percent: _Positive | None = None
    """100 = one core."""
    memory_mb: _Positive | None = None
    pids: _Positive | None = None
    wall_ms: _Positive | None = None
    """One run of all tests, in milliseconds."""
    test_ms: _Positive | None = None
    """One test, in milliseconds."""
    output_bytes: _Positive | None = None
    disk_mb: _Positive | None = None


class LimitRequest(RequestedLimits):
    """The same as people send it: a name that is not known is refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class AttemptLimits(Payload):
    """What one attempt of an activity may do altogether."""

    tool_calls: _Positive
    """Sandboxes started."""
    steps: _Positive
    """Edits tried; a repair keeps what it has found and ends."""
    tokens: _Positive
    """Of models, prompts included."""


class RequestLimits(Payload):
    """Bounds of a request as a whole."""

    wall_ms: _Positive
    """Longest Explore."""
    candidates: _Positive


class LimitPolicy(Payload):
    """``limits`` of policies/data.json."""

    default: SandboxLimits
    maximum: SandboxLimits
    attempt: AttemptLimits
    request: RequestLimits


class LimitRefusal(NamedTuple):
    code: str
    message: str


def effective(requested: RequestedLimits, policy: LimitPolicy) -> Limits | LimitRefusal:
    """The limits that hold, or every one that is too high."""
    asked = requested.model_dump(exclude_none=True)
    above = _above(asked, policy.maximum)
    return above if above is not None else limits_of(SandboxLimits.model_validate({**policy.default.model_dump(), **asked}))


def exceeding(limits: Limits, policy: LimitPolicy) -> LimitRefusal | None:
    """Whether limits that a call carries are more than policy allows, whoever set them."""
    asked = limits.model_dump()
    return _above({**asked, "cpu_percent": asked.pop("cpus") * 100}, policy.maximum)


def limits_of(values: SandboxLimits) -> Limits:
    """As sandboxes take them."""
    fields = values.model_dump()
    return Limits(cpus=fields.pop("cpu_percent") / 100, **fields)


def _above(asked: Mapping[str, Any], maximum: SandboxLimits) -> LimitRefusal | None:
    most = maximum.model_dump()
    found = [
        f"{name} {asked[name]} is not within 1 … {most[name]}"
        for name in most
        if name in asked and not 0 < asked[name] <= most[name]
    ]
    return LimitRefusal(CODE, "; ".join(found)) if found else None

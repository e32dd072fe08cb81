"""Check 6: limits that a request carries against those of policy; and the kernel's share of the policy data."""

from __future__ import annotations

import json
from functools import cache
from importlib import resources

from pydantic import BaseModel

from schemas.breaker import BreakerKind, BreakerRule
from schemas.error import Refused
from schemas.limits import CODE, LimitPolicy, LimitRefusal, RequestedLimits, effective, exceeding
from schemas.model import Payload
from schemas.testing import Limits


class KernelPolicy(Payload):
    """``breakers`` and ``limits`` of the policy that this program came with."""

    breakers: dict[BreakerKind, BreakerRule]
    limits: LimitPolicy

    @classmethod
    @cache
    def load(cls) -> KernelPolicy:
        """Raises pydantic.ValidationError where a number is missing: nothing starts with half a policy."""
        return cls.model_validate(json.loads((resources.files("policies") / "data.json").read_bytes()))


def session_limits(requested: RequestedLimits) -> Limits:
    """The limits of a session's sandboxes.

    Raises:
        Refused: LIMIT_ABOVE_POLICY, naming every limit that is too high and what policy allows.
    """
    found = effective(requested, KernelPolicy.load().limits)
    if isinstance(found, LimitRefusal):
        raise Refused(found.code, found.message, "ask for less, or raise `limits.maximum` in policies/data.json")
    return found


def check_limits(request: BaseModel | None, policy: LimitPolicy) -> LimitRefusal | None:
    """Whether a call asks for more than policy allows: ``limits`` of its sandbox, ``wall_ms``, candidates to ``keep``."""
    limits = getattr(request, "limits", None)
    if isinstance(limits, Limits) and (refusal := exceeding(limits, policy)) is not None:
        return refusal
    for name, most in (("wall_ms", policy.request.wall_ms), ("keep", policy.request.candidates)):
        asked = getattr(request, name, None)
        if isinstance(asked, int) and not 0 < asked <= most:
            return LimitRefusal(CODE, f"{name} {asked} is not within 1 … {most}")
    return None

"""What a metered call may use at most, from its own request: the basis of its reservation, where it is stopped."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from schemas.capability import Capability
from schemas.limits import LimitPolicy
from schemas.tariff import Bounds
from schemas.testing import Limits


def bounds_of(capability: Capability[Any, Any], request: BaseModel | None, policy: LimitPolicy) -> Bounds:
    """The longest that the request allows, never more than the capability's own ceiling."""
    limits = getattr(request, "limits", None)
    limits = limits if isinstance(limits, Limits) else Limits()
    ceiling = round(capability.timeout.total_seconds() * 1000)
    asked = getattr(request, "wall_ms", None)
    return Bounds(
        wall_ms=min(ceiling, asked if isinstance(asked, int) else ceiling), cpu_percent=round(limits.cpus * 100),
        tool_calls=policy.attempt.tool_calls,
    )  # fmt: skip

"""What a metered call may use at most, from its own request: the basis of its reservation, where it is stopped."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from schemas.capability import Capability
from schemas.limits import LimitPolicy
from schemas.tariff import Bounds
from schemas.testing import Limits

SEARCH_MARGIN_MS = 130_000
"""A search collects its tests before its own time begins; its sandbox is ended two minutes after it, at the latest."""
END_MARGIN_MS = 60_000
"""An attempt that is stopped at its ceiling runs on until its sandbox is dead."""
SIDE_BY_SIDE = 2
"""A search confirms a patch in a second sandbox beside its own."""


def bounds_of(capability: Capability[Any, Any], request: BaseModel | None, policy: LimitPolicy) -> Bounds:
    """The longest that the request allows, never more than the capability's own ceiling."""
    limits = getattr(request, "limits", None)
    limits = limits if isinstance(limits, Limits) else Limits()
    ceiling = round(capability.timeout.total_seconds() * 1000)
    asked, cpu_percent = getattr(request, "wall_ms", None), round(limits.cpus * 100)
    if not isinstance(asked, int):
        wall_ms = ceiling + END_MARGIN_MS
        return Bounds(wall_ms=wall_ms, cpu_percent=cpu_percent, tool_calls=policy.attempt.tool_calls)
    # A confirmation that begins in the last moment may take as long as any run of the tests.
    search_ms = min(ceiling + END_MARGIN_MS, asked + SEARCH_MARGIN_MS + limits.wall_ms)
    return Bounds(wall_ms=search_ms, cpu_percent=cpu_percent * SIDE_BY_SIDE, tool_calls=policy.attempt.tool_calls)

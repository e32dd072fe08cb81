"""What use costs, in integer micros of the tenant's currency, rounded up; and the most that a call can cost (contracts §4)."""

from __future__ import annotations

from typing import Protocol

from schemas.error import Refused
from schemas.ledger import Unit, Usage
from schemas.model import Payload

_MIB = 1024 * 1024
_SECOND = 1_000


class Cost(Payload):
    """``duration_micros``: CPU, wall time and egress."""

    token_micros: int = 0
    tool_micros: int = 0
    duration_micros: int = 0

    @property
    def total_micros(self) -> int:
        return self.token_micros + self.tool_micros + self.duration_micros


class Pricing(Protocol):
    """What the ledger needs of prices."""

    @property
    def version(self) -> str:
        """Names every price that was used; stored with each entry."""
        ...

    def price(self, usage: Usage) -> Cost:
        """Raises Refused: PRICE_UNKNOWN."""
        ...

    def highest_token_micros(self, model: str, tokens: int) -> int:
        """The most that ``tokens`` of ``model`` can cost, whichever way they go.

        Raises:
            Refused: PRICE_UNKNOWN.
        """
        ...


class Tariff(Payload):
    """Prices of everything but tokens, from policy data. By itself it refuses tokens: a price is known or it is not."""

    number: int
    cpu_micros_per_s: int
    wall_micros_per_s: int
    egress_micros_per_mib: int
    tool_call_micros: int

    @property
    def version(self) -> str:
        return f"tariff/{self.number}"

    def price(self, usage: Usage) -> Cost:
        """Raises Refused: PRICE_UNKNOWN."""
        if usage.prompt_tokens or usage.completion_tokens:
            raise unknown_price(usage.model)
        return self.without_tokens(usage)

    def highest_token_micros(self, model: str, tokens: int) -> int:
        """Raises Refused: PRICE_UNKNOWN."""
        raise unknown_price(model)

    def without_tokens(self, usage: Usage) -> Cost:
        duration = _ceil(usage.cpu_ms * self.cpu_micros_per_s, _SECOND) + _ceil(usage.wall_ms * self.wall_micros_per_s, _SECOND)
        return Cost(
            tool_micros=usage.tool_calls * self.tool_call_micros,
            duration_micros=duration + _ceil(usage.egress_bytes * self.egress_micros_per_mib, _MIB),
        )


class Bounds(Payload):
    """The limits that a call is held to. ``cpu_percent``: 100 is one processor."""

    wall_ms: int = 0
    cpu_percent: int = 100
    tool_calls: int = 0
    egress_bytes: int = 0
    max_tokens: int = 0
    model: str | None = None


def upper_bound(pricing: Pricing, bounds: Bounds) -> dict[Unit, int]:
    """What to reserve: highest price × most tokens, tool calls, and everything that fits into the timeout.

    Raises:
        Refused: PRICE_UNKNOWN for tokens of a model that has no price.
    """
    most = Usage(
        wall_ms=bounds.wall_ms, cpu_ms=_ceil(bounds.wall_ms * bounds.cpu_percent, 100), tool_calls=bounds.tool_calls,
        egress_bytes=bounds.egress_bytes,
    )  # fmt: skip
    tokens = pricing.highest_token_micros(bounds.model or "", bounds.max_tokens) if bounds.max_tokens else 0
    return {**used_units(most, pricing.price(most).total_micros + tokens), "tokens": bounds.max_tokens}


def used_units(usage: Usage, micros: int) -> dict[Unit, int]:
    """What was used, by unit of account."""
    return {
        "micros": micros, "tokens": usage.prompt_tokens + usage.completion_tokens, "cpu_ms": usage.cpu_ms,
        "wall_ms": usage.wall_ms, "egress_bytes": usage.egress_bytes,
    }  # fmt: skip


def unknown_price(model: str | None) -> Refused:
    return Refused(
        "PRICE_UNKNOWN", f"no price is known for tokens of {model or 'an unnamed model'}", "use a model that the price table has"
    )


def _ceil(numerator: int, denominator: int) -> int:
    return -(-numerator // denominator)

"""Which waiver covers which regression, at the time of use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from activities.verify.measuring import Measured, Regression
from schemas.regression import Waiver


@dataclass(frozen=True)
class Waiving:
    """What the waivers do to what was measured."""

    open: tuple[Regression, ...]
    """Regressions that nobody answers for, or no more."""
    used: tuple[Waiver, ...]
    expired: tuple[Waiver, ...]
    """They would cover something, but their time is over."""
    unused: tuple[Waiver, ...]
    """They cover nothing that was found."""

    def is_waived(self, metric: Measured) -> bool:
        """It got worse, and all of it is covered."""
        return bool(metric.regressions) and not set(metric.regressions) & set(self.open)


def apply_waivers(metrics: Sequence[Measured], waivers: Sequence[Waiver], now: str) -> Waiving:
    """``now``: RFC 3339 UTC in whole seconds, as in the waivers, so that texts compare like times."""
    covering: dict[tuple[str, str], list[Waiver]] = {}
    for waiver in waivers:
        covering.setdefault((waiver.metric, waiver.subject), []).append(waiver)
    left: list[Regression] = []
    used: dict[Waiver, None] = {}
    expired: dict[Waiver, None] = {}
    for metric in metrics:
        for regression in metric.regressions:
            candidates = covering.get((metric.name, regression.subject), [])
            valid = [waiver for waiver in candidates if waiver.expires_at > now]
            if valid:
                used[valid[0]] = None
            else:
                left.append(regression)
                expired.update(dict.fromkeys(candidates))
    unused = tuple(waiver for waiver in waivers if waiver not in used and waiver not in expired)
    return Waiving(tuple(left), tuple(used), tuple(expired), unused)

"""A gate's report: checks in fixed order, each with a stable code and, if it failed, one sentence of remedy (evidence §8)."""

from __future__ import annotations

from typing import Literal

from schemas.model import Payload

GateName = Literal["trust", "regression", "determinism"]
GateVerdict = Literal["pass", "fail", "inconclusive"]


class Check(Payload):
    code: str
    ok: bool
    checked: bool = True
    """False: input for this check was not given (``not_checked``); never the same as ok."""
    reason: str = ""
    member: str = ""
    expected: str = ""
    actual: str = ""
    remedy: str = ""


WAIVED = "waived: "
"""How the reason of a check begins whose failure an unexpired waiver covers."""

MetricName = Literal["tests", "coverage", "performance", "security", "dependencies", "licences", "size"]


class MeasuredMetric(Payload):
    """One metric of the Regression Gate. One that was not measured is absent, never assumed."""

    name: MetricName
    verdict: GateVerdict
    waived: bool = False
    """It failed, and an unexpired waiver covers it; ``verdict`` stays ``fail``."""


class UsedWaiver(Payload):
    """A waiver that covered something in this report. ``expires_at``: RFC 3339 UTC in whole seconds."""

    id: str
    owner: str
    reason: str
    expires_at: str


class GateReport(Payload):
    gate: GateName
    verdict: GateVerdict
    checks: tuple[Check, ...]
    metrics: tuple[MeasuredMetric, ...] = ()
    """Of the Regression Gate only."""
    waivers: tuple[UsedWaiver, ...] = ()

    @property
    def failed(self) -> tuple[Check, ...]:
        return tuple(check for check in self.checks if check.checked and not check.ok)

    @property
    def codes(self) -> tuple[str, ...]:
        return tuple(check.code for check in self.failed)

    @property
    def why(self) -> str:
        """What failed, for people."""
        return "; ".join(f"{check.code}: {check.reason or check.actual}" for check in self.failed)

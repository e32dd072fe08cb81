"""What the Regression Gate compares, and the waivers that an owner granted (seed "ga:diff:strict"; evidence §8)."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from schemas.evidence import Timestamp
from schemas.gates import MetricName
from schemas.model import Door, Payload


class Waiver(Door):
    """Somebody answers for one known regression until a date. Judged at the time of the seal (threats 5.5)."""

    id: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    metric: MetricName
    subject: Annotated[str, Field(min_length=1, max_length=4_096)]
    """Exactly what it covers: a test id, a finding's fingerprint, a dependency, or ``*`` for a metric without parts."""
    owner: Annotated[str, Field(min_length=1, max_length=200)]
    reason: Annotated[str, Field(min_length=1, max_length=2_000)]
    expires_at: Timestamp


class TreeMeasures(Payload):
    """What was found in one tree. A part that was not measured is None."""

    coverage: dict[str, Any] | None = None
    timings: tuple[dict[str, int], ...] | None = None
    findings: tuple[dict[str, Any], ...] | None = None
    dependencies: tuple[dict[str, str], ...] | None = None
    size_bytes: int | None = None


Side = Literal["base", "head"]

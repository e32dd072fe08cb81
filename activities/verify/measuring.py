"""What every metric of the Regression Gate gives: a summary for people, and what got worse by more than policy tolerates."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib import resources

from schemas.gates import MetricName
from schemas.model import Payload
from schemas.regression import Severity

WHOLE = "*"
"""Subject of what has no parts, e.g. the coverage of a tree."""
_NAMED = 10
_LONGEST = 1_000


@dataclass(frozen=True)
class Regression:
    """``subject``: what a waiver has to name."""

    code: str
    subject: str
    text: str


@dataclass(frozen=True)
class Measured:
    """One metric of both trees. What was not measured has none of these."""

    name: MetricName
    summary: str
    regressions: tuple[Regression, ...] = ()


class CoverageRules(Payload):
    """Basis points, 100 = one per cent. Nothing fails for ``spare_lines`` or fewer lines that are newly without a test."""

    total_bp: int
    changed_files_bp: int
    changed_lines_bp: int
    """Share of the changed lines that no test may run."""
    spare_lines: int


class PerformanceRules(Payload):
    slower_bp: int
    """2500: a quarter slower."""
    floor_us: int
    """Less than this is never a regression, whatever its share."""
    alpha_bp: int
    """How often chance alone may look like this."""


class SecurityRules(Payload):
    severity: Severity
    """The least that counts."""


class DependencyRules(Payload):
    downgrades: bool
    denied: tuple[str, ...]


class LicenceRules(Payload):
    allowed: tuple[str, ...]
    """SPDX ids."""
    unknown: bool
    """Whether a licence that nobody can tell is tolerated."""


class SizeRules(Payload):
    """Growth counts once it exceeds both."""

    growth_bp: int
    growth_bytes: int


class Tolerances(Payload):
    """``tolerances`` of the policy that this program came with."""

    coverage: CoverageRules
    performance: PerformanceRules
    security: SecurityRules
    controls: tuple[str, ...]
    """Globs of files whose removal weakens what watches over the repository."""
    dependencies: DependencyRules
    licences: LicenceRules
    size: SizeRules

    @classmethod
    @cache
    def load(cls) -> Tolerances:
        """Raises pydantic.ValidationError where a number is missing: nothing is judged with half a policy."""
        return cls.model_validate(json.loads((resources.files("policies") / "data.json").read_bytes())["tolerances"])


def some(names: tuple[str, ...]) -> str:
    """The first names, cut where they are too long to read, and how many more there are."""
    shown = [name if len(name) <= _LONGEST else name[:_LONGEST] + "…" for name in names[:_NAMED]]
    return ", ".join(shown) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")


def per_cent(basis_points: int) -> str:
    return f"{basis_points // 100}.{basis_points % 100:02} %"

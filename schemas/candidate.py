"""What Explore produces: ranked suspicious lines, candidates, and why it stopped."""

from __future__ import annotations

from typing import Literal

from schemas.model import BlobRef, Payload, Sha256
from schemas.testing import Patch
from schemas.verdict import Completeness


class Suspect(Payload):
    """A line of a product file and its Ochiai score in [0, 1] (ef/sqrt((ef+nf)(ef+ep)))."""

    path: str
    line: int
    score: float
    failed: int
    """ef: failing tests that run the line."""
    passed: int
    """ep: passing tests that run the line."""
    covering: tuple[int, ...] = ()
    """Which failing tests run the line: positions in ``Localization.targets``."""


class Candidate(Payload):
    """A plausible patch: it mends targets and breaks nothing, confirmed in a fresh process."""

    candidate_id: str
    engine: Literal["templates", "external"]
    engine_version: str
    patch: Patch
    fix: Completeness
    trajectory: BlobRef
    trajectory_sha256: Sha256
    template: str = ""
    path: str = ""
    line: int = 0
    score: float = 0.0
    rank: int = 0


StopReason = Literal["enough", "exhausted", "steps", "wall_time", "no_suspects", "no_failing_test", "no_tests"]


class Exploration(Payload):
    candidates: tuple[Candidate, ...]
    tried: int
    space: int
    """How many single edits the templates offer on the suspicious lines."""
    stopped: StopReason
    message: str = ""

"""What Remediation hands to its children, and what Explore and Release hand back. Never sent by people."""

from __future__ import annotations

from schemas.candidate import Candidate, Exploration
from schemas.model import BlobRef, Payload
from schemas.regression import Waiver
from schemas.request import NodeId, ReleaseRequest
from schemas.status import Stage
from schemas.task import SessionContext, Source
from schemas.testing import Environment, Limits, TestPlan, TestRun


class Job(Payload):
    """What every child of a session needs. ``plan`` was parsed from the request's command by the parent."""

    context: SessionContext
    source: Source
    plan: TestPlan
    limits: Limits = Limits()
    requirements: tuple[str, ...] = ()
    failing_tests: tuple[NodeId, ...] = ()


class ExploreJob(Job):
    keep: int
    wall_ms: int


class CompileJob(Job):
    """Exactly one of ``candidate`` (Remediation), ``patch`` (CI, as text) and ``patch_ref`` (the same as a blob)."""

    candidate: Candidate | None = None
    patch: str | None = None
    patch_ref: BlobRef | None = None
    cache: bool = True
    waivers: tuple[Waiver, ...] = ()
    runs: int | None = None
    """Of each tree; None: as policy says."""
    benchmark: tuple[str, ...] = ()
    benchmark_runs: int = 5

    @property
    def run_count(self) -> int:
        return self.runs or self.context.config.runs

    @property
    def waived_tests(self) -> tuple[str, ...]:
        """Test ids that may be lost."""
        return tuple(waiver.subject for waiver in self.waivers if waiver.metric == "tests")

    def candidate_id(self, patch_sha256: str) -> str:
        """Of the candidate; a patch from CI has none, so its digest names it."""
        return self.candidate.candidate_id if self.candidate else patch_sha256[:12]


class ReleaseJob(Payload):
    context: SessionContext
    request: ReleaseRequest


class ExploreResult(Payload):
    """``exploration`` holds the candidates that policy admits, best first; ``denied``: how many it does not admit."""

    exploration: Exploration
    environment: Environment
    baseline: TestRun
    denied: int = 0
    codes: tuple[str, ...] = ()
    """Why there is no candidate; empty where there is one."""
    remedy: str = ""
    stages: tuple[Stage, ...] = ()

"""What the Regression Gate compares, and the waivers that an owner granted (seed "ga:diff:strict"; evidence §8)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from schemas.evidence import Timestamp
from schemas.gates import MetricName
from schemas.model import BlobRef, Door, GitId, Payload, Sha256
from schemas.testing import Environment, Limits, TestPlan


class Waiver(Door):
    """Somebody answers for one known regression until a date. Judged at the time of the seal (threats 5.5)."""

    id: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    metric: MetricName
    subject: Annotated[str, Field(min_length=1, max_length=4_096)]
    """Exactly what it covers: a test id, a finding's fingerprint, a dependency, or ``*`` for a metric without parts."""
    owner: Annotated[str, Field(min_length=1, max_length=200)]
    reason: Annotated[str, Field(min_length=1, max_length=2_000)]
    expires_at: Timestamp


def _distinct(waivers: tuple[Waiver, ...]) -> tuple[Waiver, ...]:
    if len({waiver.id for waiver in waivers}) != len(waivers):
        raise ValueError("two waivers have one id")
    return waivers


Waivers = Annotated[tuple[Waiver, ...], Field(max_length=256), AfterValidator(_distinct)]
"""As they enter: each is known by its id."""


# --- what is found in one tree ---------------------------------------------------------------------------------------

Severity = Literal["low", "medium", "high"]


class Finding(Payload):
    """Something that a scanner dislikes. It never holds the line's text, which may be a secret."""

    tool: Literal["bandit", "detect-secrets"]
    rule: str
    """``B602``, ``AWS Access Key``."""
    severity: Severity
    path: str
    line: int
    fingerprint: Sha256
    """Of tool, rule, path and the line's text without its indentation: it stays when the line moves within its file."""
    content: Sha256
    """The same without the path: it stays when the line moves to another file."""
    message: str = ""


class ScanTree(Payload):
    """Scan those files of ``tree`` that ``against`` does not have just so. Nothing of the tree is run."""

    tree: GitId
    against: GitId
    limits: Limits = Limits()
    fresh: bool = False
    """Scan also files of which it is known what is found in them."""


class ScannedTree(Payload):
    """``findings``: blob of a JSON list of :class:`Finding`; None where the scanners came to no end, and ``message`` says why."""

    findings: BlobRef | None
    message: str = ""
    scanners_missing: bool = False
    """That is why there are no findings: nothing was said about the tree."""
    files: int
    """Scanned."""
    size_bytes: int
    """All files of the tree but its tests."""
    gone: tuple[str, ...] = ()
    """Paths of ``against`` that this tree does not have, and files that are empty now."""
    tools: dict[str, str] = {}
    """Version of each scanner."""
    receipt: BlobRef | None = None
    """DSSE envelope around :class:`schemas.receipt.ScanReceipt`, signed by the executor that scanned it."""


class RunBenchmark(Payload):
    """Run a command several times in a fresh sandbox that holds ``tree``."""

    tree: GitId
    environment: Environment
    plan: TestPlan
    """Gives import path and variables; its tests are not run."""
    argv: tuple[str, ...]
    limits: Limits = Limits()
    commit_time: int
    repeat: Annotated[int, Field(ge=1, le=100)] = 3
    ordinal: int = 1


class BenchmarkSample(Payload):
    """``micros``: wall time of each repetition, after one that does not count. Empty where the command failed."""

    micros: tuple[int, ...] = ()
    exit_code: int = 0
    message: str = ""
    """What the command said last, where it failed: foreign text."""
    receipt: BlobRef | None = None
    """DSSE envelope around :class:`schemas.receipt.BenchmarkReceipt`, signed by the executor that ran it."""

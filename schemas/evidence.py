"""The Evidence Bundle: its members and their limits, test results, policy check (contracts §10, evidence §2).

Everything here is read from files that may be forged, so every model is a door: unknown fields are refused.
Optional fields are absent, never null.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from schemas.model import Digest, Door, Sha256
from schemas.testing import TestOutcome

# --- names, types and limits ------------------------------------------------------------------------------------------

PATCH = "diff.patch"
TEST_RESULTS = "test_results.json"
POLICY_CHECK = "policy_check.json"
TRAJECTORY = "trajectory.jsonl"
SBOM = "sbom.cdx.json"
CHECKSUMS = "checksums.sha256"
STAMP = "stamp.json"
PROVENANCE = "provenance.intoto.json"
SIGSTORE_BUNDLE = "provenance.sigstore.json"

CONTENT_MEMBERS: tuple[str, ...] = (PATCH, TEST_RESULTS, POLICY_CHECK, TRAJECTORY, SBOM)
"""Members 1-5: what ``checksums.sha256`` lists."""
STABLE_MEMBERS: tuple[str, ...] = (*CONTENT_MEMBERS, CHECKSUMS)
"""Members 1-6: byte-identical on a re-run from the same trajectory."""
SUBJECT_MEMBERS: tuple[str, ...] = (*STABLE_MEMBERS, STAMP)
"""Members 1-7: the subject of the signed statement."""
REQUIRED_MEMBERS: tuple[str, ...] = (*SUBJECT_MEMBERS, PROVENANCE)
OPTIONAL_MEMBERS: tuple[str, ...] = (SIGSTORE_BUNDLE,)

_MIB = 1024 * 1024
SIZE_LIMITS: dict[str, int] = {
    PATCH: 2 * _MIB,
    TEST_RESULTS: 16 * _MIB,
    POLICY_CHECK: 4 * _MIB,
    TRAJECTORY: 1024 * _MIB,
    SBOM: 4 * _MIB,
    CHECKSUMS: 64 * 1024,
    STAMP: 4 * _MIB,
    PROVENANCE: _MIB,
    SIGSTORE_BUNDLE: _MIB,
}
"""Largest size in bytes; checked before anything is parsed. A trajectory is streamed: it is never in memory as a whole."""
VALUE_LIMIT = 1_000_000
"""Commas and opening brackets of one JSON file, counted before it is parsed: small values take much more memory than bytes."""
SUBJECT_LIMIT = 64

TYPE_BASE = "urn:gen4:attest"
"""Prefix of every type of ours; a changed meaning is a new version behind it."""
BUILD_TYPE = f"{TYPE_BASE}/compile/v1"
BUILDER_ID = "urn:gen4:builder/embedded"
"""``/embedded``: signer, worker and approver share one uid, and no isolation is claimed (threats 1.4)."""
SEPARATED_BUILDER_ID = "urn:gen4:builder/separated"
"""Executor and signer run under uids of their own, and neither is the worker's nor root's."""
PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://slsa.dev/provenance/v1"
SIGSTORE_MEDIA_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"


def timestamp_of(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def milliseconds_of(timestamp: str) -> int:
    """UTC milliseconds of a timestamp in whole seconds. Raises ValueError for a date that does not exist."""
    return int(datetime.strptime(timestamp, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC).timestamp() * 1000)


def _existing(timestamp: str) -> str:
    milliseconds_of(timestamp)
    return timestamp


Timestamp = Annotated[
    str, Field(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z$"), AfterValidator(_existing)
]
"""RFC 3339 UTC in whole seconds, of a date that exists."""


# --- member 2: test results (Track A) ---------------------------------------------------------------------------------


class CommandResult(Door):
    argv: tuple[str, ...]
    exit_code: int


class Suite(Door):
    """Outcomes of one tree: ``base`` or ``patched``."""

    name: Literal["base", "patched"]
    runner: str
    version: str
    outcomes: dict[str, TestOutcome]
    counts: dict[str, int]


class TestResults(Door):
    """No durations, times or machine paths. ``canonical_sha256``: digest of the patched outcomes."""

    __test__ = False

    commands: tuple[CommandResult, ...]
    suites: tuple[Suite, Suite]
    targets: tuple[str, ...]
    """The failing tests that the patch had to mend: those named, else all that fail on base."""
    fail_to_pass: tuple[str, ...]
    pass_to_pass: tuple[str, ...]
    canonical_sha256: Sha256


class CoverageShare(Door):
    """Of the patched tree, in basis points; ``changed_lines_bp``: of executable lines that the patch added or changed."""

    lines_bp: Annotated[int, Field(ge=0, le=10_000)]
    changed_lines_bp: Annotated[int, Field(ge=0, le=10_000)] | None = None
    """Absent where the patch changes no executable line."""


class TestResults2(TestResults):
    """``test-results/2``, with what was covered. Without a schema version it is the first form, :class:`TestResults`."""

    schema_version: Literal["test-results/2"] = "test-results/2"
    coverage: CoverageShare | None = None
    """Absent where it was not measured."""


# --- member 3: policy check (Track B) ---------------------------------------------------------------------------------


class EngineVersion(Door):
    name: str
    version: str


class PolicyResult(Door):
    rule_id: str
    outcome: Literal["pass", "deny", "error"]
    message: str = ""
    path: str | None = None
    line: int | None = None


class PolicyCheck(Door):
    """``allow`` only if the set of passed rules equals ``required_checks``."""

    engine: EngineVersion
    policy_id: str
    policy_digest: Digest
    input_sha256: Sha256
    required_checks: tuple[str, ...]
    results: tuple[PolicyResult, ...]
    sbom_sha256: Sha256
    decision: Literal["allow", "deny"]

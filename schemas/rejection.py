"""Rejection Report: what a refused patch gets in place of a stamp (contracts §10, threats 5.3)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from schemas.gates import GateVerdict
from schemas.model import Door, GitId, Sha256

REJECTION_PREDICATE = "urn:gen4:attest/rejection/v1"
"""Predicate type of the signed statement; its subjects are the patch and the base tree. Never accepted as provenance."""
REPORT = "rejection.json"
MARKDOWN = "rejection.md"
STATEMENT = "rejection.intoto.json"
CERTIFIED = "rejection.sigstore.json"
"""The same envelope with the certificate of a keyless signer; only there for such a one."""
FILES = (REPORT, MARKDOWN, STATEMENT)
"""What a refused patch gets instead of a bundle: the report, the same for people, and signed as a statement."""


class RejectedCheck(Door):
    gate: Literal["trust", "regression", "determinism", "policy", "compile"]
    code: str
    reason: str = ""
    member: str = ""
    expected: str = ""
    actual: str = ""
    remedy: str = ""


class RejectedTests(Door):
    """What the tests gave, where they ran: ids of the mended targets, of those that fail still, of what passed before."""

    fail_to_pass: tuple[str, ...]
    still_failing: tuple[str, ...]
    lost: tuple[str, ...]
    pass_to_pass: tuple[str, ...]


class RejectionReport(Door):
    """``rejection/1``. ``evidence_refs``: sha256 of receipts and blobs that show it, in the content store."""

    schema_version: Literal["rejection/1"] = "rejection/1"
    report_id: Annotated[str, Field(pattern=r"^rej_[0-9a-f]{32}$")]
    tenant_id: str
    trace_id: str
    session_id: str
    task_id: str
    candidate_id: str
    repository: str
    ref: str
    base_commit: GitId
    base_tree: GitId
    base_snapshot_sha256: Sha256
    """Of the base tree's files, as a trajectory step's ``snapshot_hash``."""
    patch_sha256: Sha256
    """Of git's diff of the two trees; where it never became one, of the bytes that were sent."""
    failed_gate: Literal["trust", "regression", "determinism", "policy", "compile"]
    verdict: Literal["rejected", "irreproducible", "infra_error"]
    codes: tuple[str, ...]
    message: str
    checks: tuple[RejectedCheck, ...]
    gates: dict[str, GateVerdict]
    """Verdicts of the gates that were reached."""
    tests: RejectedTests | None = None
    """Absent where no test ran."""
    evidence_refs: tuple[Sha256, ...]
    next: Literal["revise", "replan", "close"]

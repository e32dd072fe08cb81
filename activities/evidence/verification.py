"""Offline verification of an Evidence Bundle, the Trust Gate (contracts §10, evidence §8).

The checks, in the order of their codes. Trust comes from the caller's trust root alone.

 1 SIZE_LIMIT            every file within its limit, before anything is parsed
 2 MEMBER_MISSING        the required names are there
 3 MEMBER_EXTRA          and no other, hidden files and folders included
 4 MEMBER_NOT_REGULAR    each a regular file with one link and a plain name
 5 JSON_DUPLICATE_KEY    every JSON document reads the same in every parser
 6 SIGNATURE_INVALID     one DSSE signature by a key of the trust root
 7 SIGNER_UNTRUSTED      that key may sign for this builder, now
 8 PAYLOAD_TYPE          in-toto
 9 PREDICATE_TYPE        Statement v1 with SLSA provenance v1
10 SUBJECT_MISMATCH      subject = members 1-7
11 CHECKSUM_FORMAT       canonical lines for members 1-5
12 CHECKSUM_ORDER        sorted by bytes
13 CHECKSUM_MISMATCH     of these bytes
14 STAMP_SCHEMA          stamp/1, made while the key was valid
15 STAMP_ID              well formed; signer = the envelope's
16 STAMP_BUNDLE_DIGEST   digest of checksums.sha256
17 STAMP_MEMBERS         digests and sizes of members 1-5
18 PATCH_TREE            patch on base_tree gives result_tree (needs the repository)
19 POLICY_DIGEST         a trusted policy allowed it: passed set = required set
20 UNKNOWN_PARAMETER     build type and external parameters as expected, no other
21 GATE_NOT_PASSED       all gates pass, and the verdict follows from the recorded outcomes

A check whose input an earlier one refused is ``checked: false``, which never counts as passed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from activities.evidence import content_checks, envelope_checks, file_checks
from activities.evidence.case import Case, Finding, NotChecked
from activities.evidence.reading import printable, read_bundle
from schemas.evidence import TrustRoot
from schemas.gates import Check, GateReport

STEPS: tuple[tuple[str, Callable[[Case], Finding | None]], ...] = (
    ("SIZE_LIMIT", file_checks.size_limit),
    ("MEMBER_MISSING", file_checks.member_missing),
    ("MEMBER_EXTRA", file_checks.member_extra),
    ("MEMBER_NOT_REGULAR", file_checks.member_not_regular),
    ("JSON_DUPLICATE_KEY", file_checks.strict_documents),
    ("SIGNATURE_INVALID", envelope_checks.signature),
    ("SIGNER_UNTRUSTED", envelope_checks.signer),
    ("PAYLOAD_TYPE", envelope_checks.payload_type),
    ("PREDICATE_TYPE", envelope_checks.predicate_type),
    ("SUBJECT_MISMATCH", envelope_checks.subject),
    ("CHECKSUM_FORMAT", content_checks.checksum_format),
    ("CHECKSUM_ORDER", content_checks.checksum_order),
    ("CHECKSUM_MISMATCH", content_checks.checksum_mismatch),
    ("STAMP_SCHEMA", content_checks.stamp_schema),
    ("STAMP_ID", content_checks.stamp_id),
    ("STAMP_BUNDLE_DIGEST", content_checks.stamp_bundle_digest),
    ("STAMP_MEMBERS", content_checks.stamp_members),
    ("PATCH_TREE", content_checks.patch_tree),
    ("POLICY_DIGEST", content_checks.policy_digest),
    ("UNKNOWN_PARAMETER", envelope_checks.parameters),
    ("GATE_NOT_PASSED", content_checks.gates),
)
CODES: tuple[str, ...] = tuple(code for code, _ in STEPS)
_OPTIONAL_WITHOUT_REPOSITORY = "PATCH_TREE"


class PatchApplier(Protocol):
    """The part of the object store that verification needs."""

    def apply(self, base_tree: str, diff: bytes) -> str: ...


def verify_bundle(
    directory: Path,
    trust: TrustRoot,
    *,
    objects: PatchApplier | None = None,
    expected_parameters: Mapping[str, str] | None = None,
    now_ms: int,
) -> GateReport:
    """Check the bundle in ``directory``; every check is reported, in fixed order.

    Args:
        objects: store that holds the base tree; without it PATCH_TREE is not checked.
        expected_parameters: external parameters that the caller knows (task_id, repository, ref, profile).
        now_ms: UTC milliseconds at which keys are judged.

    Raises:
        InputError: BUNDLE_NOT_FOUND.
    """
    case = Case(read_bundle(directory), trust, objects, expected_parameters, now_ms)
    checks = tuple(_run(code, step, case) for code, step in STEPS)
    required = [check for check in checks if objects is not None or check.code != _OPTIONAL_WITHOUT_REPOSITORY]
    passed = all(check.checked and check.ok for check in required) and all(check.ok or not check.checked for check in checks)
    return GateReport(gate="trust", verdict="pass" if passed else "fail", checks=checks)


def _run(code: str, step: Callable[[Case], Finding | None], case: Case) -> Check:
    try:
        finding = step(case)
    except NotChecked as gap:
        return Check(code=code, ok=False, checked=False, reason=str(gap), remedy=gap.remedy)
    if finding is None:
        return Check(code=code, ok=True)
    return Check(
        code=code,
        ok=False,
        reason=finding.reason,
        member=finding.member,
        expected=printable(finding.expected),
        actual=printable(finding.actual),
        remedy=finding.remedy,
    )

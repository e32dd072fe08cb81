"""Offline verification of an Evidence Bundle, the Trust Gate (contracts §10, evidence §8).

The checks, in the order of their codes. Trust comes from the caller's trust root alone.

 1 SIZE_LIMIT            every file within its limit, before anything is parsed
 2 MEMBER_MISSING        the required names are there
 3 MEMBER_EXTRA          and no other, hidden files and folders included
 4 MEMBER_NOT_REGULAR    each a regular file with one link and a plain name
 5 JSON_DUPLICATE_KEY    every JSON document reads the same in every parser
 6 SIGNATURE_INVALID     one DSSE signature by a signer of the trust file: a key, or a certified identity
 7 SIGNER_UNTRUSTED      that signer might sign for this builder when it did
 8 PAYLOAD_TYPE          in-toto
 9 PREDICATE_TYPE        Statement v1 with SLSA provenance v1
10 SUBJECT_MISMATCH      subject = members 1-7
11 CHECKSUM_FORMAT       canonical lines for members 1-5
12 CHECKSUM_ORDER        sorted by bytes
13 CHECKSUM_MISMATCH     of these bytes
14 STAMP_SCHEMA          stamp/1 or stamp/2, made neither later than it was signed nor later than now
15 STAMP_ID              well formed; signer = the envelope's
16 STAMP_BUNDLE_DIGEST   digest of checksums.sha256
17 STAMP_MEMBERS         digests and sizes of members 1-5
18 PATCH_TREE            patch on base_tree gives result_tree (needs the repository)
19 POLICY_DIGEST         a trusted policy allowed it: passed set = required set
20 UNKNOWN_PARAMETER     build type and external parameters as expected, no other
21 GATE_NOT_PASSED       all gates pass, and the verdict follows from the recorded outcomes
22 TRAJECTORY_CHAIN      each line is a step, and follows the one before it
23 TRAJECTORY_PATCH      the last step is about this patch; with the repository, its snapshot is the patched tree's

A check whose input an earlier one refused is ``checked: false``, which never counts as passed. A verification that takes longer
than its limit ends with SIZE_LIMIT, reason ``time``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from activities.evidence import content_checks, envelope_checks, file_checks, gate_checks, trajectory_checks
from activities.evidence.case import Case, Finding, NotChecked, Repository
from activities.evidence.reading import printable, read_bundle
from schemas.evidence import CHECKSUMS
from schemas.gates import Check, GateReport
from schemas.trust import Trust

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
    ("GATE_NOT_PASSED", gate_checks.gates),
    ("TRAJECTORY_CHAIN", trajectory_checks.chain),
    ("TRAJECTORY_PATCH", trajectory_checks.patch),
)
CODES: tuple[str, ...] = tuple(code for code, _ in STEPS)
NEED_REPOSITORY = frozenset({"PATCH_TREE", "TRAJECTORY_PATCH"})
"""May stay unchecked where no repository was given."""
TIME_LIMIT_S = 300.0


@dataclass(frozen=True)
class Verification:
    """``bundle_digest`` and ``stamp_id`` are of the bytes that were checked, proven only by a ``pass``; empty if unread."""

    report: GateReport
    bundle_digest: str
    stamp_id: str


def verify_bundle(
    directory: Path,
    trust: Trust,
    *,
    objects: Repository | None = None,
    expected_parameters: Mapping[str, str] | None = None,
    now_ms: int,
    limit_s: float = TIME_LIMIT_S,
    clock: Callable[[], float] = time.monotonic,
) -> GateReport:
    """The report of :func:`examine_bundle`."""
    return examine_bundle(
        directory, trust, objects=objects, expected_parameters=expected_parameters, now_ms=now_ms, limit_s=limit_s, clock=clock
    ).report


def examine_bundle(
    directory: Path,
    trust: Trust,
    *,
    objects: Repository | None = None,
    expected_parameters: Mapping[str, str] | None = None,
    now_ms: int,
    limit_s: float = TIME_LIMIT_S,
    clock: Callable[[], float] = time.monotonic,
) -> Verification:
    """Check the bundle in ``directory``; every check is reported, in fixed order.

    Args:
        objects: store that holds the base tree; without it :data:`NEED_REPOSITORY` may stay unchecked.
        expected_parameters: external parameters that the caller knows (task_id, repository, ref, profile).
        now_ms: UTC milliseconds; nothing may be signed later than that.
        limit_s: seconds after which no further check is begun.

    Raises:
        InputError: BUNDLE_NOT_FOUND.
    """
    ends = clock() + limit_s

    def in_time() -> bool:
        return clock() < ends

    case = Case(read_bundle(directory, in_time), trust, objects, expected_parameters, now_ms)
    checks = tuple(_run(code, step, case, in_time) for code, step in STEPS)
    if any(check.reason == _LATE for check in checks):
        checks = (_too_late(limit_s), *checks[1:])
    required = [check for check in checks if objects is not None or check.code not in NEED_REPOSITORY]
    passed = all(check.checked and check.ok for check in required) and all(check.ok or not check.checked for check in checks)
    report = GateReport(gate="trust", verdict="pass" if passed else "fail", checks=checks)
    return Verification(
        report,
        bundle_digest=case.bundle_digest if CHECKSUMS in case.reading.digests else "",
        stamp_id=printable(case.stamp.stamp_id) if case.stamp is not None else "",
    )


_LATE = "the time was over"


def _run(code: str, step: Callable[[Case], Finding | None], case: Case, in_time: Callable[[], bool]) -> Check:
    try:
        if not in_time():
            raise NotChecked(_LATE)
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


def _too_late(limit_s: float) -> Check:
    return Check(
        code="SIZE_LIMIT", ok=False, reason="time", expected=f"checked within {limit_s:g} s", actual="not done",
        remedy="verify it on a machine that is less busy",
    )  # fmt: skip

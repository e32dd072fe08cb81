"""Checks 11-19: checksums, stamp, patch, policy. Everything that can be computed again is."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from activities.evidence.case import Case, Finding, NotChecked
from activities.evidence.checksums import ChecksumFormatError, parse_checksums
from activities.evidence.reading import read_stamp
from schemas.error import Gen4Error
from schemas.evidence import (
    CHECKSUMS,
    CONTENT_MEMBERS,
    PATCH,
    POLICY_CHECK,
    SBOM,
    STAMP,
    PolicyCheck,
    milliseconds_of,
)
from schemas.stamp import is_stamp_id

_CLOCK_SKEW_MS = 300_000


def checksum_format(case: Case) -> Finding | None:
    """11."""
    try:
        lines = parse_checksums(case.need_file(CHECKSUMS))
    except ChecksumFormatError as error:
        return Finding(reason="format", member=CHECKSUMS, expected="64 hex digits, two spaces, name, LF", actual=str(error))
    names = sorted(name for _, name in lines)
    if names != sorted(CONTENT_MEMBERS):
        return Finding(reason="names", member=CHECKSUMS, expected=", ".join(sorted(CONTENT_MEMBERS)), actual=", ".join(names))
    case.checksums = lines
    return None


def checksum_order(case: Case) -> Finding | None:
    """12."""
    names = [name.encode() for _, name in _lines(case)]
    if names != sorted(names):
        return Finding(reason="order", member=CHECKSUMS, expected="names sorted by bytes", actual=b", ".join(names).decode())
    return None


def checksum_mismatch(case: Case) -> Finding | None:
    """13."""
    for digest, name in _lines(case):
        if (actual := case.need_digest(name).sha256) != digest:
            return Finding(reason="digest", member=name, expected=digest, actual=actual)
    return None


def _lines(case: Case) -> list[tuple[str, str]]:
    case.need_file(CHECKSUMS)
    if case.checksums is None:
        raise NotChecked(f"{CHECKSUMS} is malformed")
    return case.checksums


def stamp_schema(case: Case) -> Finding | None:
    """14. A stamp of a known version, made neither after now nor after it was signed."""
    case.need_document(STAMP)
    try:
        stamp = read_stamp(case.need_file(STAMP))
    except ValidationError as error:
        where = ".".join(str(part) for part in error.errors()[0]["loc"]) or "document"
        return Finding(
            reason="schema", member=STAMP, expected="stamp/1 or stamp/2", actual=f"{where}: {error.errors()[0]['msg']}"
        )
    if _has_null(case.need_document(STAMP)):
        return Finding(reason="schema", member=STAMP, expected="optional fields absent, never null", actual="null")
    case.stamp = stamp
    latest_ms = min(case.now_ms, case.now_ms if case.proven_ms is None else case.proven_ms)
    if milliseconds_of(stamp.created_at) > latest_ms + _CLOCK_SKEW_MS:
        return Finding(
            reason="created_at",
            member=STAMP,
            expected="a time that has passed, and not after the signature",
            actual=stamp.created_at,
            remedy="check the clocks of the signer and of this machine",
        )
    return None


def _has_null(value: Any) -> bool:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return value is None or any(map(_has_null, inner))


def stamp_id(case: Case) -> Finding | None:
    """15."""
    stamp = case.need_stamp()
    if not is_stamp_id(stamp.stamp_id):
        return Finding(reason="format", member=STAMP, expected="stm_ and 32 hex digits", actual=stamp.stamp_id[:80])
    signer = case.need_signer()
    expected = (signer.profile, signer.identity, (signer.hint if signer.profile == "key" else signer.issuer) or "")
    actual = (stamp.signer.profile, stamp.signer.identity, stamp.signer.key_or_issuer)
    if expected != actual:
        return Finding(reason="signer", member=STAMP, expected=" ".join(expected), actual=" ".join(actual)[:400])
    return None


def stamp_bundle_digest(case: Case) -> Finding | None:
    """16."""
    stamp, actual = case.need_stamp(), case.bundle_digest
    if stamp.bundle_digest != actual:
        return Finding(reason="digest", member=STAMP, expected=stamp.bundle_digest, actual=actual)
    return None


def stamp_members(case: Case) -> Finding | None:
    """17."""
    stamp = case.need_stamp()
    if set(stamp.members) != set(CONTENT_MEMBERS):
        return Finding(
            reason="names", member=STAMP, expected=", ".join(CONTENT_MEMBERS), actual=", ".join(sorted(stamp.members))[:400]
        )
    for name in CONTENT_MEMBERS:
        listed, found = stamp.members[name], case.need_digest(name)
        if listed != found:
            return Finding(
                reason="digest", member=name, expected=f"{listed.sha256} {listed.size}", actual=f"{found.sha256} {found.size}"
            )
    return None


def patch_tree(case: Case) -> Finding | None:
    """18."""
    stamp, diff = case.need_stamp(), case.need_file(PATCH)
    if case.objects is None:
        raise NotChecked("no repository was given", "give --repository to check the patch against the source")
    try:
        result = case.objects.apply(stamp.source.base_tree, diff)
    except Gen4Error as error:
        return Finding(
            reason=error.code, member=PATCH, expected=f"a patch of {stamp.source.base_tree}", actual=error.message[:400]
        )
    if result != stamp.source.result_tree:
        return Finding(reason="tree", member=PATCH, expected=stamp.source.result_tree, actual=result)
    return None


def policy_digest(case: Case) -> Finding | None:
    """19."""
    check = _policy_check(case)
    if isinstance(check, Finding):
        return check
    if check.policy_digest not in case.trust.policy_digests:
        return Finding(
            reason="not_listed",
            member=POLICY_CHECK,
            expected="a policy of the trust root",
            actual=check.policy_digest,
            remedy="add the policy's digest to the trust root if you trust it",
        )
    stamp = case.need_stamp()
    expected = (check.policy_id, check.policy_digest, f"{check.engine.name} {check.engine.version}")
    actual = (stamp.policy.policy_id, stamp.policy.policy_digest, stamp.engines.policy)
    if expected != actual:
        return Finding(reason="stamp", member=STAMP, expected=" ".join(expected), actual=" ".join(actual)[:400])
    if check.sbom_sha256 != (actual_sbom := case.need_digest(SBOM).sha256):
        return Finding(reason="sbom", member=POLICY_CHECK, expected=check.sbom_sha256, actual=actual_sbom)
    return _not_allowed(check)


def _policy_check(case: Case) -> PolicyCheck | Finding:
    case.need_document(POLICY_CHECK)
    try:
        return PolicyCheck.model_validate_json(case.need_file(POLICY_CHECK))
    except ValidationError as error:
        return Finding(reason="schema", member=POLICY_CHECK, expected="a policy check", actual=f"{error.error_count()} mistakes")


def _not_allowed(check: PolicyCheck) -> Finding | None:
    """Allowed only when the decision says so and the set of passed rules is the required set, which is not empty."""
    passed = {result.rule_id for result in check.results if result.outcome == "pass"}
    others = [result.rule_id for result in check.results if result.outcome != "pass"]
    required = set(check.required_checks)
    repeated = len(required) != len(check.required_checks)
    if check.decision != "allow" or others or passed != required or not required or repeated:
        return Finding(
            reason="not_allowed",
            member=POLICY_CHECK,
            expected="all passed: " + ", ".join(sorted(required)),
            actual=f"{check.decision}; passed: " + ", ".join(sorted(passed)),
            remedy="change the patch so that the policy allows it",
        )
    return None

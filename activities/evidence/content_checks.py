"""Checks 11-19 and 21: checksums, stamp, patch, policy, gates. Everything that can be computed again is."""

from __future__ import annotations

from pydantic import ValidationError

from activities.evidence.case import Case, Finding, NotChecked
from activities.evidence.checksums import ChecksumFormatError, parse_checksums
from schemas.canonical import digest_of, jcs_sha256, sha256_hex
from schemas.error import Gen4Error
from schemas.evidence import (
    CHECKSUMS,
    CONTENT_MEMBERS,
    PATCH,
    POLICY_CHECK,
    SBOM,
    STAMP,
    TEST_RESULTS,
    PolicyCheck,
    Stamp,
    TestResults,
    is_stamp_id,
    milliseconds_of,
)
from schemas.testing import counts_of, outcomes_sha256
from schemas.verdict import judge_recorded

_CLOCK_SKEW_MS = 300_000
_COMPILE_AGAIN = "compile again; a bundle is sealed only when every gate passes"
_MINIMUM_RUNS = 2
_REQUIRED_METRICS = frozenset({"tests"})


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
        if (actual := sha256_hex(case.need_file(name))) != digest:
            return Finding(reason="digest", member=name, expected=digest, actual=actual)
    return None


def _lines(case: Case) -> list[tuple[str, str]]:
    case.need_file(CHECKSUMS)
    if case.checksums is None:
        raise NotChecked(f"{CHECKSUMS} is malformed")
    return case.checksums


def stamp_schema(case: Case) -> Finding | None:
    """14."""
    case.need_document(STAMP)
    try:
        stamp = Stamp.model_validate_json(case.need_file(STAMP))
        created_ms = milliseconds_of(stamp.created_at)
    except ValidationError as error:
        where = ".".join(str(part) for part in error.errors()[0]["loc"]) or "document"
        return Finding(reason="schema", member=STAMP, expected="stamp/1", actual=f"{where}: {error.errors()[0]['msg']}")
    case.stamp = stamp
    if case.key is not None and not milliseconds_of(case.key.valid_from) <= created_ms <= case.now_ms + _CLOCK_SKEW_MS:
        return Finding(
            reason="created_at",
            member=STAMP,
            expected=f"between {case.key.valid_from} and now",
            actual=stamp.created_at,
            remedy="check the clocks of the signer and of this machine",
        )
    return None


def stamp_id(case: Case) -> Finding | None:
    """15."""
    stamp = case.need_stamp()
    if not is_stamp_id(stamp.stamp_id):
        return Finding(reason="format", member=STAMP, expected="stm_ and 32 hex digits", actual=stamp.stamp_id[:80])
    key = case.need_key()
    expected, actual = (key.identity, key.hint), (stamp.signer.identity, stamp.signer.key_or_issuer)
    if expected != actual:
        return Finding(reason="signer", member=STAMP, expected=" ".join(expected), actual=" ".join(actual)[:400])
    return None


def stamp_bundle_digest(case: Case) -> Finding | None:
    """16."""
    stamp, actual = case.need_stamp(), digest_of(case.need_file(CHECKSUMS))
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
        data, listed = case.need_file(name), stamp.members[name]
        if (listed.sha256, listed.size) != (sha256_hex(data), len(data)):
            return Finding(
                reason="digest", member=name, expected=f"{listed.sha256} {listed.size}", actual=f"{sha256_hex(data)} {len(data)}"
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
    if check.sbom_sha256 != sha256_hex(case.need_file(SBOM)):
        return Finding(reason="sbom", member=POLICY_CHECK, expected=check.sbom_sha256, actual=sha256_hex(case.need_file(SBOM)))
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
    if check.decision != "allow" or others or passed != required or not required:
        return Finding(
            reason="not_allowed",
            member=POLICY_CHECK,
            expected="all passed: " + ", ".join(sorted(required)),
            actual=f"{check.decision}; passed: " + ", ".join(sorted(passed)),
            remedy="change the patch so that the policy allows it",
        )
    return None


def gates(case: Case) -> Finding | None:
    """21."""
    stamp = case.need_stamp()
    verdicts = {
        "regression": stamp.gates.regression.verdict,
        "determinism": stamp.gates.determinism.verdict,
        "trust": stamp.gates.trust.verdict,
    }
    for name, verdict in verdicts.items():
        if verdict != "pass":
            return Finding(reason=name, member=STAMP, expected="pass", actual=verdict, remedy=_COMPILE_AGAIN)
    regression, determinism = stamp.gates.regression, stamp.gates.determinism
    if regression.baseline_commit != stamp.source.base_commit:
        return Finding(reason="baseline", member=STAMP, expected=stamp.source.base_commit, actual=regression.baseline_commit)
    measured = {metric.name for metric in regression.metrics if metric.verdict == "pass"}
    if measured != _REQUIRED_METRICS or len(regression.metrics) != len(measured):
        return Finding(reason="metrics", member=STAMP, expected=", ".join(_REQUIRED_METRICS), actual=", ".join(sorted(measured)))
    if determinism.rerun_bundle_digest != stamp.bundle_digest:
        return Finding(reason="rerun", member=STAMP, expected=stamp.bundle_digest, actual=determinism.rerun_bundle_digest)
    if min(determinism.runs, stamp.compile.runs) < _MINIMUM_RUNS:
        return Finding(reason="runs", member=STAMP, expected=f"at least {_MINIMUM_RUNS}", actual=str(determinism.runs))
    if not all(check.ok for check in stamp.gates.trust.checks):
        return Finding(reason="trust", member=STAMP, expected="every check ok", actual="one is not")
    return _verdict(case, stamp)


def _verdict(case: Case, stamp: Stamp) -> Finding | None:
    """The recorded outcomes alone must give the verdict that the stamp claims."""
    case.need_document(TEST_RESULTS)
    try:
        results = TestResults.model_validate_json(case.need_file(TEST_RESULTS))
    except ValidationError as error:
        return Finding(reason="schema", member=TEST_RESULTS, expected="test results", actual=f"{error.error_count()} mistakes")
    base, patched = results.suites
    if (base.name, patched.name) != ("base", "patched"):
        return Finding(reason="suites", member=TEST_RESULTS, expected="base, patched", actual=f"{base.name}, {patched.name}")
    if any(suite.counts != counts_of(suite.outcomes) for suite in results.suites):
        return Finding(reason="counts", member=TEST_RESULTS, expected="counts of the outcomes", actual="others")
    if results.canonical_sha256 != outcomes_sha256(patched.outcomes):
        return Finding(
            reason="canonical", member=TEST_RESULTS, expected=results.canonical_sha256, actual=outcomes_sha256(patched.outcomes)
        )
    judgement = judge_recorded(base.outcomes, patched.outcomes, results.targets)
    expected = (judgement.fix, jcs_sha256(list(judgement.targets)), judgement.fail_to_pass, judgement.pass_to_pass)
    actual = (stamp.fix.completeness, stamp.fix.targets_sha256, results.fail_to_pass, results.pass_to_pass)
    if judgement.verdict != "accepted" or judgement.fix == "none" or expected != actual:
        codes = ", ".join(judgement.codes) or "another fix than recorded"
        return Finding(reason="verdict", member=TEST_RESULTS, expected="accepted", actual=codes, remedy=_COMPILE_AGAIN)
    return None

"""Check 21: every gate passed, and what the stamp claims of them follows from the recorded outcomes."""

from __future__ import annotations

from pydantic import ValidationError

from activities.evidence.case import Case, Finding
from schemas.canonical import jcs_sha256
from schemas.evidence import STAMP, TEST_RESULTS, TestResults, TestResults2, milliseconds_of
from schemas.stamp import AnyStamp, Metric, Stamp2, StampMetric
from schemas.testing import counts_of, outcomes_sha256
from schemas.verdict import MINIMUM_RUNS, judge_recorded

_COMPILE_AGAIN = "compile again; a bundle is sealed only when every gate passes"


def gates(case: Case) -> Finding | None:
    """21."""
    stamp = case.need_stamp()
    finding = _claims(stamp)
    if finding is None and isinstance(stamp, Stamp2):
        finding = _execution(stamp) or _waivers(stamp, case.signed_ms)
    return finding or _verdict(case, stamp)


def _claims(stamp: AnyStamp) -> Finding | None:
    regression, determinism, trust = stamp.gates.regression, stamp.gates.determinism, stamp.gates.trust
    for name, verdict in (("regression", regression.verdict), ("determinism", determinism.verdict), ("trust", trust.verdict)):
        if verdict != "pass":
            return _wrong(name, "pass", verdict)
    if regression.baseline_commit != stamp.source.base_commit:
        return _wrong("baseline", stamp.source.base_commit, regression.baseline_commit)
    names = [metric.name for metric in regression.metrics]
    if "tests" not in names or len(set(names)) != len(names) or not all(map(_holds, regression.metrics)):
        found = ", ".join(f"{metric.name} {metric.verdict}" for metric in regression.metrics)
        return _wrong("metrics", "tests, and every metric once: passed or waived", found)
    if determinism.rerun_bundle_digest != stamp.bundle_digest:
        return _wrong("rerun", stamp.bundle_digest, determinism.rerun_bundle_digest)
    if min(determinism.runs, stamp.compile.runs) < MINIMUM_RUNS:
        return _wrong("runs", f"at least {MINIMUM_RUNS}", str(min(determinism.runs, stamp.compile.runs)))
    if not all(check.ok for check in trust.checks):
        return _wrong("trust", "every check ok", "one is not")
    return None


def _holds(metric: Metric | StampMetric) -> bool:
    return metric.verdict == "pass" or (isinstance(metric, StampMetric) and metric.verdict == "fail" and metric.waived)


def _execution(stamp: Stamp2) -> Finding | None:
    """Receipts of two runs or more, each named once, and sentinels that failed as they had to."""
    receipts = stamp.compile.receipts
    if len(receipts) < MINIMUM_RUNS or list(receipts) != sorted(set(receipts)):
        return _wrong("receipts", f"at least {MINIMUM_RUNS} receipts, ascending", str(len(receipts)))
    if stamp.compile.sentinels < 1:
        return _wrong("sentinels", "at least 1", str(stamp.compile.sentinels))
    return None


def _waivers(stamp: Stamp2, signed_ms: int) -> Finding | None:
    """A waiver counts if it was unexpired when the bundle was signed (threats 5.5); what is waived names one."""
    waivers = stamp.gates.regression.waivers
    for waiver in waivers:
        if milliseconds_of(waiver.expires_at) <= signed_ms:
            return _wrong("waiver_expired", f"{waiver.id} unexpired when it was signed", waiver.expires_at)
    if len({waiver.id for waiver in waivers}) != len(waivers):
        return _wrong("waivers", "each waiver once", ", ".join(waiver.id for waiver in waivers)[:400])
    covered = {waiver.metric for waiver in waivers}
    if bare := [metric.name for metric in stamp.gates.regression.metrics if metric.waived and metric.name not in covered]:
        return _wrong("waivers", "a waiver for every metric that is waived", "none for " + ", ".join(bare))
    return None


def _wrong(reason: str, expected: str, actual: str) -> Finding:
    return Finding(reason=reason, member=STAMP, expected=expected, actual=actual, remedy=_COMPILE_AGAIN)


def _verdict(case: Case, stamp: AnyStamp) -> Finding | None:
    """The recorded outcomes alone must give the verdict that the stamp claims."""
    case.need_document(TEST_RESULTS)
    model = TestResults2 if isinstance(stamp, Stamp2) else TestResults
    try:
        results = model.model_validate_json(case.need_file(TEST_RESULTS))
    except ValidationError as error:
        return _unproven("schema", "test results in the form of the stamp's version", f"{error.error_count()} mistakes")
    if isinstance(results, TestResults2) and "schema_version" not in case.need_document(TEST_RESULTS):
        return _unproven("schema", "test-results/2", "no version")
    base, patched = results.suites
    if (base.name, patched.name) != ("base", "patched"):
        return _unproven("suites", "base, patched", f"{base.name}, {patched.name}")
    if any(suite.counts != counts_of(suite.outcomes) for suite in results.suites):
        return _unproven("counts", "counts of the outcomes", "others")
    if results.canonical_sha256 != (actual_sha256 := outcomes_sha256(patched.outcomes)):
        return _unproven("canonical", results.canonical_sha256, actual_sha256)
    return _judged_again(stamp, results)


def _judged_again(stamp: AnyStamp, results: TestResults) -> Finding | None:
    base, patched = results.suites
    judgement = judge_recorded(base.outcomes, patched.outcomes, results.targets, _waived_tests(stamp))
    expected = (
        judgement.fix, jcs_sha256(list(judgement.targets)), judgement.targets, judgement.fail_to_pass, judgement.pass_to_pass,
    )  # fmt: skip
    actual = (
        stamp.fix.completeness, stamp.fix.targets_sha256, results.targets, results.fail_to_pass, results.pass_to_pass,
    )  # fmt: skip
    if judgement.verdict != "accepted" or judgement.fix == "none" or expected != actual:
        return _unproven("verdict", "accepted", ", ".join(judgement.codes) or "another fix than recorded")
    return None


def _waived_tests(stamp: AnyStamp) -> tuple[str, ...]:
    if not isinstance(stamp, Stamp2):
        return ()
    return tuple(waiver.subject for waiver in stamp.gates.regression.waivers if waiver.metric == "tests")


def _unproven(reason: str, expected: str, actual: str) -> Finding:
    return Finding(reason=reason, member=TEST_RESULTS, expected=expected, actual=actual, remedy=_COMPILE_AGAIN)

"""Regression Gate, ``ga:diff:strict``: nothing that was good on the baseline got worse (evidence §8).

1. There is a baseline, and machine and runs can be believed.
2. Each metric that could be measured was compared with what policy tolerates (:mod:`measuring`); one that could not is absent.
3. Waivers are held against what got worse, at the time of this decision.
4. Policy decides: is every required metric there, and nothing worse that nobody may and does answer for?
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from activities.verify.measuring import Measured, Regression, some
from activities.verify.waiving import Waiving, apply_waivers
from schemas.gates import WAIVED, Check, GateReport, MeasuredMetric, MetricName, UsedWaiver
from schemas.policy import PolicyDecision, PolicyRule
from schemas.regression import Waiver
from schemas.verdict import Judgement

MetricsPolicy = Callable[[Mapping[str, Any]], PolicyDecision]
"""Whether these metrics are enough, and who may waive: both are policy data."""


class _Comparison(NamedTuple):
    metric: MetricName
    code: str
    expected: str
    remedy: str


_COMPARISONS = (
    _Comparison("tests", "REG_TEST_LOST", "every test that passed on base passes",
                "change the patch so that these tests pass as they do on base"),
    _Comparison("coverage", "REG_COVERAGE", "coverage within the tolerance of policy", "add tests that run the new lines"),
    _Comparison("performance", "REG_PERFORMANCE", "no slower than policy tolerates", "make what is named as fast as on base"),
    _Comparison("security", "REG_SECURITY", "no new finding", "write the named lines so that the scanner has nothing to say"),
    _Comparison("security", "REG_CONTROL_REMOVED", "every file that watches over the repository", "put the named files back"),
    _Comparison("dependencies", "REG_DEPENDENCY", "no denied or older distribution", "require versions that policy admits"),
    _Comparison("licences", "REG_LICENCE", "licences that policy allows", "choose a distribution with another licence"),
    _Comparison("size", "REG_SIZE", "growth within the tolerance of policy", "take out files that need not be shipped"),
)  # fmt: skip
_LONGEST = 1_000
_WAIVE = ", or give a waiver with owner, reason and expiry"
_EXPLAINED = frozenset({"metrics.no_failure", "metrics.waivers"})
"""Rules whose denials have checks of their own."""


def tests_metric(judgement: Judgement) -> Measured | None:
    """None where the runs of a tree gave no outcomes that can be compared."""
    if not (judgement.targets or judgement.pass_to_pass or judgement.lost):
        return None
    summary = f"{len(judgement.pass_to_pass)} still pass, {len(judgement.lost)} passed on base only"
    return Measured("tests", summary, tuple(Regression("REG_TEST_LOST", nodeid, nodeid) for nodeid in judgement.lost))


def regression_report(
    judgement: Judgement, baseline_commit: str, metrics: Sequence[Measured], policy: MetricsPolicy, *,
    waivers: Sequence[Waiver] = (), now: str, missing: Mapping[MetricName, str] | None = None, message: str = "",
) -> GateReport:  # fmt: skip
    """The decision on ``metrics``; ``missing`` says why a metric is not among them, ``message`` why there is no baseline."""
    if judgement.verdict == "infra_error":
        return GateReport(gate="regression", verdict="inconclusive", checks=(_inconclusive(judgement),))
    waiving = apply_waivers(metrics, waivers, now)
    measured = tuple(
        MeasuredMetric(name=one.name, verdict="fail" if one.regressions else "pass", waived=waiving.is_waived(one))
        for one in metrics
    )
    decision = policy(_question(measured, waiving.used, now))
    by_name = {one.name: one for one in metrics}
    checks = (
        _baseline_check("tests" in by_name, baseline_commit, f"{', '.join(judgement.codes)}: {message}"),
        _metrics_check(measured, decision),
        *(_check(comparison, by_name.get(comparison.metric), waiving, missing or {}) for comparison in _COMPARISONS),
        _owner_check(waiving, decision),
        _expiry_check(waiving),
    )
    passed = decision.decision == "allow" and all(check.ok or not check.checked for check in checks)
    used = tuple(UsedWaiver(**waiver.model_dump(include={"id", "owner", "reason", "expires_at"})) for waiver in waiving.used)
    return GateReport(
        gate="regression", verdict="pass" if passed else "fail", checks=checks, metrics=measured, waivers=used
    )


def _question(metrics: Sequence[MeasuredMetric], waivers: Sequence[Waiver], now: str) -> dict[str, Any]:
    return {
        "metrics": [metric.model_dump(mode="json") for metric in metrics],
        "waivers": [
            {"id": waiver.id, "metric": waiver.metric, "owner": waiver.owner, "expires_at_s": _seconds(waiver.expires_at)}
            for waiver in waivers
        ],
        "now_s": _seconds(now),
    }


def _seconds(time: str) -> int:
    return round(datetime.fromisoformat(time).timestamp())


def _baseline_check(known: bool, commit: str, message: str) -> Check:
    return Check(
        code="REG_BASELINE_MISSING",
        ok=known,
        expected="outcomes of the base tree",
        actual="" if known else "none",
        reason="" if known else message[:_LONGEST],
        remedy="" if known else f"make the tests run, and agree twice, on both trees; base is commit {commit}",
    )


def _metrics_check(metrics: Sequence[MeasuredMetric], decision: PolicyDecision) -> Check:
    """Every required metric is there. Also where policy denies for a reason that no other check can name."""
    unexplained = _denials(decision, lambda rule: rule.rule_id not in _EXPLAINED or rule.outcome == "error")
    enough = not unexplained and bool(decision.required_checks)
    why = "; ".join(rule.message or rule.rule_id for rule in unexplained) or "the policy requires nothing"
    return Check(
        code="REG_METRIC_MISSING",
        ok=enough,
        expected="the metrics that the policy requires",
        actual=", ".join(metric.name for metric in metrics) or "none",
        reason="" if enough else why,
        remedy="" if enough else "make the missing metrics measurable, or change which ones the policy requires",
    )


def _check(comparison: _Comparison, metric: Measured | None, waiving: Waiving, missing: Mapping[MetricName, str]) -> Check:
    if metric is None:
        why = missing.get(comparison.metric, "not measured")
        return Check(code=comparison.code, ok=False, checked=False, expected=comparison.expected, reason=why)
    ours = [one for one in metric.regressions if one.code == comparison.code]
    left = tuple(one.text for one in ours if one in waiving.open)
    waived = tuple(one.text for one in ours if one not in waiving.open)
    return Check(
        code=comparison.code,
        ok=not left,
        expected=comparison.expected,
        actual=some(left) if left else metric.summary,
        reason=f"{WAIVED}{some(waived)}" if waived else "",
        remedy=comparison.remedy + _WAIVE if left else "",
    )


def _owner_check(waiving: Waiving, decision: PolicyDecision) -> Check:
    denied = _denials(decision, lambda rule: rule.rule_id == "metrics.waivers")
    owners = ", ".join(sorted({waiver.owner for waiver in waiving.used}))
    return Check(
        code="REG_WAIVER_OWNER",
        ok=not denied,
        checked=bool(waiving.used),
        expected="owners who may waive",
        actual=owners,
        reason="; ".join(rule.message or rule.rule_id for rule in denied),
        remedy="let somebody answer for it whom the policy lists" if denied else "",
    )


def _expiry_check(waiving: Waiving) -> Check:
    """It names no time: who computes it again a little later gets the same report, or finds a waiver expired."""
    over = tuple(f"{waiver.id} of {waiver.owner}, until {waiver.expires_at}" for waiver in waiving.expired)
    unused = some(tuple(waiver.id for waiver in waiving.unused))
    return Check(
        code="REG_WAIVER_EXPIRED",
        ok=not over,
        checked=bool(waiving.used or waiving.expired or waiving.unused),
        expected="waivers that hold at the time of the decision",
        actual=some(over),
        reason=f"these cover nothing: {unused}" if unused else "",
        remedy="mend what it covered, or let its owner answer for it anew" if over else "",
    )


def _denials(decision: PolicyDecision, chosen: Callable[[PolicyRule], bool]) -> tuple[PolicyRule, ...]:
    return tuple(rule for rule in decision.denials if chosen(rule))


def _inconclusive(judgement: Judgement) -> Check:
    return Check(
        code="REG_INCONCLUSIVE",
        ok=False,
        reason=", ".join(judgement.codes),
        remedy="repair what the codes name, then start again; nothing was learnt about the patch",
    )

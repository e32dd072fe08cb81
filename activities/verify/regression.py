"""Regression Gate: nothing that was good on the baseline got worse (evidence §8)."""

from __future__ import annotations

from collections.abc import Callable

from schemas.evidence import Metric
from schemas.gates import Check, GateReport
from schemas.policy import PolicyDecision
from schemas.verdict import Judgement

MetricsPolicy = Callable[[tuple[Metric, ...]], PolicyDecision]
"""Whether these metrics are enough: which ones are required is policy data. One that was not measured is not in it."""
_NAMED = 10


def regression_report(judgement: Judgement, baseline_commit: str, policy: MetricsPolicy) -> GateReport:
    """Checks in order: a baseline exists, every required metric was measured, no test of the baseline was lost."""
    if judgement.verdict == "infra_error":
        return GateReport(gate="regression", verdict="inconclusive", checks=(_inconclusive(judgement),))
    known = bool(judgement.targets or judgement.pass_to_pass or judgement.lost)
    metrics = (Metric(name="tests", verdict="fail" if judgement.lost else "pass"),) if known else ()
    checks = (
        Check(
            code="REG_BASELINE_MISSING",
            ok=known,
            expected="outcomes of the base tree",
            actual="" if known else "none",
            remedy="" if known else f"make the tests run, and agree twice, on base commit {baseline_commit}",
        ),
        _metrics_check(metrics, policy),
        _lost_check(judgement, known),
    )
    passed = all(check.ok and check.checked for check in checks)
    return GateReport(gate="regression", verdict="pass" if passed else "fail", checks=checks)


def _metrics_check(metrics: tuple[Metric, ...], policy: MetricsPolicy) -> Check:
    """A metric that failed has a check of its own; this one is about those that are missing."""
    measured = tuple(metric.model_copy(update={"verdict": "pass"}) for metric in metrics)
    decision = policy(measured)
    enough = decision.decision == "allow"
    why = "; ".join(rule.message or rule.rule_id for rule in decision.denials) or "the policy requires nothing"
    return Check(
        code="REG_METRIC_MISSING",
        ok=enough,
        expected="the metrics that the policy requires",
        actual=", ".join(metric.name for metric in measured) or "none",
        reason="" if enough else why,
        remedy="" if enough else "make the missing metrics measurable, or change which ones the policy requires",
    )


def _lost_check(judgement: Judgement, measured: bool) -> Check:
    return Check(
        code="REG_TEST_LOST",
        ok=measured and not judgement.lost,
        checked=measured,
        expected="every test that passed on base passes",
        actual=_listed(judgement.lost),
        remedy="change the patch so that these tests pass as they do on base" if judgement.lost else "",
    )


def _inconclusive(judgement: Judgement) -> Check:
    return Check(
        code="REG_INCONCLUSIVE",
        ok=False,
        reason=", ".join(judgement.codes),
        remedy="repair what the codes name, then start again; nothing was learnt about the patch",
    )


def _listed(ids: tuple[str, ...]) -> str:
    return ", ".join(ids[:_NAMED]) + (f" and {len(ids) - _NAMED} more" if len(ids) > _NAMED else "")

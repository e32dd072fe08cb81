"""Regression Gate: nothing that was good on the baseline got worse (evidence §8). Pure."""

from __future__ import annotations

from schemas.gates import Check, GateReport
from schemas.verdict import Judgement

_NAMED = 10


def regression_report(judgement: Judgement, baseline_commit: str) -> GateReport:
    """Checks in order: a baseline exists, the metric ``tests`` was measured, no test of the baseline was lost."""
    if judgement.verdict == "infra_error":
        check = Check(
            code="REG_INCONCLUSIVE",
            ok=False,
            reason=", ".join(judgement.codes),
            remedy="repair what the codes name, then start again; nothing was learnt about the patch",
        )
        return GateReport(gate="regression", verdict="inconclusive", checks=(check,))
    measured = judgement.verdict != "irreproducible" and bool(judgement.targets or judgement.pass_to_pass or judgement.lost)
    known = bool(judgement.targets or judgement.pass_to_pass or judgement.lost)
    checks = (
        Check(
            code="REG_BASELINE_MISSING",
            ok=known,
            expected="outcomes of the base tree",
            actual="" if known else "none",
            remedy="" if known else f"make the tests run on base commit {baseline_commit}",
        ),
        Check(
            code="REG_METRIC_MISSING",
            ok=measured,
            expected="metric tests measured",
            actual="" if measured else judgement.verdict,
            remedy="" if measured else "make two runs of each tree agree: " + (", ".join(judgement.codes) or "no outcomes"),
        ),
        Check(
            code="REG_TEST_LOST",
            ok=not judgement.lost,
            checked=measured,
            expected="every test that passed on base passes",
            actual=_listed(judgement.lost),
            remedy="" if not judgement.lost else "change the patch so that these tests pass as they do on base",
        ),
    )
    passed = all(check.ok and check.checked for check in checks)
    return GateReport(gate="regression", verdict="pass" if passed else "fail", checks=checks)


def _listed(ids: tuple[str, ...]) -> str:
    return ", ".join(ids[:_NAMED]) + (f" and {len(ids) - _NAMED} more" if len(ids) > _NAMED else "")

"""Runs to verdict: infrastructure, agreement, belief, then test ids."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from activities.kernel.judging import PolicyPort
from activities.record.blobs import BlobStore
from activities.verify.activities import VerifyActivities
from schemas.canonical import jcs
from schemas.capabilities import Judged, JudgeRuns, RegressionInput
from schemas.error import Gen4Error
from schemas.policy import PolicyDecision, PolicyRule
from schemas.testing import Outcomes, RunStatus, SandboxFacts, TestRun, counts_of, outcomes_sha256
from schemas.verdict import Judgement

pytestmark = pytest.mark.usefixtures("admitted")

A, B, C = "tests/t.py::a", "tests/t.py::b", "tests/t.py::c"
BASE: Outcomes = {A: "failed", B: "passed"}
FIXED: Outcomes = {A: "passed", B: "passed"}
SANDBOX = SandboxFacts(backend="bubblewrap", version="0.8.0", profile_sha256="ab" * 32, enforcement={})


class Bench:
    def __init__(self, folder: Path, policy: PolicyPort) -> None:
        self.blobs = BlobStore(folder, "local")
        self.activities = VerifyActivities(self.blobs, policy)

    def run(self, outcomes: Outcomes, *codes: str, status: RunStatus = "failed", message: str = "") -> TestRun:
        return TestRun(
            status=status, codes=codes, message=message, outcomes=self.blobs.put(jcs(dict(outcomes)), "application/json"),
            outcomes_sha256=outcomes_sha256(outcomes), counts=counts_of(outcomes), exit_code=1, runner="pytest 9.2.0",
            run_key="1" * 64, sandbox=SANDBOX,
        )  # fmt: skip

    def judged(self, base: list[TestRun], patched: list[TestRun], *targets: str) -> Judged:
        return self.activities.judge_runs(JudgeRuns(base=tuple(base), patched=tuple(patched), named_targets=targets))

    def outcomes(self, base: Outcomes, patched: Outcomes, *targets: str) -> Judged:
        return self.judged([self.run(base)] * 2, [self.run(patched)] * 2, *targets)

    def judgement(self, judged: Judged) -> Judgement:
        return Judgement.model_validate(self.blobs.get_json(judged.judgement))

    def gate(self, judged: Judged) -> tuple[str, tuple[str, ...]]:
        report = self.activities.regression_gate(RegressionInput(judged=judged, baseline_commit="c0" * 20))
        assert all(check.remedy for check in report.checks if check.checked and not check.ok)
        return report.verdict, report.codes


@pytest.fixture
def bench(tmp_path: Path, policy: PolicyPort) -> Bench:
    return Bench(tmp_path, policy)


def test_agreeing_runs_that_mend_the_failing_test_are_accepted(bench: Bench) -> None:
    judged = bench.outcomes(BASE, FIXED)
    assert (judged.verdict, judged.fix, judged.codes, judged.fail_to_pass, judged.lost) == ("accepted", "complete", (), 1, 0)
    assert bench.judgement(judged).pass_to_pass == (B,)
    assert bench.gate(judged) == ("pass", ())


def test_mending_some_of_what_fails_is_partial(bench: Bench) -> None:
    judged = bench.outcomes({**BASE, C: "error"}, {**FIXED, C: "error"})
    assert (judged.verdict, judged.fix) == ("accepted", "partial")
    assert C in judged.message


@pytest.mark.parametrize(
    ("base", "patched", "targets", "code"),
    [
        (FIXED, FIXED, (), "NO_FAILING_TEST"),
        (BASE, BASE, (), "NOTHING_FIXED"),
        ({**BASE, C: "failed"}, {**FIXED, C: "failed"}, (A, C), "TARGET_NOT_FIXED"),
        (BASE, FIXED, (A, B), "TARGET_NOT_FAILING"),
        (BASE, FIXED, ("tests/t.py::absent",), "TARGET_NOT_FAILING"),
        ({}, {}, (), "TESTS_NONE_COLLECTED"),
    ],
)
def test_verdicts_come_from_test_ids(
    bench: Bench, base: Outcomes, patched: Outcomes, targets: tuple[str, ...], code: str
) -> None:
    judged = bench.outcomes(base, patched, *targets)
    assert judged.verdict == "rejected" and code in judged.codes


@pytest.mark.parametrize("now", ["failed", "error", "skipped", "xfailed", "xpassed", None])
def test_a_test_that_passed_and_does_not_now_is_lost(bench: Bench, now: str | None) -> None:
    """Threats 4.2: vanished, skipped and expected failures count as lost; the Regression Gate alone fails for it."""
    patched: Outcomes = {A: "passed"} if now is None else {A: "passed", B: now}  # type: ignore[dict-item]
    judged = bench.outcomes(BASE, patched)
    assert (judged.verdict, judged.codes, judged.lost) == ("rejected", ("REG_TEST_LOST",), 1)
    assert bench.gate(judged) == ("fail", ("REG_TEST_LOST",))
    report = bench.activities.regression_gate(RegressionInput(judged=judged, baseline_commit="c0" * 20))
    assert next(check for check in report.checks if not check.ok).actual == B


def test_runs_that_disagree_are_irreproducible_and_name_the_test(bench: Bench) -> None:
    other: Outcomes = {**FIXED, B: "failed", C: "passed"}
    judged = bench.judged([bench.run(BASE)] * 2, [bench.run(FIXED), bench.run(other)])
    assert (judged.verdict, judged.codes) == ("irreproducible", ("RUNS_DISAGREE",))
    assert f"{B} (passed, then failed)" in judged.message and f"{C} (missing, then passed)" in judged.message
    assert bench.gate(judged) == ("fail", ("REG_BASELINE_MISSING", "REG_METRIC_MISSING"))


class RequiresMore:
    """A policy whose data requires a metric that is not built."""

    policy_digest = "sha256:" + "0" * 64

    def decide(self, package: str, question: Mapping[str, Any]) -> PolicyDecision:
        rules = (PolicyRule(rule_id="metrics.required", outcome="deny", message="required: coverage, tests"),)
        return PolicyDecision(
            decision="deny", policy_id=package, policy_digest=self.policy_digest, engine_name="opa", engine_version="1.22.0",
            input_sha256="0" * 64, required_checks=("metrics.required",), results=rules,
        )  # fmt: skip


def test_a_required_metric_that_is_not_measured_fails_the_gate(tmp_path: Path) -> None:
    bench = Bench(tmp_path, RequiresMore())
    judged = bench.outcomes(BASE, FIXED)
    assert judged.verdict == "accepted"
    assert bench.gate(judged) == ("fail", ("REG_METRIC_MISSING",))


def test_one_run_of_a_tree_proves_nothing(bench: Bench) -> None:
    assert bench.judged([bench.run(BASE)], [bench.run(FIXED)] * 2).codes == ("DET_RUNS",)
    assert bench.judged([bench.run(BASE)] * 2, []).verdict == "irreproducible"


def test_a_failure_of_the_machine_decides_nothing(bench: Bench) -> None:
    broken = bench.run({}, "SANDBOX_GONE", status="infra_error", message="the engine stopped")
    judged = bench.judged([bench.run(BASE)] * 2, [bench.run(FIXED), broken])
    assert (judged.verdict, judged.codes) == ("infra_error", ("SANDBOX_GONE",))
    assert "the engine stopped" in judged.message
    assert bench.gate(judged) == ("inconclusive", ("REG_INCONCLUSIVE",))


@pytest.mark.parametrize("code", ["MODULES_OUTSIDE_TREE", "TESTS_NONE_COLLECTED", "RUN_TIMEOUT", "HARNESS_BROKEN"])
@pytest.mark.parametrize("tree", ["base", "patched"])
def test_runs_that_cannot_be_believed_are_rejected_with_their_code(bench: Bench, code: str, tree: str) -> None:
    base = [bench.run(BASE, *([code] if tree == "base" else []))] * 2
    patched = [bench.run(FIXED, *([code] if tree == "patched" else []))] * 2
    judged = bench.judged(base, patched)
    assert (judged.verdict, judged.codes, judged.fix) == ("rejected", (code,), "none")


def test_a_test_that_never_ended_on_base_can_be_mended(bench: Bench) -> None:
    assert bench.judged([bench.run(BASE, "TEST_TIMEOUT")] * 2, [bench.run(FIXED)] * 2).verdict == "accepted"


def test_runs_with_different_codes_disagree(bench: Bench) -> None:
    judged = bench.judged([bench.run(BASE)] * 2, [bench.run(FIXED), bench.run(FIXED, "MODULES_OUTSIDE_TREE")])
    assert judged.verdict == "irreproducible"


@pytest.mark.parametrize(
    ("change", "code"),
    [({"outcomes_sha256": "0" * 64}, "OUTCOMES_DIGEST"), ({"outcomes": b'{"a":"fine"}'}, "OUTCOMES_INVALID")],
)
def test_outcomes_that_are_not_those_of_the_run(bench: Bench, change: dict[str, object], code: str) -> None:
    if isinstance(data := change.get("outcomes"), bytes):
        change = {"outcomes": bench.blobs.put(data)}
    run = bench.run(BASE).model_copy(update=change)
    with pytest.raises(Gen4Error) as caught:
        bench.judged([run] * 2, [bench.run(FIXED)] * 2)
    assert caught.value.code == code

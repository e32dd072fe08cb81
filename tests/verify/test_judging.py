"""Runs to verdict: infrastructure, agreement, belief, then test ids."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from activities.kernel.judging import PolicyPort
from activities.record.blobs import BlobStore
from activities.record.chain import EventChain
from activities.record.objects import ObjectStore
from activities.record.store import Store
from activities.verify.activities import RegressionActivities, VerifyActivities
from schemas.canonical import jcs
from schemas.capabilities import DiagnosticRun, Judged, JudgeRuns, RegressionInput
from schemas.error import Gen4Error
from schemas.policy import PolicyDecision, PolicyRule
from schemas.testing import Outcomes, RunStatus, RunVariant, SandboxFacts, TestRun, counts_of, outcomes_sha256
from schemas.verdict import Judgement

pytestmark = pytest.mark.usefixtures("admitted")

A, B, C = "tests/t.py::a", "tests/t.py::b", "tests/t.py::c"
BASE: Outcomes = {A: "failed", B: "passed"}
FIXED: Outcomes = {A: "passed", B: "passed"}
PLAIN, SEED, REVERSED = RunVariant(), RunVariant(hash_seed=1), RunVariant(order="reversed")
SANDBOX = SandboxFacts(backend="bubblewrap", version="0.8.0", profile_sha256="ab" * 32, enforcement={})


class Bench:
    def __init__(self, folder: Path, policy: PolicyPort, chain: EventChain) -> None:
        self.blobs = BlobStore(folder, "local")
        self.activities = VerifyActivities(self.blobs, policy)
        self.gates = RegressionActivities(self.blobs, ObjectStore.open(folder / "objects.git"), policy, chain)

    def run(
        self, outcomes: Outcomes, *codes: str, status: RunStatus = "failed", message: str = "",
        variant: RunVariant = PLAIN,
    ) -> TestRun:  # fmt: skip
        return TestRun(
            status=status, codes=codes, message=message, outcomes=self.blobs.put(jcs(dict(outcomes)), "application/json"),
            outcomes_sha256=outcomes_sha256(outcomes), counts=counts_of(outcomes), exit_code=1, runner="pytest 9.2.0",
            run_key="1" * 64, sandbox=SANDBOX, variant=variant,
        )  # fmt: skip

    def judged(self, base: list[TestRun], patched: list[TestRun], *targets: str, **more: Any) -> Judged:
        return self.activities.judge_runs(JudgeRuns(base=tuple(base), patched=tuple(patched), named_targets=targets, **more))

    def outcomes(self, base: Outcomes, patched: Outcomes, *targets: str) -> Judged:
        return self.judged([self.run(base)] * 2, [self.run(patched)] * 2, *targets)

    def judgement(self, judged: Judged) -> Judgement:
        return Judgement.model_validate(self.blobs.get_json(judged.judgement))

    def gate(self, judged: Judged) -> tuple[str, tuple[str, ...]]:
        report = self.gates.regression_gate(RegressionInput(judged=judged, baseline_commit="c0" * 20))
        assert all(check.remedy for check in report.checks if check.checked and not check.ok)
        return report.verdict, report.codes


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EventChain]:
    store = Store.open(f"sqlite:///{tmp_path_factory.mktemp('store')}/store.db")
    yield EventChain(store.tenant("local"))
    store.close()


@pytest.fixture
def bench(tmp_path: Path, policy: PolicyPort, chain: EventChain) -> Bench:
    return Bench(tmp_path, policy, chain)


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
    report = bench.gates.regression_gate(RegressionInput(judged=judged, baseline_commit="c0" * 20))
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


def test_a_required_metric_that_is_not_measured_fails_the_gate(tmp_path: Path, chain: EventChain) -> None:
    bench = Bench(tmp_path, RequiresMore(), chain)
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


def test_a_fix_that_passes_although_its_functions_raise_is_forged(bench: Bench) -> None:
    runs = [bench.run(BASE)] * 2, [bench.run(FIXED)] * 2
    judged = bench.judged(*runs, probe=bench.run({A: "passed", B: "failed"}))
    assert (judged.verdict, judged.codes, judged.fix) == ("rejected", ("HARNESS_TAMPERED",), "complete")
    assert A in judged.message and "another patch" in judged.message
    assert bench.judged(*runs, probe=bench.run({A: "failed", B: "passed"})).verdict == "accepted"
    assert bench.judged(*runs, probe=bench.run({}, "TESTS_NONE_COLLECTED")).verdict == "accepted"
    assert bench.judged(*runs).mended == (A,)


def test_the_probe_runs_the_tests_of_a_mended_file(bench: Bench) -> None:
    base: Outcomes = {"t.py": "error"}
    patched: Outcomes = {"t.py::a": "passed", "t.py::b": "skipped", "t.py::c": "passed", "u.py::d": "passed"}
    judged = bench.outcomes(base, patched)
    assert (judged.verdict, judged.mended) == ("accepted", ("t.py::a", "t.py::c"))
    runs = [bench.run(base)] * 2, [bench.run(patched)] * 2
    assert bench.judged(*runs, probe=bench.run({"t.py::a": "failed", "t.py::c": "passed"})).verdict == "accepted"
    assert bench.judged(*runs, probe=bench.run({"t.py::a": "passed", "t.py::c": "passed"})).codes == ("HARNESS_TAMPERED",)


@pytest.mark.parametrize("where", ["base", "patched", "probe", "diagnostics"])
def test_a_single_run_that_was_tampered_with_refuses(bench: Bench, where: str) -> None:
    base, patched = [bench.run(BASE)] * 2, [bench.run(FIXED)] * 2
    forged = bench.run(FIXED, "HARNESS_TAMPERED", message="one of 3 sentinels passed")
    more: dict[str, Any] = {"probe": forged} if where == "probe" else {}
    if where == "diagnostics":
        more["diagnostics"] = (DiagnosticRun(tree="patched", run=forged),)
    judged = bench.judged(
        [base[0], forged] if where == "base" else base, [patched[0], forged] if where == "patched" else patched, **more
    )
    assert (judged.verdict, judged.codes) == ("rejected", ("HARNESS_TAMPERED",))
    assert "sentinels" in judged.message


def test_a_patch_that_begins_to_replace_parts_of_pytest_is_tampering(bench: Bench) -> None:
    base, patched = [bench.run(BASE)] * 2, [bench.run(FIXED, "PYTEST_CHANGED", message="replaced: pytest.fail")] * 2
    judged = bench.judged(base, patched)
    assert (judged.verdict, judged.codes) == ("rejected", ("HARNESS_TAMPERED",)) and "pytest.fail" in judged.message
    assert bench.judged([bench.run(BASE)] * 2, [bench.run(FIXED)] * 2, probe=patched[0]).codes == ("HARNESS_TAMPERED",)
    changed_before = [bench.run(BASE, "PYTEST_CHANGED")] * 2
    assert bench.judged(changed_before, patched).verdict == "accepted"
    assert bench.judged(changed_before, [bench.run(FIXED)] * 2).verdict == "accepted"


def test_what_the_machine_failed_is_never_called_tampered(bench: Bench) -> None:
    broken = bench.run({}, "HARNESS_TAMPERED", status="infra_error")
    judged = bench.judged([bench.run(BASE)] * 2, [bench.run(FIXED)] * 2, probe=broken)
    assert judged.verdict == "infra_error"


def test_a_waived_loss_is_no_code_and_stays_a_loss(bench: Bench) -> None:
    base, patched = [bench.run({**BASE, C: "passed"})] * 2, [bench.run({A: "passed"})] * 2
    judged = bench.judged(base, patched, waived_tests=(B, C, "t.py::other"))
    assert (judged.verdict, judged.lost, bench.judgement(judged).waived) == ("accepted", 2, (B, C))
    assert "by waiver" in judged.message
    assert bench.judged(base, patched, waived_tests=(B,)).codes == ("REG_TEST_LOST",)


@pytest.mark.parametrize(
    ("base", "patched", "code"),
    [
        ({A: "failed", B: "passed"}, {A: "skipped", B: "skipped"}, "ALL_SKIPPED"),
        ({A: "skipped"}, {A: "passed"}, "ALL_SKIPPED"),
        (BASE, {}, "TESTS_NONE_COLLECTED"),
        (BASE, {**FIXED, "tests/new.py": "error"}, "COLLECTION_ERROR"),
        ({**BASE, "tests/new.py": "skipped"}, {**FIXED, "tests/new.py": "error"}, "COLLECTION_ERROR"),
        (BASE, {**FIXED, ".": "error"}, "COLLECTION_ERROR"),
    ],
)
def test_what_did_not_really_run_is_never_a_pass(bench: Bench, base: Outcomes, patched: Outcomes, code: str) -> None:
    judged = bench.outcomes(base, patched)
    assert judged.verdict == "rejected" and code in judged.codes


def test_a_collection_error_of_base_is_not_the_patch(bench: Bench) -> None:
    assert bench.outcomes({**BASE, "tests/u.py": "error"}, {**FIXED, "tests/u.py": "error"}).verdict == "accepted"


def test_a_flake_that_the_patch_brings_is_irreproducible(bench: Bench) -> None:
    base, patched = [bench.run(BASE)] * 2, [bench.run(FIXED)] * 2
    seeded = DiagnosticRun(tree="patched", run=bench.run({A: "passed", B: "failed"}, variant=SEED))
    judged = bench.judged(base, patched, diagnostics=(seeded,))
    assert (judged.verdict, judged.codes) == ("irreproducible", ("FLAKE_INTRODUCED",))
    assert B in judged.message and "sort" in judged.message
    before = DiagnosticRun(tree="base", run=bench.run({A: "failed", B: "failed"}, variant=SEED))
    judged = bench.judged(base, patched, diagnostics=(seeded, before))
    assert (judged.verdict, [(flake.nodeid, flake.tree, flake.introduced) for flake in judged.flakes]) == (
        "accepted", [(B, "patched", False), (B, "base", False)],
    )  # fmt: skip


def test_a_rejected_patch_stays_rejected_whatever_flakes(bench: Bench) -> None:
    base, patched = [bench.run(BASE)] * 2, [bench.run(BASE)] * 2
    reversed_ = DiagnosticRun(tree="patched", run=bench.run({A: "failed", B: "failed"}, variant=REVERSED))
    judged = bench.judged(base, patched, diagnostics=(reversed_,))
    assert (judged.verdict, judged.codes, len(judged.flakes)) == ("rejected", ("NOTHING_FIXED",), 1)


def test_disagreeing_runs_say_what_explains_them(bench: Bench) -> None:
    other: Outcomes = {**FIXED, B: "failed"}
    standing = [DiagnosticRun(tree="patched", run=bench.run(FIXED, variant=RunVariant(clock=1)))] * 2
    judged = bench.judged([bench.run(BASE)] * 2, [bench.run(FIXED), bench.run(other)], diagnostics=tuple(standing))
    assert judged.codes == ("RUNS_DISAGREE",) and judged.flakes[0].causes == ("time",)
    assert "clock" in judged.message

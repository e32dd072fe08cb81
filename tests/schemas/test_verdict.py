"""The verdict is a pure function of two sets of outcomes and the targets."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.testing import FAILING, Outcomes, TestOutcome
from schemas.verdict import broken_files, judge, judge_recorded, mended_tests, tampered, unproven

_OUTCOME: st.SearchStrategy[TestOutcome] = st.sampled_from(["passed", "failed", "error", "skipped", "xfailed", "xpassed"])
_OUTCOMES = st.dictionaries(st.sampled_from([f"t.py::{name}" for name in "abcdef"]), _OUTCOME)
A, B, C = "t.py::a", "t.py::b", "t.py::c"


@given(_OUTCOMES, _OUTCOMES)
def test_accepted_means_something_was_mended_and_nothing_lost(base: Outcomes, patched: Outcomes) -> None:
    judgement = judge(base, patched)
    passed = {nodeid for nodeid, outcome in base.items() if outcome == "passed"}
    assert set(judgement.pass_to_pass) | set(judgement.lost) == passed
    assert set(judgement.fail_to_pass) | set(judgement.still_failing) == set(judgement.targets)
    if judgement.verdict == "accepted":
        assert judgement.fail_to_pass and not judgement.lost and not judgement.codes
        assert all(patched[nodeid] == "passed" for nodeid in passed | set(judgement.fail_to_pass))
        assert all(base[nodeid] in FAILING for nodeid in judgement.fail_to_pass)
    else:
        assert judgement.verdict == "rejected" and judgement.codes
    assert (judgement.fix == "none") == (not judgement.fail_to_pass)


@given(_OUTCOMES, _OUTCOMES, st.lists(st.sampled_from([A, B, C]), min_size=1))
def test_every_named_target_must_pass(base: Outcomes, patched: Outcomes, targets: list[str]) -> None:
    judgement = judge(base, patched, tuple(targets))
    if judgement.verdict == "accepted":
        assert judgement.fix == "complete"
        assert all(base[nodeid] in FAILING and patched[nodeid] == "passed" for nodeid in targets)


@given(_OUTCOMES, _OUTCOMES, st.lists(st.sampled_from([A, B, C])))
def test_what_was_accepted_is_accepted_again_from_the_record(base: Outcomes, patched: Outcomes, targets: list[str]) -> None:
    judgement = judge(base, patched, tuple(targets))
    if judgement.verdict == "accepted":
        assert judge_recorded(base, patched, judgement.targets) == judgement


@given(_OUTCOMES)
def test_a_tree_that_did_not_change_is_never_a_fix(outcomes: Outcomes) -> None:
    assert judge(outcomes, outcomes).verdict == "rejected"


@pytest.mark.parametrize("now", ["failed", "error", "skipped", "xfailed", "xpassed", None])
def test_only_passed_counts_as_passed(now: TestOutcome | None) -> None:
    patched: Outcomes = {A: "passed"} if now is None else {A: "passed", B: now}
    assert judge({A: "failed", B: "passed"}, patched).codes == ("REG_TEST_LOST",)


def test_a_fix_of_some_is_partial_only_where_none_was_named() -> None:
    base: Outcomes = {A: "failed", B: "failed"}
    patched: Outcomes = {A: "passed", B: "failed"}
    assert judge(base, patched).fix == "partial"
    assert judge(base, patched).verdict == "accepted"
    assert judge(base, patched, (A,)).fix == "complete"
    assert judge(base, patched, (A, B)).codes == ("TARGET_NOT_FIXED",)


BROKEN: Outcomes = {"t.py": "error", "u.py::x": "passed"}


@pytest.mark.parametrize(
    ("patched", "fix"),
    [
        ({A: "passed", B: "skipped", "u.py::x": "passed"}, "complete"),
        ({A: "passed", B: "failed", "u.py::x": "passed"}, "none"),
        ({A: "skipped", "u.py::x": "passed"}, "none"),
        ({"t.py": "error", "u.py::x": "passed"}, "none"),
        ({"t.py": "skipped", "u.py::x": "passed"}, "none"),
        ({"u.py::x": "passed"}, "none"),
    ],
)
def test_a_file_that_could_not_be_collected_is_mended_when_its_tests_pass(patched: Outcomes, fix: str) -> None:
    judgement = judge(BROKEN, patched)
    assert judgement.fix == fix
    assert (judgement.verdict == "accepted") == (fix == "complete")


def test_a_named_test_of_a_file_that_could_not_be_collected_was_failing() -> None:
    assert judge(BROKEN, {A: "passed", B: "failed", "u.py::x": "passed"}, (A,)).verdict == "accepted"
    assert judge(BROKEN, {A: "failed", "u.py::x": "passed"}, (A,)).codes == ("TARGET_NOT_FIXED",)
    assert "TARGET_NOT_FAILING" in judge(BROKEN, {"u.py::x": "passed"}, ("v.py::y",)).codes


@given(_OUTCOMES, _OUTCOMES, st.lists(st.sampled_from([A, B, C])), st.lists(st.sampled_from([A, B, C])))
def test_a_waiver_changes_the_code_of_a_loss_and_nothing_else(
    base: Outcomes, patched: Outcomes, targets: list[str], waived: list[str]
) -> None:
    plain, judgement = judge(base, patched, tuple(targets)), judge(base, patched, tuple(targets), tuple(waived))
    assert (judgement.lost, judgement.fail_to_pass, judgement.fix) == (plain.lost, plain.fail_to_pass, plain.fix)
    assert set(judgement.waived) == set(plain.lost) & set(waived)
    assert set(plain.codes) - set(judgement.codes) <= {"REG_TEST_LOST"}
    assert ("REG_TEST_LOST" in judgement.codes) == bool(set(plain.lost) - set(waived))
    if judgement.verdict == "accepted":
        assert judge_recorded(base, patched, judgement.targets, tuple(waived)) == judgement


@given(_OUTCOMES, _OUTCOMES, _OUTCOMES)
def test_what_passes_in_the_probe_is_unproven(base: Outcomes, patched: Outcomes, probe: Outcomes) -> None:
    judgement = judge(base, patched)
    forged = unproven(judgement, probe)
    assert set(forged) == {nodeid for nodeid in judgement.fail_to_pass if probe.get(nodeid) == "passed"}
    assert unproven(judgement, {}) == ()
    refused = tampered(judgement)
    assert refused.verdict == "rejected" and refused.codes[-1] == "HARNESS_TAMPERED"
    assert set(mended_tests(judgement, patched)) == set(judgement.fail_to_pass)


def test_all_skipped_and_collection_errors_are_no_pass() -> None:
    assert judge({A: "skipped", B: "skipped"}, {A: "passed"}).codes[0] == "ALL_SKIPPED"
    assert "ALL_SKIPPED" in judge({A: "failed"}, {A: "skipped"}).codes
    assert broken_files({"t.py": "error", "s.py": "skipped"}, {"t.py": "error", "s.py": "error", "n": "error", A: "error"}) == (
        "n", "s.py",
    )  # fmt: skip

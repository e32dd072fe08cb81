"""Each metric of the Regression Gate by itself: what is tolerated, what is not, what chance may look like."""

from __future__ import annotations

import random
from collections.abc import Iterable
from fractions import Fraction
from itertools import combinations
from math import comb

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from activities.verify.coverage_metric import changed_lines, compare_coverage
from activities.verify.findings import compare_findings, new_findings
from activities.verify.licences import Distribution, compare_dependencies, compare_licences, is_allowed
from activities.verify.measuring import Measured, PerformanceRules, Regression, Tolerances
from activities.verify.performance import _ways_to_win, compare_benchmark, compare_timings
from activities.verify.size import compare_sizes
from activities.verify.waiving import apply_waivers
from schemas.canonical import sha256_hex
from schemas.regression import Finding, ScannedTree, Severity, Waiver
from schemas.testing import Coverage

RULES = Tolerances.load()


def subjects(measured: Measured | None) -> list[str]:
    assert measured is not None
    return [one.subject for one in measured.regressions]


# --- coverage ---------------------------------------------------------------------------------------------------------


def file(lines: int, covered: int) -> dict[str, list[int]]:
    return {"lines": list(range(1, lines + 1)), "covered": list(range(1, covered + 1))}


def test_less_of_the_tree_is_covered() -> None:
    base: Coverage = {"a.py": file(100, 90), "b.py": file(100, 90)}
    measured = compare_coverage(base, {"a.py": file(100, 90), "b.py": file(100, 60)}, {}, RULES.coverage)
    assert subjects(measured) == ["*"]
    assert "90.00 % (180 of 200 lines), then 75.00 %" in measured.regressions[0].text


def test_changed_files_count_where_the_tree_hides_them() -> None:
    base: Coverage = {"big.py": file(10_000, 10_000), "a.py": file(100, 100)}
    patched: Coverage = {"big.py": file(10_000, 10_000), "a.py": file(100, 80)}
    assert subjects(compare_coverage(base, patched, {"a.py": frozenset()}, RULES.coverage)) == ["*"]
    assert subjects(compare_coverage(base, patched, {}, RULES.coverage)) == []


def test_changed_lines_that_no_test_runs() -> None:
    base: Coverage = {"a.py": file(2_000, 2_000)}
    patched: Coverage = {"a.py": file(2_012, 2_000)}
    new = frozenset(range(2_001, 2_013))
    assert subjects(compare_coverage(base, patched, {"a.py": new}, RULES.coverage)) == ["*"]
    assert subjects(compare_coverage(base, patched, {"a.py": new | frozenset(range(1, 20))}, RULES.coverage)) == []


def test_deleting_tested_code_leaves_nothing_untested() -> None:
    base, patched = {"a.py": file(100, 90)}, {"a.py": file(20, 10)}
    assert subjects(compare_coverage(base, patched, {"a.py": frozenset()}, RULES.coverage)) == []


def test_a_small_guard_without_a_test_is_tolerated() -> None:
    base, patched = {"a.py": file(10, 10)}, {"a.py": file(12, 10)}
    assert subjects(compare_coverage(base, patched, {"a.py": frozenset({11, 12})}, RULES.coverage)) == []


def test_nothing_executable_anywhere() -> None:
    assert subjects(compare_coverage({}, {}, {"README": frozenset()}, RULES.coverage)) == []


lines = st.lists(st.sampled_from([b"a", b"b", b"c", b""]), max_size=12)


@given(lines, lines)
def test_lines_that_did_not_change_are_those_of_base_in_order(before: list[bytes], after: list[bytes]) -> None:
    old, new = (b"".join(line + b"\n" for line in text) for text in (before, after))
    changed = changed_lines(old, new)
    kept = [line for number, line in enumerate(after, start=1) if number not in changed]
    remaining = iter(before)
    assert all(line in remaining for line in kept)
    assert changed_lines(new, new) == frozenset()
    assert changed_lines(None, new) == frozenset(range(1, len(after) + 1))


# --- performance ------------------------------------------------------------------------------------------------------


def noisy(random_: random.Random, times: dict[str, int], runs: int, noise: float) -> list[dict[str, int]]:
    return [{name: round(time * random_.lognormvariate(0, noise)) for name, time in times.items()} for _ in range(runs)]


def test_equally_fast_trees_are_told_apart_no_more_often_than_policy_says() -> None:
    """2,000 comparisons of trees that are equally fast, on a machine that is far too noisy: chance alone fails at most 5 %."""
    source = random.Random(5)
    times = {f"t{number}": 20_000 * (number + 1) for number in range(8)}
    alarms = sum(
        bool(subjects(compare_timings(noisy(source, times, 3, 0.5), noisy(source, times, 3, 0.5), RULES.performance)))
        for _ in range(2_000)
    )
    assert alarms <= 2_000 * 0.05 * 1.25
    alarms = 0
    for _ in range(2_000):
        base, patched = ([round(50_000 * source.lognormvariate(0, 0.5)) for _ in range(5)] for _ in range(2))
        alarms += bool(subjects(compare_benchmark(base, patched, RULES.performance)))
    assert alarms <= 2_000 * 0.05 * 1.25


def test_a_tree_twice_as_slow_is_found() -> None:
    source = random.Random(6)
    times = {f"t{number}": 20_000 for number in range(8)}
    doubled = {name: 2 * time for name, time in times.items()}

    def found(after: dict[str, int]) -> list[str]:
        runs = [noisy(source, tree, 3, 0.05) for tree in (times, after)]
        return subjects(compare_timings(*runs, RULES.performance))

    assert sum(found({**times, "t3": 40_000}) == ["t3"] for _ in range(50)) >= 49
    assert sum("*" in found(doubled) for _ in range(50)) >= 49
    benchmarks = [
        subjects(compare_benchmark([round(50_000 * source.lognormvariate(0, 0.1)) for _ in range(5)],
                                   [round(100_000 * source.lognormvariate(0, 0.1)) for _ in range(5)], RULES.performance))
        for _ in range(50)
    ]  # fmt: skip
    assert sum(bool(one) for one in benchmarks) >= 49


def test_too_few_runs_tell_nothing() -> None:
    fast, slow = {"t": 100_000}, {"t": 900_000}
    assert compare_timings([fast] * 2, [slow] * 2, RULES.performance) is None
    assert compare_timings([fast], [slow], RULES.performance) is None
    assert compare_timings([], [], RULES.performance) is None
    assert compare_timings([fast] * 3, [{}] * 3, RULES.performance) is None
    assert compare_benchmark([1] * 2, [9] * 2, RULES.performance) is None
    assert compare_benchmark([], [9] * 20, RULES.performance) is None


@pytest.mark.parametrize(
    ("was", "now", "worse"),
    [(100_000, 125_000, False), (100_000, 126_000, True), (1_000, 4_000, False), (200_000, 100_000, False)],
)
def test_what_does_not_matter_is_no_regression(was: int, now: int, worse: bool) -> None:
    measured = compare_timings([{"t": was}] * 3, [{"t": now}] * 3, RULES.performance)
    assert subjects(measured) == (["*", "t"] if worse else [])
    assert bool(subjects(compare_benchmark([was] * 5, [now] * 5, RULES.performance))) is worse


def test_another_way_of_sharing_out_the_runs_that_explains_as_much_is_a_doubt() -> None:
    """One test looks slower on the patched tree, another one in runs 1, 2 and 4, by more: chance did at least one of both."""
    base = [{"a": 100_000, "b": 900_000}, {"a": 100_000, "b": 900_000}, {"a": 100_000, "b": 100_000}]
    patched = [{"a": 200_000, "b": 900_000}, {"a": 200_000, "b": 100_000}, {"a": 200_000, "b": 100_000}]
    assert subjects(compare_timings(base, patched, RULES.performance)) == []


@given(st.integers(1, 5), st.integers(1, 5), st.integers(0, 25))
def test_ways_to_win_are_counted_as_by_hand(base: int, patched: int, wins: int) -> None:
    by_hand = sum(_wins(chosen, base + patched) >= wins for chosen in combinations(range(base + patched), patched))
    assert _ways_to_win(wins, base, patched) == by_hand


def _wins(patched: Iterable[int], total: int) -> int:
    """Of ranks 0 … total-1, how many pairs have the patched one above the other."""
    chosen = set(patched)
    return sum(rank not in chosen and other > rank for other in chosen for rank in range(total))


@settings(max_examples=60)
@given(st.lists(st.lists(st.integers(1, 4), min_size=6, max_size=6), min_size=1, max_size=3))
def test_the_test_is_exact(table: list[list[int]]) -> None:
    """Whatever was measured: of all ways to call three of six runs the patched ones, at most a share of alpha is an alarm."""
    rules = PerformanceRules(slower_bp=100, floor_us=1, alpha_bp=1_000)
    alarms = 0
    for chosen in combinations(range(6), 3):
        patched = [{f"t{row}": times[index] for row, times in enumerate(table)} for index in chosen]
        base = [{f"t{row}": times[index] for row, times in enumerate(table)} for index in range(6) if index not in chosen]
        alarms += bool(subjects(compare_timings(base, patched, rules)))
    assert Fraction(alarms, comb(6, 3)) <= Fraction(rules.alpha_bp, 10_000)


# --- security ---------------------------------------------------------------------------------------------------------


def finding(path: str = "a.py", text: str = "eval(x)", severity: Severity = "high", line: int = 1) -> Finding:
    return Finding(
        tool="bandit", rule="B307", severity=severity, path=path, line=line, fingerprint=sha256_hex(f"{path} {text}".encode()),
        content=sha256_hex(text.encode()),
    )  # fmt: skip


def test_new_findings_from_the_severity_of_policy_on() -> None:
    patched = [finding(text="one", severity="low"), finding(text="two", severity="medium"), finding(text="three")]
    measured = compare_findings([], patched, (), RULES.security, RULES.controls)
    assert subjects(measured) == [patched[1].fingerprint, patched[2].fingerprint]


def test_lines_that_move_are_not_new_and_a_second_copy_is() -> None:
    assert new_findings([finding(line=1)], [finding(line=9)]) == []
    assert new_findings([finding("a.py")], [finding("b.py")]) == []
    assert new_findings([finding("a.py")], [finding("a.py"), finding("b.py")]) == [finding("b.py")]
    assert new_findings([finding()], [finding(line=1), finding(line=2)]) == [finding(line=2)]
    assert new_findings([finding(text="x")], [finding(text="y")]) == [finding(text="y")]


@given(st.lists(st.sampled_from([finding(p, t) for p in "ab" for t in "xyz"]), max_size=8).flatmap(
    lambda found: st.tuples(st.just(found), st.permutations(found))))  # fmt: skip
def test_the_same_findings_in_any_order_are_not_new(pair: tuple[list[Finding], list[Finding]]) -> None:
    assert new_findings(*pair) == []


def test_controls_that_are_gone() -> None:
    gone = (".github/workflows/ci.yml", "src/CODEOWNERS", "docs/readme.md", ".Pre-Commit-Config.yaml", "workflows/x.yml")
    measured = compare_findings([], [], gone, RULES.security, RULES.controls)
    assert {(one.code, one.subject) for one in measured.regressions} == {
        ("REG_CONTROL_REMOVED", path) for path in (".github/workflows/ci.yml", "src/CODEOWNERS", ".Pre-Commit-Config.yaml")
    }


# --- dependencies and licences ----------------------------------------------------------------------------------------


def test_older_and_denied_distributions() -> None:
    base = [Distribution("a", "2.0"), Distribution("b", "1.10"), Distribution("c", "1")]
    patched = [Distribution("a", "1.9"), Distribution("b", "1.11"), Distribution("evil", "1")]
    rules = RULES.dependencies.model_copy(update={"denied": ("evil",)})
    measured = compare_dependencies(base, patched, rules)
    assert subjects(measured) == ["evil", "a"]
    assert measured.summary == "new: evil; gone: c; changed: a, b"
    assert subjects(compare_dependencies(base, base, rules)) == []
    assert subjects(compare_dependencies([Distribution("x", "what")], [Distribution("x", "ever")], rules)) == []


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("MIT", True), ("mit license", True), ("Apache-2.0 OR GPL-3.0-only", True), ("GPL-3.0-only", False),
        ("MIT AND GPL-3.0-only", False), ("(MIT OR GPL-2.0-only) AND BSD-3-Clause", True), ("MIT AND", None), ("(MIT", None),
        ("Apache-2.0 WITH LLVM-exception", True), ("GPL-2.0-only WITH Classpath-exception-2.0", False), ("", None),
        ("see file", None),
        ("MIT MIT", None), ("OR", None), ("BSD License", True), ("MIT; and more", None), ("GPLv3", False),
        ("LGPL-2.1-or-later OR MIT OR", None), ("(" * 5_000 + "MIT" + ")" * 5_000, None),
    ],
)  # fmt: skip
def test_licence_texts(text: str, verdict: bool | None) -> None:
    assert is_allowed(text, frozenset(RULES.licences.allowed)) is verdict


@given(st.text(max_size=40) | st.lists(st.sampled_from(["MIT", "GPL", "AND", "or", "(", ")", "WITH"]), max_size=9).map(" ".join))
def test_no_licence_text_breaks_the_reader(text: str) -> None:
    assert is_allowed(text, frozenset({"MIT"})) in (True, False, None)


def test_only_new_licences_count() -> None:
    base = [Distribution("a", "1", "GPL-3.0-only"), Distribution("b", "1", "MIT")]
    patched = [Distribution("a", "2", "GPL-3.0-only"), Distribution("b", "2", "GPL-3.0-only"), Distribution("c", "1", "")]
    assert subjects(compare_licences(base, patched, RULES.licences)) == ["b", "c"]
    assert subjects(compare_licences(base, patched, RULES.licences.model_copy(update={"unknown": True}))) == ["b"]
    assert subjects(compare_licences(base, base, RULES.licences)) == []


# --- size -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("was", "now", "worse"),
    [(10_000_000, 10_900_000, False), (1_000, 200_000, False), (1_000_000, 2_000_000, True), (0, 300_000, True)],
)
def test_growth_beyond_share_and_bytes(was: int, now: int, worse: bool) -> None:
    base, patched = (ScannedTree(findings=None, files=0, size_bytes=size) for size in (was, now))
    assert subjects(compare_sizes(base, patched, RULES.size)) == (["*"] if worse else [])
    assert compare_sizes(None, patched, RULES.size) is None


# --- waivers ----------------------------------------------------------------------------------------------------------

NOW = "2026-06-01T00:00:00Z"
SLOW = Measured("performance", "", (Regression("REG_PERFORMANCE", "t", "t: slow"), Regression("REG_PERFORMANCE", "*", "all")))


def waiver(subject: str = "t", expires_at: str = "2026-06-01T00:00:01Z", id: str = "w", metric: str = "performance") -> Waiver:
    return Waiver.model_validate(
        {"id": id, "metric": metric, "subject": subject, "owner": "alice", "reason": "known", "expires_at": expires_at}
    )


def test_a_waiver_covers_its_metric_and_subject_until_it_ends() -> None:
    done = apply_waivers([SLOW], [waiver(), waiver("*", id="v")], NOW)
    assert (done.open, done.used, done.expired, done.unused) == ((), (waiver(), waiver("*", id="v")), (), ())
    assert done.is_waived(SLOW)


@pytest.mark.parametrize("other", [waiver(metric="coverage"), waiver("x"), waiver("T")])
def test_a_waiver_for_something_else_covers_nothing(other: Waiver) -> None:
    done = apply_waivers([SLOW], [other], NOW)
    assert (len(done.open), done.used, done.unused) == (2, (), (other,))
    assert not done.is_waived(SLOW)


def test_a_star_is_no_wildcard() -> None:
    assert [one.subject for one in apply_waivers([SLOW], [waiver("*")], NOW).open] == ["t"]


@pytest.mark.parametrize("end", [NOW, "2026-05-31T23:59:59Z"])
def test_a_waiver_ends_at_its_time_and_another_one_may_still_hold(end: str) -> None:
    done = apply_waivers([SLOW], [waiver(expires_at=end)], NOW)
    assert ([one.subject for one in done.open], done.expired) == (["t", "*"], (waiver(expires_at=end),))
    both = apply_waivers([SLOW], [waiver(expires_at=end), waiver(id="new")], NOW)
    assert (both.used, both.expired) == ((waiver(id="new"),), ())

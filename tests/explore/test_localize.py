"""Ochiai over spectra, and which files may be suspected at all."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from activities.explore.localize import Spectrum, ochiai, rank
from activities.explore.product import is_product


@pytest.mark.parametrize(
    ("failed", "failing", "passed", "score"),
    [(0, 2, 5, 0.0), (2, 2, 0, 1.0), (1, 2, 0, 1 / math.sqrt(2)), (2, 2, 6, 0.5), (1, 1, 3, 0.5)],
)
def test_the_formula(failed: int, failing: int, passed: int, score: float) -> None:
    assert ochiai(failed, failing, passed) == pytest.approx(score)


@given(st.integers(0, 50), st.integers(0, 50), st.integers(0, 500))
def test_a_score_lies_between_zero_and_one_and_falls_with_passing_tests(failed: int, more: int, passed: int) -> None:
    failing = failed + more
    score = ochiai(failed, failing, passed)
    assert 0.0 <= score <= 1.0
    assert ochiai(failed, failing, passed + 1) <= score


def test_the_line_that_only_failing_tests_run_comes_first() -> None:
    failing = [Spectrum("a", {"p.py": {1, 2}}), Spectrum("b", {"p.py": {2}, "q.py": {7}})]
    suspects = rank(failing, {"p.py": {1: 4}, "q.py": {7: 1}})
    assert [(suspect.path, suspect.line) for suspect in suspects] == [("p.py", 2), ("q.py", 7), ("p.py", 1)]
    assert suspects[0].score == 1.0
    assert suspects[0].covering == (0, 1)
    assert (suspects[1].failed, suspects[1].passed, suspects[1].covering) == (1, 1, (1,))


def test_equal_scores_keep_the_order_of_path_and_line() -> None:
    suspects = rank([Spectrum("a", {"z.py": {3}, "b.py": {9, 1}})], {})
    assert [(suspect.path, suspect.line) for suspect in suspects] == [("b.py", 1), ("b.py", 9), ("z.py", 3)]


def test_lines_of_tests_are_never_suspects() -> None:
    lines = {"tests/test_a.py": {1}, "pkg/conftest.py": {1}, "checks.py": {1}, "pkg/core.py": {1}}
    assert [suspect.path for suspect in rank([Spectrum("a", lines)], {}, frozenset({"checks.py"}))] == ["pkg/core.py"]


@pytest.mark.parametrize(
    "path",
    ["setup.py", "conftest.py", "a/conftest.py", "test_x.py", "x_test.py", "tests/helper.py", "pkg/tests/tests.py",
     "docs/conf.py", "noxfile.py",
     "pkg/data.json", "pkg/core.pyx", "/etc/x.py", "../x.py", "sitecustomize.py", "x.egg-info/y.py"],
)  # fmt: skip
def test_not_product(path: str) -> None:
    assert not is_product(path)


@pytest.mark.parametrize("path", ["pkg/core.py", "src/pkg/deep/a.py", "one.py", "pkg/testament.py", "pkg/latest.py"])
def test_product(path: str) -> None:
    assert is_product(path)

"""``ga:diff:strict`` of two commits: a session of its own, no patch, no bundle."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from schemas.diff import DiffResult
from tests.e2e.harness import git
from tests.workflows.harness import FIXED, LIB, Fabric

Make = Callable[..., Path]


def compare(fabric: Fabric, path: Path, content: bytes, **more: Any) -> DiffResult:
    git(path, "checkout", "-q", "-b", "head")
    (path / LIB).write_bytes(content)
    git(path, "commit", "-q", "-am", "change")
    handle = fabric.start({"repository": str(path), "base": "main", "head": "head", **more}, kind="GaDiff")
    return DiffResult.model_validate(fabric.run(handle.result()))


def test_a_harmless_change_passes(fabric: Fabric, repository: Make) -> None:
    path = repository()
    result = compare(fabric, path, FIXED)
    assert (result.verdict, result.rejection) == ("pass", None)
    assert result.report is not None and "tests" in [metric.name for metric in result.report.metrics]
    assert result.base_commit == git(path, "rev-parse", "main") and result.head_commit == git(path, "rev-parse", "head")


@pytest.mark.parametrize(("content", "code"), [(FIXED + b"# LOSES\n", "REG_TEST_LOST")])
def test_what_got_worse_fails_and_is_named(fabric: Fabric, repository: Make, content: bytes, code: str) -> None:
    result = compare(fabric, repository(), content)
    assert result.verdict == "fail" and result.report is not None and code in result.report.codes


def test_a_slower_benchmark_fails(fabric: Fabric, repository: Make) -> None:
    result = compare(fabric, repository(), FIXED + b"# SLOW\n", benchmark=["python", "bench.py"])
    assert result.verdict == "fail" and result.report is not None and "REG_PERFORMANCE" in result.report.codes


def test_commits_run_in_turn(fabric: Fabric, repository: Make) -> None:
    before = len(fabric.bed.runs)
    compare(fabric, repository(), FIXED + b"# turn\n", runs=2)
    assert [run.purpose for run in fabric.bed.runs[before:]] == ["base", "patched", "base", "patched"]


def test_an_unknown_commit_is_named(fabric: Fabric, repository: Make) -> None:
    handle = fabric.start({"repository": str(repository()), "base": "nowhere"}, kind="GaDiff")
    result = DiffResult.model_validate(fabric.run(handle.result()))
    assert result.verdict == "inconclusive" and result.rejection is not None and result.rejection.codes == ("REF_NOT_FOUND",)

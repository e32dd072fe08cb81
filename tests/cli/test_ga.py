"""``gen4 ga diff`` up to where a fabric is needed, and how it tells its result."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from cli.ga import print_diff
from cli.main import run
from schemas.diff import DiffRequest, DiffResult
from schemas.gates import Check, GateReport, MeasuredMetric, UsedWaiver
from tests.cli.commands import Gen4
from tests.e2e.harness import git, write_repository


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_repository(tmp_path / "clone", {"a.py": "x = 1\n"})
    monkeypatch.chdir(tmp_path / "clone")
    return tmp_path / "clone"


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("main", "nowhere"), "REF_NOT_FOUND"), (("main~1", "HEAD"), "REF_NOT_FOUND"), (("", "HEAD"), "REF_INVALID"),
        (("main", "HEAD", "--benchmark", "python 'x"), "COMMAND_SYNTAX"),
        (("main", "HEAD", "--test", "ls"), "TEST_COMMAND_INVALID"),
        (("main", "HEAD", "--waivers", "absent.json"), "WAIVERS_NOT_FOUND"),
        (("main", "HEAD", "-r", "/"), "REPOSITORY_NOT_FOUND"), (("main", "HEAD", "--limits", "pids=0"), "INVALID_INPUT"),
    ],
)  # fmt: skip
def test_usage_errors_start_nothing(gen4: Gen4, clone: Path, home: Path, arguments: tuple[str, ...], code: str) -> None:
    exit_code, document = gen4("ga", "diff", "--strict", *arguments)
    assert (exit_code, document["error"]["code"]) == (2, code)
    assert document["error"]["remedy"]
    assert not (home / "run" / "fabric.json").exists()


@pytest.mark.parametrize("arguments", [("main",), ("main", "HEAD", "--runs", "1"), ("main", "HEAD", "--runs", "many")])
def test_arguments_that_are_missing_or_out_of_range(home: Path, clone: Path, arguments: tuple[str, ...]) -> None:
    assert run(["ga", "diff", *arguments]) == 2


def test_a_waiver_without_an_end_is_refused(gen4: Gen4, clone: Path) -> None:
    (clone / "waivers.json").write_text('[{"id": "a", "metric": "tests", "subject": "t", "owner": "o", "reason": "r"}]')
    git(clone, "status")
    exit_code, document = gen4("ga", "diff", "main", "HEAD", "--waivers", "waivers.json")
    assert (exit_code, document["error"]["code"]) == (2, "WAIVERS_INVALID")
    assert "expires_at" in document["error"]["message"]


def test_two_waivers_of_one_id_do_not_enter() -> None:
    waiver = {"id": "a", "metric": "size", "subject": "*", "owner": "o", "reason": "r", "expires_at": "2030-01-01T00:00:00Z"}
    asked: dict[str, Any] = {"repository": "/r", "base": "main"}
    with pytest.raises(ValidationError, match="two waivers have one id"):
        DiffRequest.model_validate_json(json.dumps(asked | {"waivers": [waiver, waiver | {"metric": "tests"}]}))
    assert DiffRequest.model_validate_json(json.dumps(asked | {"waivers": [waiver]})).waivers[0].id == "a"


def test_the_table_says_what_failed_what_is_waived_and_what_was_not_measured(capsys: pytest.CaptureFixture[str]) -> None:
    checks = (
        Check(code="REG_TEST_LOST", ok=False, actual="t::a\x1b[31m", remedy="mend it"),
        Check(code="REG_COVERAGE", ok=True, actual="90 %", reason="waived: total"),
        Check(code="REG_PERFORMANCE", ok=False, checked=False, reason="too few runs"),
        Check(code="REG_SIZE", ok=True, actual="1 byte"),
    )
    report = GateReport(
        gate="regression", verdict="fail", checks=checks, metrics=(MeasuredMetric(name="tests", verdict="fail"),),
        waivers=(UsedWaiver(id="w", owner="alice", reason="known", expires_at="2030-01-01T00:00:00Z"),),
    )  # fmt: skip
    print_diff(DiffResult(workflow_id="diff-1", run_id="r", session_id="s", verdict="fail", base_commit="a" * 40, report=report))
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        "fail: aaaaaaaaaaaa → ? (diff-1)", "FAIL REG_TEST_LOST t::a", "→ mend it", "waived REG_COVERAGE 90 %", "waived: total",
        "not measured REG_PERFORMANCE", "too few runs", "pass REG_SIZE 1 byte",
        "waived by alice until 2030-01-01T00:00:00Z (w): known",
    ]  # fmt: skip

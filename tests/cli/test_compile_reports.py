"""What a compile leaves for CI: JUnit, SARIF, a job summary, exit codes; and that foreign text in them steers nothing."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli.ci import commands_stopped
from cli.junit import junit
from cli.reports import Report, place_of, read_report
from cli.sarif import sarif
from cli.summary import summary
from schemas.canonical import jcs
from schemas.error import InfrastructureError
from schemas.evidence import STAMP, TEST_RESULTS
from schemas.rejection import REPORT, RejectedCheck, RejectedTests, RejectionReport
from schemas.request import Rejection, SessionResult
from schemas.session import State
from tests.evidence.workshop import make_workshop

LOST = "tests/test_a.py::test_b[x y]"
HOSTILE = "\x1b[2J::error::x\n##[command]rm\n\u202e<script>|`]]>&\ud800\ufffe"
RESULT = SessionResult(workflow_id="compile-1", run_id="r", session_id="s", state=State.CLOSED)


def rejection(**changes: Any) -> RejectionReport:
    values: dict[str, Any] = {
        "report_id": "rej_" + "0" * 32, "tenant_id": "t", "trace_id": "t", "session_id": "s", "task_id": "t", "candidate_id": "c",
        "repository": "/r", "ref": "main", "base_commit": "a" * 40, "base_tree": "b" * 40, "base_snapshot_sha256": "c" * 64,
        "patch_sha256": "d" * 64, "failed_gate": "regression", "verdict": "rejected", "codes": ("REG_TEST_LOST", "patch.paths"),
        "message": "no", "gates": {"regression": "fail"}, "evidence_refs": (), "next": "revise",
        "checks": (
            RejectedCheck(gate="regression", code="REG_TEST_LOST", reason=LOST, remedy="keep it"),
            RejectedCheck(gate="policy", code="patch.paths", member="ci.yml:3", reason="tier T4", remedy="leave it out"),
        ),
        "tests": RejectedTests(
            fail_to_pass=("tests/t.py::ok",), still_failing=("tests/t.py::no",), lost=(LOST,), pass_to_pass=()
        ),
    }  # fmt: skip
    return RejectionReport(**values | changes)


def refused(tmp_path: Path, **changes: Any) -> Report:
    (tmp_path / REPORT).write_bytes(jcs(rejection(**changes)))
    told = Rejection(stage="regression gate", codes=("REG_TEST_LOST",), message="no", report=str(tmp_path))
    return read_report(RESULT.model_copy(update={"rejection": told}))


def accepted(tmp_path: Path) -> Report:
    files = make_workshop().files
    for name in (STAMP, TEST_RESULTS):
        (tmp_path / name).write_bytes(files[name])
    return read_report(RESULT.model_copy(update={"bundle": str(tmp_path)}))


def parsed(document: bytes) -> ElementTree.Element:
    return ElementTree.fromstring(document)  # noqa: S314  our own output


# --- exit codes --------------------------------------------------------------------------------------------------------


def test_exit_codes_tell_accepted_refused_and_broken_apart(tmp_path: Path) -> None:
    assert refused(tmp_path).exit_code == 1
    assert refused(tmp_path, verdict="irreproducible").exit_code == 1
    assert refused(tmp_path, verdict="infra_error").exit_code == 3
    assert accepted(tmp_path).exit_code == 0
    unsigned = RESULT.model_copy(update={"rejection": Rejection(stage="compile", codes=("PATCH_DOES_NOT_APPLY",), message="no")})
    assert read_report(unsigned).exit_code == 1
    broken = Rejection(stage="compile", codes=("STORE_UNAVAILABLE",), message="no", infrastructure=True)
    assert read_report(RESULT.model_copy(update={"rejection": broken})).exit_code == 3
    stopped = Rejection(stage="compile", codes=("KILL_SWITCH",), message="no")
    assert read_report(RESULT.model_copy(update={"rejection": stopped, "outcome": "failed"})).exit_code == 3
    assert read_report(RESULT.model_copy(update={"rejection": stopped, "outcome": "rejected"})).exit_code == 1


def test_what_all_codes_of_a_refusal_share_is_said_once() -> None:
    told = Rejection(stage="policy review", codes=("POLICY_DENIED", "request.budget"), message="too much", remedy="less")
    checks = read_report(RESULT.model_copy(update={"rejection": told})).refused
    assert [(check.code, check.reason, check.remedy) for check in checks] == [
        ("POLICY_DENIED", "too much", "less"), ("request.budget", "", ""),
    ]  # fmt: skip


@pytest.mark.parametrize("data", [b"", b"{}", b'{"a":1,"a":1}', b"\xff"])
def test_a_report_that_cannot_be_read_is_never_a_pass(tmp_path: Path, data: bytes) -> None:
    (tmp_path / REPORT).write_bytes(data)
    (tmp_path / STAMP).write_bytes(data)
    told = Rejection(stage="x", codes=("X",), message="no", report=str(tmp_path))
    for result in (RESULT.model_copy(update={"rejection": told}), RESULT.model_copy(update={"bundle": str(tmp_path)}), RESULT):
        with pytest.raises(InfrastructureError, match="REPORT_UNREADABLE"):
            read_report(result)


# --- JUnit -------------------------------------------------------------------------------------------------------------


def test_junit_of_a_refused_patch_fails_its_gates_and_its_tests(tmp_path: Path) -> None:
    root = parsed(junit(refused(tmp_path)))
    gates, tests = root.findall("testsuite")
    assert (gates.get("failures"), gates.get("tests")) == ("2", "2")
    assert [case.find("failure").get("type") for case in gates] == ["REG_TEST_LOST", "patch.paths"]  # type: ignore[union-attr]
    found = {case.get("name"): case.find("failure") is not None for case in tests}
    assert found == {"ok": False, "no": True, "test_b[x y]": True}
    assert {case.get("classname") for case in tests} == {"tests.t", "tests.test_a"}


def test_junit_of_an_accepted_patch_has_no_failure(tmp_path: Path) -> None:
    root = parsed(junit(accepted(tmp_path)))
    assert [suite.get("failures") for suite in root] == ["0", "0"]
    assert {case.get("name") for case in root[0]} == {"regression", "determinism", "trust"}
    assert {case.get("name") for case in root[1]} == {"test_add", "test_zero"}


def test_junit_of_a_broken_machine_has_errors_and_no_failures(tmp_path: Path) -> None:
    root = parsed(junit(refused(tmp_path, verdict="infra_error", tests=None, gates={})))
    assert (root[0].get("errors"), root[0].get("failures"), root[1].get("tests")) == ("2", "0", "0")


@given(st.text(max_size=60), st.sampled_from(["passed", "failed", "error", "skipped", "xfailed", "xpassed"]))
def test_junit_is_well_formed_whatever_a_test_is_called(name: str, outcome: Any) -> None:
    check = RejectedCheck(gate="regression", code=name or "X", reason=name + HOSTILE, member=name)
    root = parsed(junit(Report("w", "rejected", refused=(check,), tests={name + HOSTILE: outcome})))
    assert root[1].get("tests") == "1"


# --- SARIF -------------------------------------------------------------------------------------------------------------


def test_sarif_points_at_lost_tests_and_refused_lines(tmp_path: Path) -> None:
    (run,) = sarif(refused(tmp_path), "1.2.3")["runs"]
    found = {result["ruleId"]: result for result in run["results"]}
    place = found["patch.paths"]["locations"][0]["physicalLocation"]
    assert place == {"artifactLocation": {"uri": "ci.yml", "uriBaseId": "%SRCROOT%"}, "region": {"startLine": 3}}
    lost = found["REG_TEST_LOST"]
    assert lost["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] == "tests/test_a.py"
    assert LOST in lost["message"]["text"]
    rules = run["tool"]["driver"]["rules"]
    assert all(rules[result["ruleIndex"]]["id"] == result["ruleId"] for result in run["results"])
    assert run["invocations"] == [{"executionSuccessful": True}]


def test_sarif_of_an_accepted_patch_is_empty(tmp_path: Path) -> None:
    document = sarif(accepted(tmp_path), "1")
    assert document["version"] == "2.1.0" and document["runs"][0]["results"] == []


@pytest.mark.parametrize(
    "text, place",
    [
        ("a/b.py::test[x::y]", ("a/b.py", None)), ("setup.py:12", ("setup.py", 12)), ("tests/data", ("tests/data", None)),
        ("/etc/passwd", None), ("../x.py", None), ("three words.", None), ("determinism", None), ("C:\\x.py", None), ("", None),
    ],
)  # fmt: skip
def test_only_paths_of_the_tree_become_locations(text: str, place: Any) -> None:
    assert place_of(text) == place


# --- summary -----------------------------------------------------------------------------------------------------------


def test_the_summary_says_what_to_do_next(tmp_path: Path) -> None:
    page = summary(refused(tmp_path), "out", None)
    assert page.startswith("## gen4 compile: rejected\n") and "leave it out" in page and LOST in page
    page = summary(accepted(tmp_path), "out dir", "/trust.json")
    assert page.startswith("## gen4 compile: accepted\n") and "gen4 verify 'out dir' --trust /trust.json" in page


@given(st.text(alphabet=st.characters(codec="utf-8"), max_size=80))
def test_foreign_text_means_nothing_in_the_summary(text: str) -> None:
    hostile = text + HOSTILE.encode("utf-8", "replace").decode() + "\n# accepted\n```"
    check = RejectedCheck(gate="policy", code="X", reason=hostile, member=hostile, remedy=hostile)
    page = summary(Report("w", "rejected", refused=(check,), lost=(hostile,), tests={hostile: "failed"}), "", None)
    outside = re.sub(r"^(`{3,}).*?^\1$", "", page, flags=re.DOTALL | re.MULTILINE)
    assert not re.search(r"(?<!\\)[<>`]|\x1b|\u202e", outside) and "\n# accepted" not in outside


# --- build servers -----------------------------------------------------------------------------------------------------


def obeyed(log: str) -> list[str]:
    """The commands that GitHub's runner would take from a log."""
    taken, stopped = [], None
    for line in log.splitlines():
        found = re.fullmatch(r"\s*::([^ :]+)[^:]*::(.*)", line)
        if found and stopped is None and found[1] == "stop-commands":
            stopped = found[2]
        elif found and stopped is not None:
            stopped = None if found[1] == stopped else stopped
        elif found:
            taken.append(line)
    return taken


PRINTING = """
import os, sys
from cli.ci import commands_stopped
with commands_stopped(os.environ):
    print("::error::forged")
    print("::stop-commands::other", file=sys.stderr)
    print("::other::", flush=True)
    print("::set-output name=x::y", flush=True)
    if len(sys.argv) > 1:
        raise SystemExit(3)
print("::notice::of the next program")
"""


@pytest.mark.parametrize("fails", [False, True])
def test_nothing_printed_meanwhile_is_a_command_to_github(fails: bool) -> None:
    argv = [sys.executable, "-c", PRINTING, *["x"] * fails]
    mixed = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    done: subprocess.CompletedProcess[str] = subprocess.run(argv, env={"GITHUB_ACTIONS": "true"}, check=False, **mixed)  # type: ignore[call-overload]
    assert obeyed(done.stdout) == ([] if fails else ["::notice::of the next program"])
    first, last = done.stdout.splitlines()[0], done.stdout.splitlines()[-1 if fails else -2]
    assert last == f"::{first.removeprefix('::stop-commands::')}::", "the token is read again"


def test_tokens_are_never_the_same_and_nothing_is_printed_elsewhere(capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        with commands_stopped({"GITHUB_ACTIONS": "true"}):
            pass
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 4 and lines[0] != lines[2]
    with commands_stopped({"GITLAB_CI": "true"}):
        pass
    assert capsys.readouterr().err == ""

"""``gen4 compile``: what is wrong with a call is said before anything runs, and nothing is written then."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from temporalio.service import RPCError, RPCStatusCode

from activities.evidence.reading import read_stamp
from activities.evidence.seal import attestations_of
from activities.record.home import Home
from cli import compiling
from cli.main import run
from schemas.canonical import jcs
from schemas.error import InputError
from schemas.request import CompileRequest, Rejection, SessionResult
from tests.cli.commands import Gen4
from tests.cli.test_compile_reports import RESULT, rejection
from tests.e2e.harness import git
from tests.evidence.workshop import make_workshop

DIFF = "diff --git a/a.txt b/a.txt\n--- a/a.txt\n+++ b/a.txt\n@@ -1 +1 @@\n-one\n+two\n"
WAIVER = {
    "id": "w-1", "metric": "tests", "subject": "t.py::test", "owner": "ada", "reason": "known",
    "expires_at": "2030-01-01T00:00:00Z",
}  # fmt: skip


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with a patch beside it; the working directory is a folder inside."""
    path = tmp_path / "lib"
    (path / "sub").mkdir(parents=True)
    (path / "a.txt").write_text("one\n")
    git(path, "init", "-q", "-b", "main")
    git(path, "add", "-A")
    git(path, "commit", "-q", "-m", "one")
    (tmp_path / "fix.patch").write_text(DIFF)
    monkeypatch.chdir(path / "sub")
    return tmp_path


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[CompileRequest]:
    """What would be sent; the fabric is not started."""
    requests: list[CompileRequest] = []

    async def take(settings: Any, request: CompileRequest) -> Any:
        requests.append(request)
        raise InputError("STOPPED_HERE", "by the test")

    monkeypatch.setattr(compiling, "_compile", take)
    return requests


@pytest.mark.parametrize(
    "arguments, code",
    [
        ((), "CHANGE_MISSING"), (("--patch", "../../fix.patch", "--head", "HEAD"), "CHANGE_MISSING"),
        (("--patch", "absent"), "PATCH_NOT_FOUND"), (("--head", "absent"), "REF_NOT_FOUND"),
        (("--head", "HEAD"), "REF_NOT_FOUND"), (("--patch", "../../fix.patch", "--base", "absent"), "REF_NOT_FOUND"),
        (("--patch", "../../fix.patch", "--base", "HEAD~1"), "REF_NOT_FOUND"),
        (("--patch", "../../fix.patch", "--test", "make test"), "TEST_COMMAND_INVALID"),
        (("--patch", "../../fix.patch", "--waivers", "../../fix.patch"), "WAIVERS_INVALID"),
        (("--patch", "../../fix.patch", "--waivers", "absent"), "WAIVERS_NOT_FOUND"),
        (("--patch", "../../fix.patch", "--junit", "absent/x.xml"), "OUT_INVALID"),
        (("--patch", "../../fix.patch", "--sarif", "."), "OUT_INVALID"),
        (("--patch", "../../fix.patch", "--failing", ""), "INVALID_INPUT"),
        (("--patch", "../../fix.patch", "--benchmark", "python 'x"), "COMMAND_SYNTAX"),
        (("--head", "HEAD", "-r", "https://example.org/x.git"), "HEAD_NOT_LOCAL"),
    ],
)  # fmt: skip
def test_a_wrong_call_is_a_usage_error_and_writes_nothing(
    place: Path, gen4: Gen4, sent: list[CompileRequest], arguments: tuple[str, ...], code: str
) -> None:
    found, document = gen4("compile", "--out", "../../out", *arguments)
    assert (found, document["error"]["code"]) == (2, code)
    assert not sent and not (place / "out").exists()


@pytest.mark.parametrize("name", ["out", "out.attestations"])
def test_what_exists_is_never_written_over(place: Path, gen4: Gen4, sent: list[CompileRequest], name: str) -> None:
    (place / name).mkdir()
    (place / name / "kept").write_text("mine")
    found, document = gen4("compile", "--out", "../../out", "--patch", "../../fix.patch")
    assert (found, document["error"]["code"]) == (2, "OUT_EXISTS")
    assert (place / name / "kept").read_text() == "mine" and not sent


def test_a_call_inside_a_repository_means_all_of_it(place: Path, gen4: Gen4, sent: list[CompileRequest]) -> None:
    (place / "waivers.json").write_text(json.dumps([WAIVER]))
    gen4(
        "compile", "--out", "../../out", "--patch", "../../fix.patch", "--no-cache", "--frozen-clock",
        "--waivers", "../../waivers.json", "--runs", "3", "--benchmark", "python 'my bench.py'", "--benchmark-runs", "4",
    )  # fmt: skip
    (request,) = sent
    assert (request.runs, request.benchmark, request.benchmark_runs) == (3, ("python", "my bench.py"), 4)
    assert (request.repository, request.ref, request.patch) == (str(place / "lib"), "HEAD", DIFF)
    assert (request.cache, request.frozen_clock, request.waivers[0].owner) == (False, True, "ada")


def test_a_patch_may_come_on_standard_input(
    place: Path, gen4: Gen4, sent: list[CompileRequest], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(DIFF.encode())))
    gen4("compile", "--out", "../../out", "--patch", "-", "--base", "main", "--failing", "t.py::a", "--failing", "t.py::b")
    (request,) = sent
    assert (request.patch, request.ref, request.failing_tests) == (DIFF, "main", ("t.py::a", "t.py::b"))


def test_the_base_of_a_patch_is_sent_by_a_name_that_the_fabric_knows(place: Path, gen4: Gen4, sent: list[CompileRequest]) -> None:
    git(place / "lib", "commit", "-q", "--allow-empty", "-m", "two")
    for number, base in enumerate(("main", "HEAD~1")):
        gen4("compile", "--out", f"../../out-{number}", "--patch", "../../fix.patch", "--base", base)
    assert [request.ref for request in sent] == ["main", git(place / "lib", "rev-parse", "HEAD~1")]


@pytest.mark.parametrize("arguments", [("bogus",), ("compile", "--bogus"), ("ga", "diff", "HEAD"), ("verify",)])
def test_what_the_option_parser_refuses_is_json_too(gen4: Gen4, arguments: tuple[str, ...]) -> None:
    code, document = gen4(*arguments, "--json")
    assert (code, document["error"]["code"]) == (2, "USAGE")


@pytest.mark.parametrize(
    "error", [RPCError("shard status unknown", RPCStatusCode.UNAVAILABLE, b""), OSError(28, "full"), KeyError("x")]
)
def test_what_nobody_foresaw_is_no_verdict(place: Path, gen4: Gen4, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    async def fail(settings: Any, request: CompileRequest) -> Any:
        raise error

    monkeypatch.setattr(compiling, "_compile", fail)
    code, document = gen4("compile", "--out", "../../out", "--patch", "../../fix.patch")
    assert code == 3 and document["error"]["remedy"]


def test_head_is_sent_as_a_patch_on_its_base(place: Path, gen4: Gen4, sent: list[CompileRequest]) -> None:
    base = git(place / "lib", "rev-parse", "HEAD")
    (place / "lib" / "a.txt").write_bytes("zw\xf6lf\n".encode("latin-1"))
    git(place / "lib", "commit", "-q", "-a", "-m", "two")
    gen4("compile", "--out", "../../out", "--head", "HEAD")
    (request,) = sent
    assert request.ref == base and request.patch is None and request.patch_ref is not None


@pytest.mark.parametrize(
    "text",
    [
        "{}", "[1]", json.dumps([WAIVER, WAIVER]), json.dumps([{**WAIVER, "owner": ""}]), json.dumps([{**WAIVER, "more": 1}]),
        json.dumps([{**WAIVER, "expires_at": "2030-02-30T00:00:00Z"}]), '[{"id":"a","id":"b"}]', "[NaN]", "\ufeff[]",
    ],
)  # fmt: skip
def test_waivers_are_read_strictly(place: Path, gen4: Gen4, sent: list[CompileRequest], text: str) -> None:
    (place / "waivers.json").write_text(text)
    found, document = gen4(
        "compile", "--out", "../../out", "--patch", "../../fix.patch", "--waivers", "../../waivers.json"
    )
    assert (found, document["error"]["code"], sent) == (2, "WAIVERS_INVALID", [])


def test_foreign_text_in_an_error_is_no_command(place: Path, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["compile", "--out", "o", "--patch", "x\n::error::forged"]) == 2
    assert not any(line.startswith("::") for line in capsys.readouterr().err.splitlines())


# --- what is written, given what the fabric answers --------------------------------------------------------------------


@pytest.fixture
def answers(place: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[SessionResult], None]:
    def answer(result: SessionResult) -> None:
        async def compiled(settings: Any, request: CompileRequest) -> SessionResult:
            return result

        monkeypatch.setattr(compiling, "_compile", compiled)

    return answer


def bundle(place: Path) -> SessionResult:
    files = make_workshop().files
    folder = place / "sealed"
    folder.mkdir()
    for name, data in files.items():
        (folder / name).write_bytes(data)
    folder.chmod(0o555)
    beside = attestations_of(Home(place / "home").attestations, read_stamp(files["stamp.json"]))
    beside.mkdir(parents=True)
    (beside / "root.layout").write_text("{}")
    return RESULT.model_copy(update={"bundle": str(folder), "trust": "/trust.json"})


OUTPUTS = ("--junit", "../../j.xml", "--sarif", "../../s.sarif", "--summary", "../../s.md")


def test_an_accepted_change_leaves_bundle_attestations_and_reports(
    place: Path, gen4: Gen4, answers: Callable[[SessionResult], None]
) -> None:
    answers(bundle(place))
    code, document = gen4("compile", "--out", "../../out", "--patch", "../../fix.patch", *OUTPUTS)
    assert (code, document["bundle"]) == (0, "../../out")
    assert {path.name for path in (place / "out").iterdir()} == set(make_workshop().files)
    assert [path.name for path in (place / "out.attestations").iterdir()] == ["root.layout"]
    assert json.loads((place / "s.sarif").read_text())["version"] == "2.1.0"
    assert "accepted" in (place / "s.md").read_text() and b"<testsuites" in (place / "j.xml").read_bytes()
    assert not [path for path in place.iterdir() if path.name.startswith(".")], "nothing half-made stays"


def test_a_refused_change_leaves_its_report(
    place: Path, gen4: Gen4, answers: Callable[[SessionResult], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    report = place / "report"
    report.mkdir()
    (report / "rejection.json").write_bytes(jcs(rejection()))
    told = Rejection(stage="regression gate", codes=("REG_TEST_LOST",), message="no", report=str(report))
    answers(RESULT.model_copy(update={"rejection": told}))
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(place / "step.md"))
    (place / "step.md").write_text("before\n")
    code, document = gen4("compile", "--out", "../../out", "--patch", "../../fix.patch", "--summary", "auto")
    assert (code, document["rejection"]["report"]) == (1, "../../out")
    assert [path.name for path in (place / "out").iterdir()] == ["rejection.json"]
    assert (place / "step.md").read_text().startswith("before\n## gen4 compile: rejected")


def test_a_verdict_that_cannot_be_written_is_no_verdict(
    place: Path, gen4: Gen4, answers: Callable[[SessionResult], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    answers(bundle(place))
    monkeypatch.setattr(compiling.shutil, "copytree", full)
    code, document = gen4("compile", "--out", "../../out", "--patch", "../../fix.patch")
    assert (code, document["error"]["code"]) == (3, "OUT_UNWRITABLE") and not (place / "out").exists()
    assert str(place / "sealed") in document["error"]["remedy"]

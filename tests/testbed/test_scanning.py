"""Scans in a real sandbox: what is found, what cannot be hidden, what does not leave it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from activities.testbed.harness import pinned_requirements
from activities.testbed.scanning import SCANNERS, Missing, Scanner
from schemas.capabilities import ScanTree
from schemas.regression import Finding, ScannedTree
from tests.testbed.conftest import LIMITS, Bed, Files

KEY = "AKIA" + "QYLPMN5HHHFPZAM2"
SHELL = "import subprocess\n\n\ndef run(line: str) -> None:\n    subprocess.call(line, shell=True)\n"

Scan = Callable[[Files, Files], tuple[ScannedTree, list[Finding]]]


@pytest.fixture(scope="module")
def scan(bed: Bed, root, backend) -> Scan:  # type: ignore[no-untyped-def]  # fixtures of the folder
    scanner = Scanner(bed.blobs, bed.objects, root, backend)
    scanners = bed.environments.tools(pinned_requirements(SCANNERS), lambda: None)

    def go(base: Files, patched: Files) -> tuple[ScannedTree, list[Finding]]:
        found = scanner.scan(ScanTree(tree=bed.tree(patched), against=bed.tree(base), limits=LIMITS), scanners, lambda: None)
        listed = [] if found.findings is None else bed.blobs.get_json(found.findings)
        return found, [Finding.model_validate(one) for one in listed]

    return go


def test_findings_of_changed_files_only_whatever_the_files_say_about_themselves(scan: Scan) -> None:
    base = {"old.py": SHELL, "app.py": "x = 1\n", "gone.yml": "a", "CODEOWNERS": "* @us", "empty": ""}
    hidden = SHELL.replace("shell=True)", "shell=True)  # nosec")
    patched = {
        "old.py": SHELL, "app.py": hidden, "settings.ini": f"key = {KEY}  # pragma: allowlist secret\n",
        ".bandit": "[bandit]\nskips: B602\n", "broken.py": "def (:\n", "tests/test_app.py": "assert 1\n" + SHELL,
        "-odd name\n.py": SHELL, "CODEOWNERS": "", "empty": "",
    }  # fmt: skip
    result, findings = scan(base, patched)
    assert result.message == "" and result.gone == ("CODEOWNERS", "gone.yml") and result.files == 7
    assert {tool: bool(version) for tool, version in result.tools.items()} == {"bandit": True, "detect-secrets": True}
    strong = {(one.path, one.rule, one.severity, one.line) for one in findings if one.severity != "low"}
    assert strong == {
        ("app.py", "B602", "high", 5), ("-odd name\n.py", "B602", "high", 5), ("settings.ini", "AWS Access Key", "high", 1),
    }  # fmt: skip
    assert result.size_bytes == sum(len(data) for path, data in patched.items() if not path.startswith("tests/"))


def test_what_nobody_looked_at_is_a_finding(scan: Scan) -> None:
    _, findings = scan({}, {"large.py": SHELL + "#" * (4 << 20), "broken.py": "def (:\n", "tests/data.bin": b"\0" * (2 << 20)})
    assert [(one.path, one.rule, one.severity) for one in findings] == [
        ("broken.py", "UNSCANNED", "low"), ("large.py", "UNSCANNED", "medium"),
    ]  # fmt: skip


def test_no_text_of_a_file_is_reported(scan: Scan, bed: Bed) -> None:
    result, findings = scan({}, {"a.py": f'password = "hunter2hunter2"\nKEY = "{KEY}"\n'})
    assert {"B105", "AWS Access Key"} <= {one.rule for one in findings}
    assert result.findings is not None
    stored = bed.blobs.get(result.findings)
    assert b"hunter2" not in stored and KEY.encode() not in stored


def test_a_line_that_moves_keeps_its_fingerprint_and_its_content_in_another_file(scan: Scan) -> None:
    before = {"a.py": SHELL, "b.py": ""}
    _, was = scan({}, before)
    _, moved = scan(before, {"a.py": "# one more line\n" + SHELL.replace("    sub", "        sub"), "b.py": ""})
    _, elsewhere = scan(before, {"a.py": "", "b.py": SHELL})
    [shell, now, other] = [next(one for one in found if one.rule == "B602") for found in (was, moved, elsewhere)]
    assert (shell.fingerprint, shell.line + 1) == (now.fingerprint, now.line)
    assert shell.fingerprint != other.fingerprint and shell.content == other.content


def test_names_that_are_no_text(scan: Scan) -> None:
    result, findings = scan({"gone\udce9": "a"}, {"caf\udce9.py": SHELL})
    assert result.gone == ("gone\\xe9",)
    assert {one.path for one in findings} == {"caf\\xe9.py"}


def test_a_change_of_too_many_files_is_not_scanned_and_says_so(scan: Scan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("activities.testbed.scanning._MOST_FILES", 2)
    result, findings = scan({}, {"a": "1", "b": "2", "c": "3"})
    assert result.findings is None and "3 files of 3 bytes differ, more than the 2 files" in result.message and findings == []
    monkeypatch.setattr("activities.testbed.scanning._MOST_FILES", 3)
    monkeypatch.setattr("activities.testbed.scanning._MOST_BYTES", 3)
    assert scan({}, {"a": "12", "b": "34"})[0].findings is None
    assert scan({}, {"a": "12", "b": "3", "large.bin": "#" * (2 << 20)})[0].findings is not None, "it is not read"


def test_an_index_without_the_scanners_is_no_fault_of_the_tree(bed: Bed, root, backend) -> None:  # type: ignore[no-untyped-def]
    request = ScanTree(tree=bed.tree({"a.py": "x = 1\n"}), against=bed.tree({}), limits=LIMITS)
    result = Scanner(bed.blobs, bed.objects, root, backend).scan(request, Missing("no bandit here"), lambda: None)
    assert (result.findings, result.scanners_missing, result.size_bytes) == (None, True, 6)
    assert "no bandit here" in result.message


def test_scanners_are_pinned_by_hash() -> None:
    lines = [line for line in SCANNERS.read_text().replace("\\\n", " ").splitlines() if not line.startswith("#")]
    assert lines and all("==" in line and "--hash=sha256:" in line and "://" not in line for line in lines)

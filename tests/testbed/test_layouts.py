"""Repositories as they are: monorepos, old encodings, line ends, links, modes, submodules."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from typing import Any

from schemas.testing import Environment, Outcomes, TestRun

Run = Callable[..., tuple[TestRun, Outcomes]]


def test_a_project_below_a_monorepo(outcomes: Run) -> None:
    files = {
        "services/api/src/api/__init__.py": "VALUE = 1\n",
        "services/api/tests/test_api.py": "import api\ndef test_value(): assert api.VALUE == 1\n",
        "services/other/tests/test_other.py": "def test_other(): assert 0\n",
        "services/api/pytest.ini": "[pytest]\npythonpath = src\n",
    }
    _, found = outcomes(files, "pytest", "services/api")
    assert {name.rpartition("/")[2]: outcome for name, outcome in found.items()} == {"test_api.py::test_value": "passed"}
    _, by_path = outcomes(files, "env", "PYTHONPATH=services/api/src", "pytest", "services/api/tests")
    assert list(by_path.values()) == ["passed"]


def test_old_encodings_and_line_ends_stay_as_they_are(outcomes: Run) -> None:
    latin = "# -*- coding: latin-1 -*-\r\nNAME = 'caf\xe9'\r\n".encode("latin-1")
    test = (
        b"# -*- coding: latin-1 -*-\r\nimport names\r\n\r\n\r\ndef test_name():\r\n    assert names.NAME == 'caf\xe9'\r\n"
        b"\r\n\r\ndef test_bytes():\r\n    assert open('names.py', 'rb').read().count(b'\\r\\n') == 2\r\n"
    )
    run, found = outcomes({"names.py": latin, "test_names.py": test, ".gitattributes": "* text eol=lf\n"})
    assert (run.codes, set(found.values())) == ((), {"passed"}) and len(found) == 2


def test_links_modes_and_submodules(bed: Any, plain: Environment) -> None:
    """A submodule is an empty place: its content belongs to another repository, and tests that need it fail."""
    source = """
import os, subprocess, pytest
def test_link(): assert os.readlink("link.txt") == "data/real.txt" and open("link.txt").read() == "real"
def test_folder_link(): assert open("folder/real.txt").read() == "real"
def test_mode(): assert subprocess.run(["./run.sh"], capture_output=True).stdout == b"ran\\n"
def test_plain(): assert not os.access("data/real.txt", os.X_OK)
def test_submodule(): assert os.listdir("vendored")
"""
    tree = bed.tree({"test_a.py": source, "data/real.txt": "real", "run.sh": "#!/bin/sh\necho ran\n"})
    git = ["git", "--git-dir", str(bed.home.objects)]

    def plumbing(*arguments: str, text: str = "") -> str:
        return subprocess.run([*git, *arguments], input=text.encode(), capture_output=True, check=True).stdout.decode().strip()

    entries = plumbing("ls-tree", tree).splitlines()
    entries = [line.replace("100644", "100755") if line.endswith("run.sh") else line for line in entries]
    for name, target in (("link.txt", "data/real.txt"), ("folder", "data")):
        entries.append(f"120000 blob {plumbing('hash-object', '-w', '--stdin', text=target)}\t{name}")
    entries.append(f"160000 commit {'1' * 40}\tvendored")
    run, found = bed.run(plumbing("mktree", "--missing", text="\n".join(entries) + "\n"), plain)
    assert {name.rpartition("::")[2]: outcome for name, outcome in found.items()} == {
        "test_link": "passed", "test_folder_link": "passed", "test_mode": "passed", "test_plain": "passed",
        "test_submodule": "failed",
    }  # fmt: skip
    assert run.codes == ()


def test_all_skipped_and_nothing_but_deselected_are_no_tests_that_passed(outcomes: Run) -> None:
    run, found = outcomes({"test_a.py": "import pytest\npytestmark = pytest.mark.skip\ndef test_a(): pass\n"})
    assert (run.status, run.codes, found) == ("failed", (), {"test_a.py::test_a": "skipped"})
    run, found = outcomes({"test_a.py": "def test_a(): pass\n"}, "pytest", "-k", "nothing")
    assert (run.status, run.codes, found) == ("failed", ("TESTS_NONE_COLLECTED",), {})


def test_an_extension_that_the_tree_would_have_to_compile_is_missed_by_name(outcomes: Run) -> None:
    files = {
        "setup.py": "from setuptools import Extension, setup\nsetup(name='fast', ext_modules=[Extension('fast._c', ['c.c'])])\n",
        "c.c": "int x;\n",
        "fast/__init__.py": "from fast import _c\n",
        "test_fast.py": "import fast\ndef test_a(): pass\n",
    }
    run, found = outcomes(files)
    assert (run.status, found) == ("failed", {"test_fast.py": "error"})

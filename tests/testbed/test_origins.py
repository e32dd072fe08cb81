"""Target and runner never mix: targets that pytest itself uses come from the tree, or the run says that they did not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

Run = Callable[..., tuple[Any, dict[str, str]]]
BROKEN = "MARK = 'tree'\ndef __getattr__(name): raise AttributeError(name)\n"
TEST = "import {name}\ndef test_a():\n    assert {name}.MARK == 'tree'\n    assert {name}.__file__.startswith('/work' + '/')\n"


@pytest.mark.parametrize("layout", ["src/{}/__init__.py", "{}/__init__.py", "{}.py"])
@pytest.mark.parametrize("name", ["iniconfig", "packaging", "pluggy"])
def test_a_module_that_pytest_uses_is_tested_from_the_tree(outcomes: Run, name: str, layout: str) -> None:
    run, found = outcomes({layout.format(name): BROKEN, "tests/test_a.py": TEST.format(name=name)})
    assert (run.status, run.codes, found) == ("passed", (), {"tests/test_a.py::test_a": "passed"})


def test_submodules_of_the_runners_copy_do_not_stay(outcomes: Run) -> None:
    source = "import packaging.version\ndef test_a(): assert packaging.version.MARK == 'tree'\n"
    files = {"packaging/__init__.py": "", "packaging/version.py": "MARK = 'tree'\n", "test_a.py": source}
    run, found = outcomes(files)
    assert (run.codes, found) == ((), {"test_a.py::test_a": "passed"})


def test_a_target_that_is_not_on_the_path_is_no_false_green(outcomes: Run) -> None:
    files = {
        "src/packaging/__init__.py": "raise RuntimeError('broken')\n",
        "tests/test_a.py": "import packaging\ndef test_a(): assert packaging.__version__\n",
    }
    run, found = outcomes(files, "env", "PYTHONPATH=tests", "pytest")
    assert found == {"tests/test_a.py::test_a": "passed"}
    assert (run.status, run.codes) == ("failed", ("MODULES_OUTSIDE_TREE",))
    assert "packaging" in run.message


def test_a_test_that_swaps_the_target_for_the_installed_one_is_found_out(outcomes: Run) -> None:
    source = """
import sys
sys.path.insert(0, "/env")
sys.modules.pop("iniconfig", None)
import iniconfig
def test_a(): assert iniconfig.IniConfig
"""
    run, _ = outcomes({"iniconfig/__init__.py": "raise RuntimeError\n", "test_a.py": source})
    assert "MODULES_OUTSIDE_TREE" in run.codes


def test_a_target_that_is_pytest_itself_is_refused(outcomes: Run) -> None:
    run, _ = outcomes({"src/_pytest/__init__.py": "", "src/pytest/__init__.py": "", "test_a.py": "def test_a(): pass\n"})
    assert "MODULES_OUTSIDE_TREE" in run.codes


def test_a_file_named_like_a_stdlib_module_replaces_nothing_of_the_runner(outcomes: Run) -> None:
    files = {
        "json.py": "raise RuntimeError\n",
        "trace.py": "",
        "test_a.py": "import json\ndef test_a(): assert json.loads('1')\n",
    }
    run, found = outcomes(files)
    assert (run.codes, found) == ((), {"test_a.py::test_a": "passed"})


def test_modules_of_the_target_may_be_named_like_the_runners(outcomes: Run) -> None:
    names = ("main", "host", "child", "target", "results", "reporting", "unpack", "build", "facts")
    files = {f"{name}.py": "MARK = 'tree'\n" for name in names}
    files |= {"tests/__init__.py": "MARK = 'tree'\n"}
    files["tests/test_a.py"] = f"import tests, {', '.join(names)}\ndef test_a(): assert {{tests.MARK, host.MARK}} == {{'tree'}}\n"
    run, found = outcomes(files)
    assert (run.codes, found) == ((), {"tests/test_a.py::test_a": "passed"})


def test_an_entry_point_in_the_tree_is_no_plugin(outcomes: Run) -> None:
    files = {
        "evil.egg-info/PKG-INFO": "Metadata-Version: 2.1\nName: evil\nVersion: 1\n",
        "evil.egg-info/entry_points.txt": "[pytest11]\nevil = evil\n",
        "evil.py": "import os\nos._exit(0)\n",
        "test_a.py": "def test_a(): pass\n",
    }
    run, found = outcomes(files)
    assert (run.status, found) == ("passed", {"test_a.py::test_a": "passed"})

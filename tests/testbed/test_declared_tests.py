"""Names that a project's own configuration gives to its tests."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from activities.testbed.declared_tests import declared_tests

FILES = ("pytest.ini", ".pytest.ini", "pytest.toml", "tox.ini", "setup.cfg", "pyproject.toml")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("pytest.ini", "[pytest]\npython_files = check_*.py *_spec.py\n"),
        (".pytest.ini", "[pytest]\npython_files =\n    check_*.py\n    *_spec.py\n"),
        ("tox.ini", "[pytest]\npython_files = check_*.py\n  *_spec.py\n"),
        ("setup.cfg", "[tool:pytest]\npython_files = check_*.py *_spec.py\n"),
        ("pyproject.toml", "[tool.pytest.ini_options]\npython_files = ['check_*.py', '*_spec.py']\n"),
        ("pyproject.toml", "[tool.pytest]\npython_files = ['check_*.py', '*_spec.py']\n"),
        ("pytest.toml", "[pytest]\npython_files = 'check_*.py *_spec.py'\n"),
    ],
)
def test_each_place_of_configuration(name: str, text: str) -> None:
    declared = declared_tests({name: text.encode()}.get)
    assert "specs/check_a.py" in declared and "a_spec.py" in declared
    assert "src/calc.py" not in declared and "src/check_a.txt" not in declared


@pytest.mark.parametrize("pattern", ["*.py", "*", "?*.py", "*/*.py", "src/*.py", "[a-z]*.py"])
def test_a_pattern_that_any_module_matches_restores_nothing(pattern: str) -> None:
    declared = declared_tests({"pytest.ini": f"[pytest]\npython_files = {pattern}\n".encode()}.get)
    assert "src/calc.py" not in declared


def test_a_pattern_with_a_folder() -> None:
    declared = declared_tests({"pytest.ini": b"[pytest]\npython_files = specs/check_*.py\n"}.get)
    assert "specs/check_a.py" in declared and "deep/specs/check_a.py" in declared and "src/check_a.py" not in declared


@given(st.sampled_from(FILES), st.binary(max_size=200) | st.text(max_size=120).map(lambda text: f"[pytest]\n{text}".encode()))
def test_any_bytes_are_read(name: str, data: bytes) -> None:
    assert "src/calc.py" not in declared_tests({name: data}.get) or b"python_files" in data

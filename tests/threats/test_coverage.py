"""docs/threats.md names code and tests that exist, and each of its sections has a test."""

from __future__ import annotations

import ast
import functools
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "threats.md").read_text()
SECTIONS = {
    title.split()[0]: body
    for title, body in re.findall(r"(?ms)^### (\d+\.\d+ .*?)\n(.*?)(?=^### |^## |\Z)", PAGE)
}
TESTS = sorted(set(re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", PAGE)))
MET = (
    *("1.1", "1.2", "1.3", "1.4", "2.1", "2.2", "2.3", "2.4", "2.5", "3.1", "3.2", "3.3", "3.4", "3.5", "4.1", "4.2", "4.3"),
    "1.5", "5.1",
    *("4.4", "5.2", "5.4", "5.5", "6.1", "6.2", "6.3", "6.6", "6.7", "6.10", "7.1", "7.2", "7.3", "7.4", "7.5", "7.6", "7.7"),
    "7.8",
)


@functools.cache
def names_in(path: str) -> frozenset[str]:
    """Names of the test functions of a file, read without running it."""
    tree = ast.parse((ROOT / path).read_text())
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, kinds) and node.name.startswith("test_"))


@pytest.mark.parametrize("test", TESTS, ids="::".join)
def test_each_named_test_exists(test: tuple[str, str]) -> None:
    path, name = test
    assert (ROOT / path).is_file(), path
    assert name in names_in(path)


@pytest.mark.parametrize("number", MET)
def test_each_threat_has_code_a_test_and_a_word_on_what_is_left(number: str) -> None:
    body = SECTIONS[number]
    code, _, rest = body.partition("*Tests.*")
    tests, _, left = rest.partition("*Left over.*")
    assert "*Code.*" in code and left.strip()
    assert re.findall(r"`tests/[\w/]+\.py::\w+`", tests), "no test"
    paths = re.findall(r"`((?:activities|cli|policies|schemas|workers|workflows)/[\w/.]+)`", code)
    assert paths, "no code"
    for path in paths:
        assert (ROOT / path).exists(), path


def test_no_name_on_the_page_is_cut_off() -> None:
    assert PAGE.count("::test_") == len(re.findall(r"`tests/[\w/]+\.py::test_\w+`", PAGE))

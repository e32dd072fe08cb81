"""The list of known ways round the gate names tests that exist, and leaves out no class that the project knows."""

from __future__ import annotations

import ast
import functools
from pathlib import Path

import pytest

from tests.escape.coverage import CLASSES, NOT_YET

ROOT = Path(__file__).resolve().parents[2]
TESTS = sorted({test for tests in CLASSES.values() for test in tests})


@functools.cache
def names_in(path: str) -> frozenset[str]:
    tree = ast.parse((ROOT / path).read_text())
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)))


@pytest.mark.parametrize("test", TESTS)
def test_each_named_test_exists(test: str) -> None:
    path, _, name = test.partition("::")
    assert (ROOT / path).is_file(), path
    assert name.startswith("test_") and name in names_in(path)


def test_each_class_has_a_test_or_says_why_there_is_none() -> None:
    assert all(CLASSES.values()) and all(NOT_YET.values())
    assert CLASSES.keys() & NOT_YET.keys() == set()
    assert len(CLASSES) + len(NOT_YET) >= 30


def test_every_bypass_test_belongs_to_a_class() -> None:
    """A test of this folder that no class names is forgotten when somebody asks what is covered."""
    named = {test.partition("::")[2] for test in TESTS}
    mine = {f"tests/escape/{name}.py" for name in ("test_bypasses", "test_direct_calls")}
    assert {name for path in mine for name in names_in(path) if name.startswith("test_")} - named == set()

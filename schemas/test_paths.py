"""Which paths of a repository are tests, and which decide how tests run (threats 4.1). Pure."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

_TEST_FOLDERS = frozenset({"test", "tests", "__tests__"})
_JAVASCRIPT_TEST = re.compile(r"(?:test|.*[._-](?:test|spec))\.[cm]?[jt]sx?|test-.*\.[cm]?[jt]s")
"""Node's own patterns, and the customary ``spec``."""
_CONFIGURATION = frozenset({
    "conftest.py", "pytest.ini", ".pytest.ini", "pytest.toml", ".pytest.toml", "tox.ini", "setup.cfg", "pyproject.toml",
    ".coveragerc", "sitecustomize.py", "usercustomize.py", "package.json", ".npmrc", ".node-version",
})  # fmt: skip
_METADATA_SUFFIXES = (".egg-info", ".dist-info")
_GLOB_PART = re.compile(r"\*\*/|\*+|\[[^]/]+\]|.", re.DOTALL)
_GLOB = {"**/": "(?:[^/]+/)*", "*": "[^/]*", "?": "[^/]"}
_ALTERNATIVES = {"{": "(?:", ",": "|", "}": ")"}


def _parts(path: str) -> list[str]:
    # File systems exist that take these for the same name; so does this table.
    return [unicodedata.normalize("NFC", part).casefold() for part in path.split("/")]


def is_test_configuration(path: str) -> bool:
    """Files that change how every test runs: pytest's own, start-up hooks, entry points that load plugins, and packages that
    would stand in front of those of the package lock."""
    parts = _parts(path)
    if parts[-1] in _CONFIGURATION or parts[-1].endswith(".pth"):
        return True
    return any(part == "node_modules" or part.endswith(_METADATA_SUFFIXES) for part in parts)


def is_test_path(path: str) -> bool:
    """Test modules by pytest's and Node's naming, and everything under a folder called ``test`` or ``tests``."""
    *folders, name = _parts(path)
    if any(folder in _TEST_FOLDERS for folder in folders):
        return True
    if _JAVASCRIPT_TEST.fullmatch(name):
        return True
    return name.endswith(".py") and (name.startswith("test_") or name.endswith("_test.py"))


def is_named(path: str, globs: Iterable[str]) -> bool:
    """Whether one of ``globs`` stands for ``path``, as Node reads them: ``**/`` is any folder or none, braces hold alternatives.

    A class of several characters stands for every character: what is a test too many is as base has it.
    """
    return any(re.fullmatch(_expression(glob), path, re.DOTALL) for glob in globs)


def _expression(glob: str) -> str:
    """The regular expression of a glob; braces without their match are plain characters."""
    found, open_braces = "", 0
    for part in _GLOB_PART.findall(glob):
        open_braces += (part == "{") - (part == "}")
        if open_braces < 0:
            break
        if part in _ALTERNATIVES and (open_braces or part == "}"):
            found += _ALTERNATIVES[part]
        elif len(part) > 2 and part.startswith("["):
            found += re.escape(part[1]) if len(part) == 3 else _GLOB["?"]
        else:
            found += _GLOB.get(part, ".*" if part.startswith("**") else re.escape(part))
    return found if open_braces == 0 else re.escape(glob)


def restored_from_base(changed: Iterable[str], base: Iterable[str]) -> tuple[str, ...]:
    """Of the ``changed`` paths, those that must be as in ``base`` when a patch is judged: tests and test configuration
    that base has, and configuration that base does not have (it must not exist). New test files stay."""
    existing = set(base)
    return tuple(
        sorted(path for path in set(changed) if is_test_configuration(path) or (path in existing and is_test_path(path)))
    )

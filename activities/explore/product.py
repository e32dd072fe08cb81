"""Which files of a tree are product code: the only ones that the engine edits (threats 3.4)."""

from __future__ import annotations

from pathlib import PurePosixPath

_TEST_FOLDERS = frozenset({"test", "tests", "testing", "__tests__"})
_TOOL_FILES = frozenset(
    {"conftest.py", "setup.py", "noxfile.py", "tasks.py", "fabfile.py", "sitecustomize.py", "usercustomize.py", "conf.py"}
)
_TOOL_FOLDERS = frozenset(
    {".git", ".github", ".tox", ".nox", "docs", "doc", "examples", "benchmarks", "node_modules", "site-packages"}
)


def is_product(path: str, test_files: frozenset[str] = frozenset()) -> bool:
    """``test_files``: files that pytest collected, wherever they lie."""
    pure = PurePosixPath(path)
    folders = pure.parts[:-1]
    name = pure.name
    if pure.suffix != ".py" or path in test_files or pure.is_absolute() or ".." in folders:
        return False
    if name.startswith("test_") or name.endswith("_test.py") or name in _TOOL_FILES:
        return False
    return not any(part in _TEST_FOLDERS or part.endswith(".egg-info") for part in folders) and not (
        folders and folders[0] in _TOOL_FOLDERS
    )


def files_of(nodeids: tuple[str, ...] | list[str]) -> frozenset[str]:
    """The test files that ids name."""
    return frozenset(nodeid.partition("::")[0] for nodeid in nodeids)

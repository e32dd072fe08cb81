"""Which files of a tree are JavaScript or TypeScript, which of those are tests, and which of their lines count as code."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

from .executable import MAX_FILES, spans

_SUFFIX = re.compile(r".*\.[cm]?[jt]s", re.DOTALL)
_TEST = re.compile(r"(?:test|.*[._-](?:test|spec))\.[cm]?[jt]s|test-.*\.[cm]?[jt]s", re.DOTALL)
_TEST_FOLDERS = frozenset({"test", "tests", "__tests__"})
_MAX_SOURCE = 4 * 1024 * 1024
_NO_CODE = re.compile(r"[\s\[\]{}();,]*(?://.*)?", re.DOTALL)


def is_product(path: str) -> bool:
    """Files whose coverage counts."""
    *folders, name = path.casefold().split("/")
    if not _SUFFIX.fullmatch(name) or name.endswith((".d.ts", ".d.mts", ".d.cts")) or _TEST.fullmatch(name):
        return False
    return not any(folder in _TEST_FOLDERS or folder in ("node_modules", "..") for folder in folders)


def is_test(path: str) -> bool:
    """What else may hold tests."""
    return _SUFFIX.fullmatch(path.casefold()) is not None and not is_product(path)


def code_lines(work: str) -> dict[str, str]:
    """By path the lines, as :func:`spans`, that hold more than brackets and comments.

    An approximation, since nothing here parses JavaScript; it is the same for the same text, so trees can be compared.
    """
    found: dict[str, str] = {}
    for path, full in _files(work):
        if is_product(path) and os.path.getsize(full) <= _MAX_SOURCE and len(found) < MAX_FILES:
            try:
                path.encode()
                with open(full, encoding="utf-8-sig", newline="\n") as file:
                    found[path] = spans(_lines(file.read()))
            except ValueError:
                continue  # not UTF-8: Node does not load it as it is
    return found


def _files(work: str) -> Iterator[tuple[str, str]]:
    for folder, folders, names in os.walk(work):
        folders[:] = sorted(name for name in folders if name not in ("node_modules", ".git"))
        for name in sorted(names):
            full = os.path.join(folder, name)
            if not os.path.islink(full) and os.path.isfile(full):
                yield os.path.relpath(full, work), full


def _lines(text: str) -> Iterator[int]:
    in_comment = False
    for number, line in enumerate(text.split("\n"), start=1):
        if not in_comment and line.lstrip().startswith("/*"):
            in_comment, line = True, line.lstrip()[2:]
        if in_comment:
            _, end, line = line.partition("*/")
            in_comment = not end
        if not in_comment and not _NO_CODE.fullmatch(line) and not (number == 1 and line.startswith("#!")):
            yield number

"""Which lines of a tree's files can run at all, found before any code of the tree does."""

from __future__ import annotations

import json
import os
import select
import signal
import time
import warnings
from collections.abc import Iterable, Iterator
from types import CodeType

MAX_FILES = 20_000
_MAX_SOURCE = 4 * 1024 * 1024
_TEST_FOLDERS = frozenset({"test", "tests", "__tests__"})


def is_measured(path: str) -> bool:
    """Python files that are no tests."""
    *folders, name = path.split("/")
    if not name.endswith(".py") or name == "conftest.py" or any(folder.casefold() in _TEST_FOLDERS for folder in folders):
        return False
    return not name.startswith("test_") and not name.endswith("_test.py") and ".." not in folders


def spans(lines: Iterable[int]) -> str:
    """``1-3,7``: short, and the same for the same lines."""
    found: list[list[int]] = []
    for line in sorted(lines):
        if found and line == found[-1][1] + 1:
            found[-1][1] = line
        else:
            found.append([line, line])
    return ",".join(f"{first}-{last}" if last > first else str(first) for first, last in found)


def lines_of(text: str, most: int = 10_000_000) -> set[int]:
    """The lines of a text by :func:`spans`. Raises ValueError for any other, and for a line above ``most``."""
    found: set[int] = set()
    for part in text.split(",") if text else ():
        first, dash, last = part.partition("-")
        start, end = int(first), int(last if dash else first)
        if not 1 <= start <= end <= most:
            raise ValueError("no lines of a file")
        found.update(range(start, end + 1))
    return found


def executable_lines(work: str, patience_s: float) -> dict[str, str] | None:
    """By path the lines, as :func:`spans`, that have code; None when the compiler did not survive the tree's sources."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(reading)
            with os.fdopen(writing, "wb") as out:
                out.write(json.dumps(dict(_all(work))).encode())
        finally:
            os._exit(0)
    os.close(writing)
    try:
        return _read(reading, time.monotonic() + patience_s)
    finally:
        os.close(reading)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def _read(descriptor: int, deadline: float) -> dict[str, str] | None:
    data = bytearray()
    while select.select([descriptor], [], [], max(deadline - time.monotonic(), 0))[0]:
        if not (chunk := os.read(descriptor, 1 << 16)):
            try:
                return dict(json.loads(data))
            except ValueError:
                return None
        data += chunk
    return None


def _all(work: str) -> Iterator[tuple[str, str]]:
    warnings.simplefilter("ignore")
    count = 0
    for folder, folders, files in os.walk(work):
        folders.sort()
        for name in sorted(files):
            full = os.path.join(folder, name)
            path = os.path.relpath(full, work)
            if not is_measured(path) or os.path.islink(full) or os.path.getsize(full) > _MAX_SOURCE:
                continue
            try:
                path.encode()
                with open(full, "rb") as file:
                    code = compile(file.read(), full, "exec", dont_inherit=True)
            except (SyntaxError, ValueError, RecursionError, MemoryError):
                continue  # has no lines that could run
            count += 1
            if count > MAX_FILES:
                return
            yield path, spans(_lines(code))


def _lines(code: CodeType) -> set[int]:
    found: set[int] = set()
    left = [code]
    while left:
        code = left.pop()
        found.update(line for _, _, line in code.co_lines() if line)
        left.extend(constant for constant in code.co_consts if isinstance(constant, CodeType))
    return found

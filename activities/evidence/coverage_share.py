"""How much of the patched tree its tests ran, from line coverage and the patch. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator

from pydantic import TypeAdapter

from schemas.canonical import strict_json
from schemas.error import Refused
from schemas.evidence import CoverageShare
from schemas.testing import Coverage

_COVERAGE: TypeAdapter[Coverage] = TypeAdapter(Coverage)
_HUNK = re.compile(rb"@@ -[0-9]+(?:,[0-9]+)? \+([0-9]+)(?:,([0-9]+))? @@")


def coverage_share(coverage: Coverage, diff: bytes) -> CoverageShare | None:
    """In basis points, rounded down; None where nothing is executable.

    Args:
        diff: git's diff with full ids, as ``diff.patch`` has it.
    """
    lines = {(path, line) for path, found in coverage.items() for line in found["lines"]}
    covered = {(path, line) for path, found in coverage.items() for line in found["covered"]} & lines
    if not lines:
        return None
    changed = lines & set(added_lines(diff))
    return CoverageShare(
        lines_bp=len(covered) * 10_000 // len(lines),
        changed_lines_bp=len(covered & changed) * 10_000 // len(changed) if changed else None,
    )


def read_coverage(data: bytes) -> Coverage:
    """Raises Refused COVERAGE_INVALID."""
    try:
        return _COVERAGE.validate_python(strict_json(data))
    except ValueError as error:
        raise Refused("COVERAGE_INVALID", "what a run measured does not fit its model", "run the tests again") from error


def added_lines(diff: bytes) -> Iterator[tuple[str, int]]:
    """Path and number of every line that the diff adds. Paths that git had to quote are left out."""
    path, number, left = "", 0, 0
    for line in diff.split(b"\n"):
        if left == 0 and line.startswith(b"+++ "):
            path = line[6:].rstrip(b"\t").decode("utf-8", "replace") if line.startswith(b"+++ b/") else ""
        elif left == 0 and (hunk := _HUNK.match(line)):
            number, left = int(hunk[1]), int(hunk[2] or 1)
        elif left and line[:1] in (b"+", b" "):
            if line[:1] == b"+" and path:
                yield path, number
            number, left = number + 1, left - 1

"""Coverage before and after: of the whole tree, of the changed files, and of the changed lines themselves."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from activities.verify.measuring import WHOLE, CoverageRules, Measured, Regression, per_cent
from schemas.testing import Coverage

ChangedLines = Mapping[str, frozenset[int]]
"""Path to the numbers of its lines that are new or changed; a changed file without any is there, too."""
_MOST_LINES = 20_000


@dataclass(frozen=True)
class _Share:
    covered: int
    lines: int

    @property
    def basis_points(self) -> int:
        return self.covered * 10_000 // self.lines if self.lines else 10_000

    @property
    def missing(self) -> int:
        return self.lines - self.covered

    def __str__(self) -> str:
        return f"{per_cent(self.basis_points)} ({self.covered} of {self.lines} lines)"


def compare_coverage(base: Coverage, patched: Coverage, changed: ChangedLines, rules: CoverageRules) -> Measured:
    """Share *and* count must be worse: deleting tested code lowers the share without leaving anything untested."""
    total = _share(base, base), _share(patched, patched)
    files = _share(base, changed), _share(patched, changed)
    lines = _lines_share(patched, changed)
    found: list[str] = []
    for name, (was, is_now), tolerated in (("total", total, rules.total_bp), ("changed files", files, rules.changed_files_bp)):
        drop = was.basis_points - is_now.basis_points
        if drop > tolerated and is_now.missing - was.missing > rules.spare_lines:
            found.append(f"{name}: {was}, then {is_now}")
    if lines.missing > rules.spare_lines and 10_000 - lines.basis_points > rules.changed_lines_bp:
        found.append(f"changed lines: {lines}")
    summary = f"total {total[0]}, then {total[1]}; changed files {files[0]}, then {files[1]}; changed lines {lines}"
    return Measured("coverage", summary, tuple(Regression("REG_COVERAGE", WHOLE, text) for text in found))


def changed_lines(before: bytes | None, after: bytes) -> frozenset[int]:
    """Numbers of the lines of ``after`` that ``before`` does not have there; all of a file that is new or too long to compare."""
    old, new = (before or b"").splitlines(), after.splitlines()
    shorter = min(len(old), len(new))
    head = next((index for index in range(shorter) if old[index] != new[index]), shorter)
    tail = next((index for index in range(shorter - head) if old[-1 - index] != new[-1 - index]), shorter - head)
    middle = range(head, len(new) - tail)
    if before is None or len(old) + len(new) > _MOST_LINES:
        return frozenset(number + 1 for number in middle)
    matcher = difflib.SequenceMatcher(None, old[head : len(old) - tail], new[head : len(new) - tail])
    kept = {head + number for block in matcher.get_matching_blocks() for number in range(block.b, block.b + block.size)}
    return frozenset(number + 1 for number in middle if number not in kept)


def _share(coverage: Coverage, paths: Iterable[str]) -> _Share:
    files = [coverage[path] for path in paths if path in coverage]
    return _Share(sum(len(_covered(file)) for file in files), sum(len(set(file["lines"])) for file in files))


def _lines_share(coverage: Coverage, changed: ChangedLines) -> _Share:
    lines = [(_covered(coverage[path]) & numbers, set(coverage[path]["lines"]) & numbers)
             for path, numbers in changed.items() if path in coverage]  # fmt: skip
    return _Share(sum(len(covered) for covered, _ in lines), sum(len(executable) for _, executable in lines))


def _covered(file: Mapping[str, list[int]]) -> set[int]:
    return set(file["covered"]) & set(file["lines"])

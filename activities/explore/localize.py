"""Spectrum-based localisation: Ochiai over the lines that failing and passing tests run (explore-verify §3)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass

from activities.explore.product import is_product
from schemas.candidate import Suspect

Lines = Mapping[str, Set[int]]
"""Line numbers by path."""


@dataclass(frozen=True)
class Spectrum:
    """What one failing test runs."""

    nodeid: str
    lines: Lines


def ochiai(failed: int, failing_tests: int, passed: int) -> float:
    """``ef / sqrt((ef + nf) * (ef + ep))`` where ef + nf is the number of failing tests; 0 for a line that none of them runs."""
    if failed == 0:
        return 0.0
    return failed / math.sqrt(failing_tests * (failed + passed))


def rank(
    failing: Sequence[Spectrum], passing: Mapping[str, Mapping[int, int]], test_files: frozenset[str] = frozenset()
) -> list[Suspect]:
    """Suspicious lines of product files, best first; equal ones in the order of path and line.

    Args:
        failing: one spectrum for each failing test; ``Suspect.covering`` are positions in it.
        passing: how many passing tests run a line, by path.
        test_files: files that hold tests; never suspects.
    """
    covering: dict[tuple[str, int], list[int]] = {}
    for position, spectrum in enumerate(failing):
        for path, lines in spectrum.lines.items():
            if is_product(path, test_files):
                for line in lines:
                    covering.setdefault((path, line), []).append(position)
    suspects = []
    for (path, line), tests in covering.items():
        passed = passing.get(path, {}).get(line, 0)
        score = round(ochiai(len(tests), len(failing), passed), 6)
        suspects.append(Suspect(path=path, line=line, score=score, failed=len(tests), passed=passed, covering=tuple(tests)))
    return sorted(suspects, key=lambda suspect: (-suspect.score, suspect.path, suspect.line))

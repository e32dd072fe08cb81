"""Did anything get slower? Exact tests on repeated timings; never one timing, never a guess from too few.

Both tests ask: if base and patched tree were equally fast, how often would chance share the runs out between them so that
the patched ones look this slow? That holds for runs that took turns, because then nothing but the tree sets them apart. A
machine that is busy for a while makes all runs of that while slow, whatever tree they are of.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from statistics import median

from activities.verify.measuring import WHOLE, Measured, PerformanceRules, Regression, per_cent

Timings = Mapping[str, int]
"""Test id to microseconds."""


def compare_timings(base: Sequence[Timings], patched: Sequence[Timings], rules: PerformanceRules) -> Measured | None:
    """Tests that take longer in *every* patched run than in any base run, and all tests together. None: too few runs to tell.

    Many tests are looked at, so chance has many tries. Each test is parted by one way of sharing out the runs, the one that
    puts its slowest ones together; how often chance does as well as a given gap is the number of ways that part some test by
    as much, among all ways there are.
    """
    ways = math.comb(len(base) + len(patched), len(base))
    if not _can_tell(1, ways, rules) or not (tests := frozenset.intersection(*(frozenset(run) for run in (*base, *patched)))):
        return None
    series = {test: _Series([run[test] for run in base], [run[test] for run in patched]) for test in tests}
    series[WHOLE] = _Series([_total(run, tests) for run in base], [_total(run, tests) for run in patched])
    gaps = sorted(((gap, name) for name, one in series.items() if (gap := one.gap(rules)) is not None), reverse=True)
    as_wide: set[frozenset[int]] = set()
    slower = []
    for _, alike in groupby(gaps, key=itemgetter(0)):
        names = [name for _, name in alike]
        as_wide |= {series[name].split for name in names}
        if _can_tell(len(as_wide), ways, rules):
            slower += [name for name in names if series[name].is_patched_slower]
    worse = tuple(Regression("REG_PERFORMANCE", name, f"{_called(name)}: {series[name]}") for name in sorted(slower))
    summary = f"{len(tests)} tests, {len(base)} and {len(patched)} runs in turn: {series[WHOLE]}"
    return Measured("performance", summary, worse)


def compare_benchmark(base: Sequence[int], patched: Sequence[int], rules: PerformanceRules) -> Measured | None:
    """One-sided Mann-Whitney test on the times of a benchmark, and a difference of medians that matters. None: too few."""
    ways = math.comb(len(base) + len(patched), len(base))
    if not base or not patched or not _can_tell(1, ways, rules):
        return None
    was, now = median(base), median(patched)
    wins = sum(after > before for before in base for after in patched)
    likely = _can_tell(_ways_to_win(wins, len(base), len(patched)), ways, rules)
    series = _Series(base, patched)
    matters = _matters(was, now, rules)
    worse = (Regression("REG_PERFORMANCE", WHOLE, f"benchmark: {series}"),) if likely and matters else ()
    return Measured("performance", f"benchmark, {len(base)} and {len(patched)} times in turn: {series}", worse)


def benchmark_failed(text: str) -> Measured:
    """Somebody asked for it: a benchmark that says nothing must not pass for one that is fast."""
    return Measured("performance", f"benchmark: {text}", (Regression("REG_PERFORMANCE", WHOLE, f"benchmark: {text}"),))


@dataclass(frozen=True)
class _Series:
    """The times of one thing, in the order in which it ran."""

    base: Sequence[int]
    patched: Sequence[int]

    @property
    def split(self) -> frozenset[int]:
        """Which runs are the slowest, as many as there are patched ones."""
        every = (*self.base, *self.patched)
        return frozenset(sorted(range(len(every)), key=lambda index: every[index])[len(self.base) :])

    @property
    def is_patched_slower(self) -> bool:
        return min(self.patched) > max(self.base)

    def gap(self, rules: PerformanceRules) -> float | None:
        """How far the slowest runs, whatever tree they are of, lie above the others; None where it is too little to matter."""
        ordered = sorted((*self.base, *self.patched))
        below, above = ordered[len(self.base) - 1], ordered[len(self.base)]
        return above / max(below, 1) if _matters(below, above, rules) else None

    def __str__(self) -> str:
        was, now = median(self.base), median(self.patched)
        change = round((now - was) * 10_000 / was) if was else 0
        sign = "+" if change >= 0 else "-"
        return f"median {was / 1000:.1f} ms, then {now / 1000:.1f} ms ({sign}{per_cent(abs(change))})"


def _matters(was: float, now: float, rules: PerformanceRules) -> bool:
    return now - was >= rules.floor_us and now * 10_000 > was * (10_000 + rules.slower_bp)


def _can_tell(as_extreme: int, ways: int, rules: PerformanceRules) -> bool:
    return as_extreme * 10_000 <= rules.alpha_bp * ways


def _ways_to_win(wins: int, base: int, patched: int) -> int:
    """Of all ways to share out the runs, in how many are there at least ``wins`` pairs in which the patched run is the slower?

    Counted run by run, from the fastest: one of base is beaten by every patched run that is still to come.
    """
    counts = {(0, 0): 1}  # (patched runs among those placed, wins so far)
    for placed in range(base + patched):
        after: dict[tuple[int, int], int] = {}
        for (slow, won), ways in counts.items():
            if slow < patched:
                after[slow + 1, won] = after.get((slow + 1, won), 0) + ways
            if placed - slow < base:
                key = slow, won + patched - slow
                after[key] = after.get(key, 0) + ways
        counts = after
    return sum(ways for (_, won), ways in counts.items() if won >= wins)


def _total(run: Timings, tests: frozenset[str]) -> int:
    return sum(run[test] for test in tests)


def _called(name: str) -> str:
    return "all tests together" if name == WHOLE else name

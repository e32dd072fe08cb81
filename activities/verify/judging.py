"""From raw runs to a verdict: runs of one tree must agree, then :func:`schemas.verdict.judge` decides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from schemas.testing import Outcomes, TestRun, outcomes_sha256
from schemas.verdict import Judgement, Verdict, judge

MINIMUM_RUNS = 2
_INFORMATIVE = frozenset({"TEST_TIMEOUT"})
"""Codes of a run that do not void it: a test that never ends is a failing test."""
_NAMED = 5
"""How many test ids a message names."""


@dataclass(frozen=True)
class ObservedRun:
    """A run and its outcomes, read back from the content store."""

    run: TestRun
    outcomes: Outcomes


@dataclass(frozen=True)
class Ruling:
    judgement: Judgement
    message: str


def rule(base: Sequence[ObservedRun], patched: Sequence[ObservedRun], named_targets: tuple[str, ...]) -> Ruling:
    """Decide a patch.

    1. A run that the machine failed decides nothing: ``infra_error``.
    2. Fewer than two runs of a tree, or runs that disagree: ``irreproducible``.
    3. A run that cannot be believed (no tests, modules outside the tree, time out): ``rejected`` with its code.
    4. Otherwise the test ids decide.
    """
    trees = (("base", base), ("patched", patched))
    for name, runs in trees:
        for observed in runs:
            if observed.run.status == "infra_error":
                codes = observed.run.codes or ("INFRASTRUCTURE",)
                return _without_tests("infra_error", codes, f"a run of the {name} tree failed: {observed.run.message}")
    for name, runs in trees:
        if len(runs) < MINIMUM_RUNS:
            return _without_tests(
                "irreproducible", ("DET_RUNS",), f"{len(runs)} run(s) of the {name} tree; {MINIMUM_RUNS} are needed"
            )
        if difference := _disagreement(runs):
            return _without_tests("irreproducible", ("RUNS_DISAGREE",), f"runs of the {name} tree disagree on {difference}")
    for name, runs in trees:
        codes = tuple(code for code in runs[0].run.codes if code not in _INFORMATIVE)
        if codes:
            return _without_tests("rejected", codes, f"the {name} tree: {runs[0].run.message or ', '.join(codes)}")
    judgement = judge(base[0].outcomes, patched[0].outcomes, named_targets)
    return Ruling(judgement, explain(judgement))


def explain(judgement: Judgement) -> str:
    """One sentence for people: what was mended, and why not accepted."""
    parts = [f"{len(judgement.fail_to_pass)} of {len(judgement.targets)} failing tests mended"]
    if judgement.lost:
        parts.append(f"passed on base and do not pass now: {_some(judgement.lost)}")
    if judgement.still_failing:
        parts.append(f"still not passing: {_some(judgement.still_failing)}")
    return "; ".join(parts)


def _without_tests(verdict: Verdict, codes: tuple[str, ...], message: str) -> Ruling:
    judgement = Judgement(
        verdict=verdict, codes=codes, fix="none", targets=(), fail_to_pass=(), pass_to_pass=(), still_failing=(), lost=()
    )
    return Ruling(judgement, message)


def _disagreement(runs: Sequence[ObservedRun]) -> str:
    """Names the first ids whose outcomes differ from those of the first run; empty when all agree."""
    first = runs[0]
    for ordinal, other in enumerate(runs[1:], start=2):
        ids = [
            f"{nodeid} ({first.outcomes.get(nodeid, 'missing')}, then {other.outcomes.get(nodeid, 'missing')})"
            for nodeid in sorted(first.outcomes.keys() | other.outcomes.keys())
            if first.outcomes.get(nodeid) != other.outcomes.get(nodeid)
        ]
        if ids:
            return _some(tuple(ids))
        if first.run.codes != other.run.codes:
            return f"codes: {first.run.codes or 'none'} in run 1, {other.run.codes or 'none'} in run {ordinal}"
    return ""


def _some(ids: tuple[str, ...]) -> str:
    return ", ".join(ids[:_NAMED]) + (f" and {len(ids) - _NAMED} more" if len(ids) > _NAMED else "")


def agrees_with_digest(observed: ObservedRun) -> bool:
    """The outcomes are those whose canonical digest the run reported."""
    return outcomes_sha256(observed.outcomes) == observed.run.outcomes_sha256

"""What a test that does not always come out the same depends on: order, hash seed, the network, the clock (explore-verify §6).

Plain runs are of the default variant and equal in everything; each other run varies one thing. A test that differs in such a run
depends on that thing. Of a test that differs between plain runs nothing more is sure: then the clock is named where runs
under a standing clock agree, two of this tree and all of the other, the network where the test tried to use it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from schemas.testing import Flake, Outcomes, RunVariant, TestRun

Cause = Literal["order", "seed", "time", "network", "unknown"]
Tree = Literal["base", "patched"]
MISSING = "missing"
_AT_MOST = 100
_SETTLES = 2
"""Runs under a standing clock that must agree before the clock is named."""
_ADVICE: dict[Cause, str] = {
    "order": "make it pass whatever ran before it (reset what tests share)",
    "seed": "sort what comes out of sets and of dictionaries keyed by hashes",
    "time": "give it the time instead of reading the clock, or ask for a frozen clock",
    "network": "leave the network out: there is none",
    "unknown": "look for random numbers, ports, temporary paths, threads",
}


@dataclass(frozen=True)
class ObservedRun:
    """A run and its outcomes, read back from the content store."""

    run: TestRun
    outcomes: Outcomes

    def of(self, nodeid: str) -> str:
        return self.outcomes.get(nodeid, MISSING)


@dataclass(frozen=True)
class TreeRuns:
    """``plain``: of the default variant; ``varied``: of others."""

    plain: Sequence[ObservedRun]
    varied: Sequence[ObservedRun] = ()


def flakes_of(base: TreeRuns, patched: TreeRuns) -> tuple[Flake, ...]:
    """Every test of either tree that did not always come out the same, those that the patch brought first; at most 100."""
    of_base = {flake.nodeid: flake for flake in _flakes("base", base, patched)}
    of_patched = _flakes("patched", patched, base)
    found = [flake.model_copy(update={"introduced": _introduced(flake, base, patched)}) for flake in of_patched]
    every = sorted((*found, *of_base.values()), key=lambda flake: (not flake.introduced, flake.tree == "base", flake.nodeid))
    return tuple(every[:_AT_MOST])


def explain(flake: Flake) -> str:
    """Which test, what was seen, why, and what would mend it."""
    brought = ", which the patch brought" if flake.introduced else ""
    causes = " and ".join(flake.causes)
    return (
        f"{flake.nodeid} on the {flake.tree} tree was {', then '.join(flake.outcomes)}; cause: {causes}{brought};"
        f" {_ADVICE[flake.causes[0]]}"
    )


def kind_of(variant: RunVariant) -> Cause | None:
    """The one thing that a run varies; None for a plain run."""
    changed: list[Cause] = []
    if variant.order != "collected":
        changed.append("order")
    if variant.hash_seed != 0:
        changed.append("seed")
    if variant.clock is not None:
        changed.append("time")
    if len(changed) > 1:
        return "unknown"
    return changed[0] if changed else None


def _flakes(tree: Tree, runs: TreeRuns, other: TreeRuns) -> Iterable[Flake]:
    every = (*runs.plain, *runs.varied)
    for nodeid in sorted({nodeid for observed in every for nodeid in observed.outcomes}):
        seen = tuple(dict.fromkeys(observed.of(nodeid) for observed in every if _ran(observed, nodeid)))
        if len(seen) > 1 and runs.plain:
            yield Flake(nodeid=nodeid, tree=tree, outcomes=seen, causes=_causes(nodeid, runs, other))


def _causes(nodeid: str, runs: TreeRuns, other: TreeRuns) -> tuple[Cause, ...]:
    plain = {observed.of(nodeid) for observed in runs.plain}
    varied = _varied(nodeid, runs)
    telling: tuple[Cause, ...] = ("order", "seed")
    causes = [kind for kind in telling if any(kind == of and outcome not in plain for of, outcome in varied)]
    if any(nodeid in observed.run.network for observed in (*runs.plain, *runs.varied)):
        causes.append("network")
    standing = [outcome for of, outcome in varied if of == "time"]
    settled = _stands(standing) and len({outcome for of, outcome in _varied(nodeid, other) if of == "time"}) <= 1
    if settled if len(plain) > 1 else any(outcome not in plain for outcome in standing):
        causes.append("time")
    return tuple(causes) or ("unknown",)


def _varied(nodeid: str, runs: TreeRuns) -> list[tuple[Cause | None, str]]:
    return [(kind_of(observed.run.variant), observed.of(nodeid)) for observed in runs.varied if _ran(observed, nodeid)]


def _stands(outcomes: Sequence[str]) -> bool:
    return len(outcomes) >= _SETTLES and len(set(outcomes)) == 1


def _introduced(flake: Flake, base: TreeRuns, patched: TreeRuns) -> bool:
    """Whether base came out the same wherever the patched tree did not.

    A variant that was not run on base excuses nothing. A standing clock alone makes no flake: clocks run. Where equal runs of
    the patched tree differ, any run of base that does too says that this is old.
    """
    before = {observed.of(flake.nodeid) for observed in base.plain}
    after = {observed.of(flake.nodeid) for observed in patched.plain}
    if len(before) > 1:
        return False
    if len(after) > 1:
        return all(observed.of(flake.nodeid) in before for observed in base.varied if _ran(observed, flake.nodeid))
    telling = [observed for observed in patched.varied if kind_of(observed.run.variant) != "time"]
    return any(
        observed.of(flake.nodeid) not in after and _stable(flake.nodeid, before, base, observed.run.variant)
        for observed in telling if _ran(observed, flake.nodeid)
    )  # fmt: skip


def _stable(nodeid: str, before: set[str], base: TreeRuns, variant: RunVariant) -> bool:
    return all(observed.of(nodeid) in before for observed in base.varied if observed.run.variant == variant)


def _ran(observed: ObservedRun, nodeid: str) -> bool:
    """A run of some tests only says nothing of the others."""
    only = observed.run.variant.only
    return not only or nodeid in only

"""From raw runs to a verdict: runs of one tree must agree, then :func:`schemas.verdict.judge` decides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from activities.verify.diagnosing import ObservedRun, TreeRuns, explain, flakes_of
from schemas.testing import Flake, outcomes_sha256
from schemas.verdict import (
    HARNESS_TAMPERED,
    INFORMATIVE_CODES,
    MINIMUM_RUNS,
    PROBED,
    PYTEST_CHANGED,
    Judgement,
    Verdict,
    judge,
    mended_tests,
    tampered,
    unproven,
)

_NAMED = 5
"""How many test ids a message names."""


@dataclass(frozen=True)
class Evidence:
    """All runs of a patch. ``probe``: of the tree whose touched functions raise; None where the patch touches none."""

    base: TreeRuns
    patched: TreeRuns
    probe: ObservedRun | None = None


@dataclass(frozen=True)
class Ruling:
    """``mended``: the tests that show the fix, which the probe runs."""

    judgement: Judgement
    message: str
    flakes: tuple[Flake, ...] = ()
    mended: tuple[str, ...] = ()


def rule(evidence: Evidence, named_targets: tuple[str, ...] = (), waived: tuple[str, ...] = ()) -> Ruling:
    """Decide a patch.

    1. A run that the machine failed decides nothing: ``infra_error``.
    2. A run that something tampered with, be it a single one: ``rejected`` (HARNESS_TAMPERED); likewise one in which parts of
       pytest were replaced, where the base tree does not do that.
    3. Fewer than two plain runs of a tree, or plain runs that disagree: ``irreproducible``, with what explains it.
    4. A run that cannot be believed (no tests, modules outside the tree, time out): ``rejected`` with its code.
    5. The test ids decide.
    6. What the ids accept must fail in the probe (HARNESS_TAMPERED), and be no flake that the patch brings (FLAKE_INTRODUCED).
    """
    plain = (("base", evidence.base.plain), ("patched", evidence.patched.plain))
    return (
        _failed_by_the_machine(evidence)
        or _tampered_with(evidence)
        or _disagreeing(plain, evidence)
        or _not_to_be_believed(plain)
        or _by_test_ids(evidence, named_targets, waived)
    )


def agrees_with_digest(observed: ObservedRun) -> bool:
    """The outcomes are those whose canonical digest the run reported."""
    return outcomes_sha256(observed.outcomes) == observed.run.outcomes_sha256


def _every(evidence: Evidence) -> list[tuple[str, ObservedRun]]:
    named = [("base", observed) for observed in (*evidence.base.plain, *evidence.base.varied)]
    named += [("patched", observed) for observed in (*evidence.patched.plain, *evidence.patched.varied)]
    return named if evidence.probe is None else [*named, ("probe", evidence.probe)]


def _failed_by_the_machine(evidence: Evidence) -> Ruling | None:
    for name, observed in _every(evidence):
        if observed.run.status == "infra_error":
            codes = observed.run.codes or ("INFRASTRUCTURE",)
            return _without_tests("infra_error", codes, f"a run of the {name} tree failed: {observed.run.message}")
    return None


def _tampered_with(evidence: Evidence) -> Ruling | None:
    changed_before = any(PYTEST_CHANGED in observed.run.codes for observed in evidence.base.plain)
    for name, observed in _every(evidence):
        began = PYTEST_CHANGED in observed.run.codes and not changed_before and name != "base"
        if HARNESS_TAMPERED in observed.run.codes or began:
            why = observed.run.message or "a test that had to fail did not"
            return _without_tests("rejected", (HARNESS_TAMPERED,), f"the {name} tree decides its outcomes itself: {why}")
    return None


def _disagreeing(plain: tuple[tuple[str, Sequence[ObservedRun]], ...], evidence: Evidence) -> Ruling | None:
    for name, runs in plain:
        if len(runs) < MINIMUM_RUNS:
            return _without_tests(
                "irreproducible", ("DET_RUNS",), f"{len(runs)} run(s) of the {name} tree; {MINIMUM_RUNS} are needed"
            )
        if difference := _disagreement(runs):
            flakes = flakes_of(evidence.base, evidence.patched)
            reasons = [explain(flake) for flake in flakes if flake.tree == name][:_NAMED]
            message = "; ".join([f"runs of the {name} tree disagree on {difference}", *reasons])
            return replace(_without_tests("irreproducible", ("RUNS_DISAGREE",), message), flakes=flakes)
    return None


def _not_to_be_believed(plain: tuple[tuple[str, Sequence[ObservedRun]], ...]) -> Ruling | None:
    for name, runs in plain:
        codes = tuple(code for code in runs[0].run.codes if code not in INFORMATIVE_CODES)
        if codes:
            return _without_tests("rejected", codes, f"the {name} tree: {runs[0].run.message or ', '.join(codes)}")
    return None


def _by_test_ids(evidence: Evidence, named_targets: tuple[str, ...], waived: tuple[str, ...]) -> Ruling:
    base, patched = evidence.base.plain[0].outcomes, evidence.patched.plain[0].outcomes
    judgement = judge(base, patched, named_targets, waived)
    flakes = flakes_of(evidence.base, evidence.patched)
    ruling = Ruling(judgement, _explained(judgement), flakes, mended_tests(judgement, patched)[:PROBED])
    if judgement.verdict != "accepted":
        return ruling
    if evidence.probe is not None and (forged := unproven(judgement, evidence.probe.outcomes)):
        return replace(ruling, judgement=tampered(judgement), message=_forged(forged))
    if introduced := [flake for flake in flakes if flake.introduced]:
        refused = judgement.model_copy(update={"verdict": "irreproducible", "codes": ("FLAKE_INTRODUCED",)})
        return replace(ruling, judgement=refused, message="; ".join(explain(flake) for flake in introduced[:_NAMED]))
    return ruling


def _explained(judgement: Judgement) -> str:
    """One sentence for people: what was mended, and why not accepted."""
    parts = [f"{len(judgement.fail_to_pass)} of {len(judgement.targets)} failing tests mended"]
    if lost := tuple(nodeid for nodeid in judgement.lost if nodeid not in judgement.waived):
        parts.append(f"passed on base and do not pass now: {_some(lost)}")
    if judgement.waived:
        parts.append(f"lost, by waiver: {_some(judgement.waived)}")
    if judgement.still_failing:
        parts.append(f"still not passing: {_some(judgement.still_failing)}")
    return "; ".join(parts)


def _forged(ids: tuple[str, ...]) -> str:
    return (
        f"pass although every function that the patch touches raises: {_some(ids)}; if a change outside of functions mends them,"
        " send it alone and leave the changes of functions to another patch"
    )


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
            f"{nodeid} ({first.of(nodeid)}, then {other.of(nodeid)})"
            for nodeid in sorted(first.outcomes.keys() | other.outcomes.keys())
            if first.of(nodeid) != other.of(nodeid)
        ]
        if ids:
            return _some(tuple(ids))
        if first.run.codes != other.run.codes:
            return f"codes: {first.run.codes or 'none'} in run 1, {other.run.codes or 'none'} in run {ordinal}"
    return ""


def _some(ids: tuple[str, ...]) -> str:
    return ", ".join(ids[:_NAMED]) + (f" and {len(ids) - _NAMED} more" if len(ids) > _NAMED else "")

"""Why a test does not always come out the same."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from activities.verify.diagnosing import ObservedRun, TreeRuns, explain, flakes_of, kind_of
from schemas.model import BlobRef
from schemas.testing import Flake, Outcomes, RunVariant, SandboxFacts, TestRun, counts_of, outcomes_sha256

A, B = "t.py::a", "t.py::b"
PLAIN = RunVariant()
SEED, REVERSED, CLOCK = RunVariant(hash_seed=1), RunVariant(order="reversed"), RunVariant(clock=1_700_000_000)
PASSED: Outcomes = {A: "passed"}
FAILED: Outcomes = {A: "failed"}


def run(outcomes: Outcomes, variant: RunVariant = PLAIN, network: tuple[str, ...] = ()) -> ObservedRun:
    blob = BlobRef(sha256="0" * 64, size=1, media_type="application/json")
    made = TestRun(
        status="failed", outcomes=blob, outcomes_sha256=outcomes_sha256(outcomes), counts=counts_of(outcomes), exit_code=1,
        runner="pytest 9.2.0", run_key="1" * 64, variant=variant, network=network,
        sandbox=SandboxFacts(backend="docker", version="1", profile_sha256="0" * 64, enforcement={}),
    )  # fmt: skip
    return ObservedRun(made, outcomes)


STEADY = TreeRuns([run(PASSED), run(PASSED)], [run(PASSED, SEED), run(PASSED, REVERSED), run(PASSED, CLOCK)])


def patched(plain: Sequence[Outcomes], *varied: ObservedRun, network: bool = False) -> Flake:
    runs = TreeRuns([run(outcomes, network=(A,) if network else ()) for outcomes in plain], varied)
    (flake,) = flakes_of(STEADY, runs)
    return flake


@pytest.mark.parametrize(
    ("flake", "causes", "introduced"),
    [
        (patched([PASSED] * 2, run(FAILED, REVERSED), run(PASSED, SEED)), ("order",), True),
        (patched([PASSED] * 2, run(PASSED, REVERSED), run(FAILED, SEED)), ("seed",), True),
        (patched([PASSED] * 2, run({}, REVERSED), run(FAILED, SEED)), ("order", "seed"), True),
        (patched([PASSED] * 2, run(FAILED, CLOCK)), ("time",), False),
        (patched([PASSED, FAILED], run(PASSED, CLOCK), run(PASSED, CLOCK)), ("time",), True),
        (patched([PASSED, FAILED], run(PASSED, CLOCK)), ("unknown",), True),
        (patched([PASSED, FAILED], run(PASSED, CLOCK), run(FAILED, CLOCK)), ("unknown",), True),
        (patched([PASSED, FAILED], run(PASSED, SEED), run(FAILED, REVERSED)), ("unknown",), True),
        (patched([PASSED, FAILED], network=True), ("network",), True),
        (patched([PASSED, {}]), ("unknown",), True),
    ],
)
def test_each_cause(flake: Flake, causes: tuple[str, ...], introduced: bool) -> None:
    assert (flake.nodeid, flake.tree, flake.causes, flake.introduced) == (A, "patched", causes, introduced)
    text = explain(flake)
    assert A in text and all(cause in text for cause in causes) and ("brought" in text) == introduced


def test_what_base_does_too_is_not_of_the_patch() -> None:
    base = TreeRuns([run(PASSED)] * 2, [run(FAILED, REVERSED), run(PASSED, SEED)])
    flakes = flakes_of(base, TreeRuns([run(PASSED)] * 2, [run(FAILED, REVERSED), run(PASSED, SEED)]))
    assert [(flake.tree, flake.introduced) for flake in flakes] == [("patched", False), ("base", False)]
    flakes = flakes_of(base, TreeRuns([run(PASSED)] * 2, [run(FAILED, REVERSED), run(FAILED, SEED)]))
    assert [(flake.tree, flake.introduced) for flake in flakes] == [("patched", True), ("base", False)]
    flakes = flakes_of(TreeRuns([run(PASSED), run(FAILED)]), TreeRuns([run(PASSED), run(FAILED)]))
    assert not any(flake.introduced for flake in flakes)


def test_what_base_does_in_some_run_is_old_where_equal_runs_of_the_patch_differ() -> None:
    base = TreeRuns([run(PASSED)] * 2, [run(PASSED, SEED), run(FAILED, CLOCK), run(PASSED, CLOCK)])
    flakes = flakes_of(base, TreeRuns([run(PASSED), run(FAILED)], [run(PASSED, CLOCK)] * 2))
    assert [(flake.tree, flake.introduced) for flake in flakes] == [("patched", False), ("base", False)]


def test_the_clock_explains_nothing_that_differs_under_a_standing_one_on_the_other_tree() -> None:
    tossed = TreeRuns([run(PASSED)] * 2, [run(FAILED, CLOCK), run(PASSED, CLOCK)])
    flakes = flakes_of(tossed, TreeRuns([run(PASSED), run(FAILED)], [run(PASSED, CLOCK)] * 2))
    assert {flake.tree: flake.causes for flake in flakes}["patched"] == ("unknown",)


def test_a_variant_that_base_was_not_run_in_excuses_nothing() -> None:
    (flake,) = flakes_of(TreeRuns([run(PASSED)] * 2), TreeRuns([run(PASSED)] * 2, [run(FAILED, REVERSED)]))
    assert flake.introduced


def test_a_run_of_some_tests_says_nothing_of_the_others() -> None:
    only = run({B: "passed"}, RunVariant(order="reversed", only=(B,)))
    assert flakes_of(STEADY, TreeRuns([run({A: "passed", B: "passed"})] * 2, [only])) == ()


@pytest.mark.parametrize(
    ("variant", "kind"),
    [
        (RunVariant(), None), (SEED, "seed"), (REVERSED, "order"), (CLOCK, "time"), (RunVariant(only=(A,)), None),
        (RunVariant(hash_seed=1, order="reversed"), "unknown"),
    ],
)  # fmt: skip
def test_what_a_variant_varies(variant: RunVariant, kind: str | None) -> None:
    assert kind_of(variant) == kind


OUTCOMES = st.dictionaries(st.sampled_from([A, B]), st.sampled_from(["passed", "failed"]))
RUNS = st.builds(
    TreeRuns,
    st.lists(OUTCOMES.map(run), min_size=2, max_size=3),
    st.lists(st.builds(run, OUTCOMES, st.sampled_from([SEED, REVERSED, CLOCK])), max_size=4),
)


@given(RUNS, RUNS)
def test_exactly_what_differs_somewhere_is_a_flake(base: TreeRuns, patched: TreeRuns) -> None:
    found = {(flake.tree, flake.nodeid) for flake in flakes_of(base, patched)}
    for tree, runs in (("base", base), ("patched", patched)):
        for nodeid in (A, B):
            seen = {observed.of(nodeid) for observed in (*runs.plain, *runs.varied)}
            assert ((tree, nodeid) in found) == (len(seen) > 1)


@given(RUNS)
def test_a_patch_that_changes_nothing_brings_no_flake(runs: TreeRuns) -> None:
    assert not any(flake.introduced for flake in flakes_of(runs, runs))


@given(RUNS, RUNS)
def test_base_alone_brings_no_flake_and_each_has_a_cause(base: TreeRuns, patched: TreeRuns) -> None:
    flakes = flakes_of(base, patched)
    assert all(flake.causes for flake in flakes)
    assert not any(flake.introduced for flake in flakes if flake.tree == "base")

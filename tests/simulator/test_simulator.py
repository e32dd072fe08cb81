"""Thousands of small worlds in which things go wrong, each by its own seed; and the bugs that such worlds must find."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.simulator.invariants import Violation
from tests.simulator.mutants import MUTANTS
from tests.simulator.world import STEPS, simulate

ROOT = Path(__file__).resolve().parents[2]
SEEDS = 2_000
WITHIN = 800
"""Seeds in which every known bug is found, most of them in the first hundred."""


def replaying(seed: int) -> str:
    return f"replay: python -m tests.simulator --seed {seed} --steps {STEPS}"


def test_no_seed_breaks_an_invariant() -> None:
    executed = delivered = 0
    for seed in range(SEEDS):
        try:
            world = simulate(seed)
        except (Violation, AssertionError) as error:
            pytest.fail(f"seed {seed}: {error}\n{replaying(seed)}")
        executed += world.executed
        delivered += len(world.monitor.delivered)
    assert executed > 5 * SEEDS and delivered > SEEDS // 4, "the worlds get nowhere"


@pytest.mark.parametrize("bug", MUTANTS)
def test_each_known_bug_is_found(bug: str) -> None:
    mutant = MUTANTS[bug]
    for seed in range(WITHIN):
        try:
            simulate(seed, cores=mutant.cores, kernel=mutant.kernel, trouble=mutant.trouble)
        except (Violation, AssertionError) as error:
            assert mutant.finds in str(error), f"seed {seed} finds something else: {error}"
            return
    pytest.fail(f"not found in {WITHIN} seeds")


def test_a_seed_plays_the_same_again() -> None:
    first, second = simulate(7), simulate(7)
    heads = [{where: chain[-1].hash for where, chain in world.rows.chains.items()} for world in (first, second)]
    assert heads[0] == heads[1] and first.now_ms == second.now_ms


def test_the_command_says_what_it_did() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.simulator", "--seed", "3", "--seeds", "5"], cwd=ROOT, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0 and "5 seeds" in done.stdout and "no violation" in done.stdout, done.stderr

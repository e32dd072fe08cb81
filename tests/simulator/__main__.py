"""``python -m tests.simulator --seed N --seeds 2000``: play seeds N, N+1, …; name the first that fails, and how to replay it."""

from __future__ import annotations

import argparse
import sys
import time

from tests.simulator.invariants import Violation
from tests.simulator.world import STEPS, simulate


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulator", description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="first seed")
    parser.add_argument("--seeds", type=int, default=1, help="how many")
    parser.add_argument("--steps", type=int, default=STEPS, help="steps with faults, a seed")
    asked = parser.parse_args()
    began, executed = time.monotonic(), 0
    for seed in range(asked.seed, asked.seed + asked.seeds):
        try:
            executed += simulate(seed, asked.steps).executed
        except (Violation, AssertionError) as error:
            print(f"seed {seed}: {error}\nreplay: python -m tests.simulator --seed {seed} --steps {asked.steps}", file=sys.stderr)
            return 1
    print(f"{asked.seeds} seeds, {executed} executions, no violation, {time.monotonic() - began:.1f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())

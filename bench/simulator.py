"""``python -m bench.simulator``: how many simulated events a second, and that memory does not grow with their number (JSON)."""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time

from tests.simulator.world import simulate

TARGET = 1.2


def peak_kib() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def play(events: int, first: int) -> tuple[int, int]:
    """Play seeds from ``first`` on until so many events are recorded; returns how many, and the next seed."""
    recorded, seed = 0, first
    while recorded < events:
        recorded += sum(len(chain) for chain in simulate(seed).rows.chains.values())
        seed += 1
    return recorded, seed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=1_000_000)
    asked = parser.parse_args()
    began = time.monotonic()
    quarter, seed = play(asked.events // 4, 0)
    early_kib = peak_kib()
    rest, seed = play(asked.events - quarter, seed)
    seconds = time.monotonic() - began
    print(
        json.dumps(
            {
                "events": quarter + rest, "seeds": seed, "events_per_second": round((quarter + rest) / seconds),
                "peak_mib_after_a_quarter": round(early_kib / 1024, 1), "peak_mib_at_the_end": round(peak_kib() / 1024, 1),
                "ratio": round(peak_kib() / early_kib, 3), "target": TARGET, "met": peak_kib() <= TARGET * early_kib,
            }
        )
    )  # fmt: skip
    return int(peak_kib() > TARGET * early_kib)


if __name__ == "__main__":
    sys.exit(main())

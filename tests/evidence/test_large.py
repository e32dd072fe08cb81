"""Many test results and a long trajectory are sealed and verified in little memory."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_a_trajectory_is_never_in_memory_as_a_whole() -> None:
    code = "import json; from bench.big_bundle import measure; print(json.dumps(measure(64, 10_000)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, stdout=subprocess.PIPE, timeout=120)
    found = json.loads(done.stdout)
    assert (found["trajectory_mib"], found["tests"]) == (64, 10_000)
    assert found["peak_mib"] < 100 and found["peak_mib"] - found["before_mib"] < 40

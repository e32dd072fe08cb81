"""What a killed worker left is killed; what a living one started is not."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest

from activities.kernel.sandbox import orphans

SLEEP = [sys.executable, "-S", "-c", "print(flush=True); import time; time.sleep(60)"]


def started(environment: dict[str, str]) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(SLEEP, env=environment, stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()  # before exec the environment would be ours
    return process


@pytest.fixture
def gone() -> dict[str, str]:
    """The mark of a worker that has ended."""
    code = "from activities.kernel.sandbox.orphans import environment, VARIABLE; print(environment()[VARIABLE])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return {orphans.VARIABLE: done.stdout.strip()}


@pytest.fixture
def processes() -> Iterator[list[subprocess.Popen[bytes]]]:
    made: list[subprocess.Popen[bytes]] = []
    yield made
    for process in made:
        process.kill()
        process.wait()


def test_only_sandboxes_of_workers_that_are_gone_are_killed(
    gone: dict[str, str], processes: list[subprocess.Popen[bytes]]
) -> None:
    processes += [started(gone), started(orphans.environment()), started({})]
    assert orphans.kill_orphans() >= 1
    orphan, ours, foreign = processes
    assert orphan.wait(10) == -9
    assert (ours.poll(), foreign.poll()) == (None, None)

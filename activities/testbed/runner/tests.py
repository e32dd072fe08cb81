"""Mode ``tests``: one run of the whole plan, one canonical outcome for each test id.

A test that ends or hangs its process costs only itself: the child is killed and another one runs what is left.
The supervisor keeps the results, so nothing that a test does to its own process changes one that was reported before.
"""

from __future__ import annotations

import time
from typing import Any

from .child import CLOCK_RUNS, NO_TRACER, PYTEST_MISSING, BrokenReport, Child
from .executable import executable_lines, is_measured
from .host import Host
from .measures import Measures
from .results import Results
from .sentinels import Sentinels
from .watched import WatchedFiles

MAX_CHILDREN = 25
"""More crashes than this in one run end it: a suite in ruins proves nothing."""
STARTUP_MS = 60_000
_PATIENCE_S = 60.0
"""So long the compiler may take for all sources of a tree."""
SLOWER_WHEN_MEASURED = 3
"""A test that is busy in Python may take so much longer under a tracer; its outcome must not depend on that."""
_CLOCK = "/usr/$LIB/faketime/libfaketimeMT.so.1"
_NOT_STARTED = {
    PYTEST_MISSING: ("PYTEST_MISSING", "the environment has no pytest"),
    CLOCK_RUNS: ("CLOCK_UNSUPPORTED", "the base has no libfaketime, so the clock cannot stand still"),
    NO_TRACER: ("MEASURING_UNSUPPORTED", "the harness has no tracer for the base's Python"),
}


def run(job: dict[str, Any], host: Host) -> dict[str, Any]:
    """``job``: work, environment, harness, python_path, env, pytest_args, test_ms, wall_ms (of the whole run), and of the
    variant: ``order``, ``clock`` (seconds at which the wall clock stands), ``only``, ``measure``."""
    ends_at = time.monotonic() + job["wall_ms"] / 1000
    if job.get("measure"):
        job = {**job, "test_ms": job["test_ms"] * SLOWER_WHEN_MEASURED}
    measures = Measures(executable_lines(job["work"], _PATIENCE_S)) if job.get("measure") else None
    results = Results(host, Sentinels(), measures, frozenset(job.get("only", ())))
    watched = WatchedFiles(job["work"], lambda path: path.endswith(".py") and not is_measured(path))
    for _ in range(MAX_CHILDREN):
        if _one_child(job, host, results, ends_at):
            break
    else:
        results.give_up("CRASH_LIMIT", f"tests ended their process more than {MAX_CHILDREN} times")
    watched.compare(results)
    return results.end()


def _one_child(job: dict[str, Any], host: Host, results: Results, ends_at: float) -> bool:
    """Run what has no outcome yet; True when nothing is left to do."""
    results.begin_child()
    child = Child.execute(host, {"job": job, **results.order()}, clock_variables(job.get("clock")))
    try:
        return follow(child, job, results, ends_at)
    finally:
        child.close()
        results.tail = child.tail.decode("utf-8", "backslashreplace")


def clock_variables(stands_at: int | None) -> dict[str, str]:
    """Variables by which the wall clock of a new process stands still. Monotonic clocks, and times of files, stay true."""
    if stands_at is None:
        return {}
    return {
        "LD_PRELOAD": _CLOCK,
        "FAKETIME": str(stands_at),
        "FAKETIME_FMT": "%s",
        "FAKETIME_CACHE_DURATION": "1000000000",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "NO_FAKE_STAT": "1",
    }


def follow(child: Child, job: dict[str, Any], results: Results, ends_at: float) -> bool:
    """Take what a child reports until it ends or is too slow; True when nothing is left to do."""
    deadline = time.monotonic() + max(job["test_ms"], STARTUP_MS) / 1000
    while True:
        try:
            event = child.next(min(deadline, ends_at), results.flush)
        except BrokenReport as error:
            return results.give_up("HARNESS_BROKEN", str(error))
        except TimeoutError:
            if time.monotonic() >= ends_at:
                return results.give_up(
                    "RUN_TIMEOUT", f"the run did not end within {job['wall_ms']} ms; it was at {results.doing}"
                )
            return results.timed_out(job["test_ms"])
        if event is None:
            if child.status in _NOT_STARTED and not results.started:
                return results.give_up(*_NOT_STARTED[child.status])
            return results.ended(child.status or 0)
        results.take(event)
        allowed = job["test_ms"] if results.in_test else max(job["test_ms"], STARTUP_MS)
        if event["event"] in ("start", "collecting", "done", "collected"):
            deadline = time.monotonic() + allowed / 1000

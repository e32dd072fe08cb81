"""Mode ``tests``: one run of the whole plan, one canonical outcome for each test id.

A test that ends or hangs its process costs only itself: the child is killed and another one runs what is left.
The supervisor keeps the results, so nothing that a test does to its own process changes one that was reported before.
"""

from __future__ import annotations

import time
from typing import Any

from .child import BrokenReport, Child, Reporter
from .host import Host
from .reporting import Reporting, Selection, leaving_out
from .results import Results
from .target import PutTreeFirst, Target, pytest_arguments

MAX_CHILDREN = 25
"""More crashes than this in one run end it: a suite in ruins proves nothing."""
_STARTUP_MS = 60_000
_PYTEST_MISSING = 71


def run(job: dict[str, Any], host: Host) -> dict[str, Any]:
    """``job``: work, environment, python_path, env, pytest_args, test_ms, wall_ms (of the whole run)."""
    ends_at = time.monotonic() + job["wall_ms"] / 1000
    results = Results(host)
    for _ in range(MAX_CHILDREN):
        if _one_child(job, host, results, ends_at):
            break
    else:
        results.give_up("CRASH_LIMIT", f"tests ended their process more than {MAX_CHILDREN} times")
    return results.end()


def _one_child(job: dict[str, Any], host: Host, results: Results, ends_at: float) -> bool:
    """Run what has no outcome yet; True when nothing is left to do."""
    selection = Selection(done=frozenset(results.outcomes), broken_files=frozenset(results.broken_files))
    results.begin_child()
    child = Child.fork(host, lambda report: _in_child(job, selection, report))
    try:
        return _follow(child, job, results, ends_at)
    finally:
        child.close()
        results.tail = child.tail.decode("utf-8", "backslashreplace")


def _follow(child: Child, job: dict[str, Any], results: Results, ends_at: float) -> bool:
    deadline = time.monotonic() + max(job["test_ms"], _STARTUP_MS) / 1000
    while True:
        try:
            event = child.next(min(deadline, ends_at))
        except BrokenReport as error:
            return results.give_up("HARNESS_BROKEN", str(error))
        except TimeoutError:
            if time.monotonic() >= ends_at:
                return results.give_up(
                    "RUN_TIMEOUT", f"the run did not end within {job['wall_ms']} ms; it was at {results.doing}"
                )
            return results.timed_out(job["test_ms"])
        if event is None:
            if child.status == _PYTEST_MISSING:
                return results.give_up("PYTEST_MISSING", "the environment has no pytest")
            return results.ended(child.status or 0)
        results.take(event)
        allowed = job["test_ms"] if results.in_test else max(job["test_ms"], _STARTUP_MS)
        if event["event"] in ("start", "collecting", "done", "collected"):
            deadline = time.monotonic() + allowed / 1000


def _in_child(job: dict[str, Any], selection: Selection, report: Reporter) -> int:
    target = Target(job)
    target.enter()
    try:
        import pytest
    except ModuleNotFoundError:
        return _PYTEST_MISSING
    report("runner", version=str(pytest.__version__))
    plugins = [PutTreeFirst(target), Reporting(target, selection, report), leaving_out(selection, pytest.__version__)]
    code = int(pytest.main(pytest_arguments(job["pytest_args"]), plugins=plugins))
    report("finish", exit_code=code)
    return code

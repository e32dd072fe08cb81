"""Mode ``trace``: per-test line spectra: of the failing targets in full, of passing tests within the code that those ran.

Reports: ``spectrum`` {id, outcome, lines{path: [line]}} for each target, ``traced`` {count} now and then, at the end
``passing`` {path, lines{line: passing tests that run it}}; end line {targets, passed, codes, tail}.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

from .child import PYTEST_MISSING, BrokenReport, Child, Reporter
from .collected import Collected
from .host import Host
from .spectrum import CodeKey, LineRecorder
from .target import PutTreeFirst, Target, pytest_arguments
from .trial import Bounds, Trial, be_subreaper

_BEAT_S = 0.5
_STARTUP_S = 120.0
_ENDLESS_S = 20.0


def run(job: dict[str, Any], host: Host) -> dict[str, Any]:
    """``job``: that of mode ``tests``, and ``targets``, ``passing`` (ids), ``passing_ms`` (budget for those), ``memory_mb``."""
    ends_at = time.monotonic() + job["wall_ms"] / 1000
    child = Child.fork(host, lambda report: _in_child(job, report))
    summary: dict[str, Any] = {"targets": 0, "passed": 0, "codes": []}
    silence = max(_STARTUP_S, job["test_ms"] / 1000 + 10)
    try:
        while (event := child.next(min(ends_at, time.monotonic() + silence))) is not None:
            kind = event.pop("event")
            if kind == "summary":
                summary |= event
            else:
                host.send(kind, **event)
        if child.status == PYTEST_MISSING:
            summary["codes"] = ["PYTEST_MISSING"]
        elif child.status != 0 or "collected" not in summary:
            summary["codes"] = ["HARNESS_BROKEN"]
    except TimeoutError:
        summary["codes"] = ["RUN_TIMEOUT"]
    except BrokenReport:
        summary["codes"] = ["HARNESS_BROKEN"]
    finally:
        child.close()
    return {**summary, "tail": child.tail.decode("utf-8", "backslashreplace")}


def _in_child(job: dict[str, Any], report: Reporter) -> int:
    be_subreaper()
    target = Target(job)
    target.enter()
    try:
        import pytest
    except ModuleNotFoundError:
        return PYTEST_MISSING
    tracing = _Tracing(job, target, report)
    pytest.main(pytest_arguments(job["pytest_args"]), plugins=[PutTreeFirst(target), Collected(tracing.body)])
    report("summary", **tracing.summary)
    return 0


class _Tracing:
    def __init__(self, job: dict[str, Any], target: Target, report: Reporter) -> None:
        self._job, self._target, self._report = job, target, report
        self._codes: set[CodeKey] = set()
        self._beat = time.monotonic()
        self.summary: dict[str, Any] = {}

    def body(self, collected: Collected) -> None:
        # Lines of test files are of no use: nobody mends a bug there.
        skipped = frozenset(str(item.path) for item in collected.items.values())
        targets = [nodeid for nodeid in self._job["targets"] if nodeid in collected.items]
        for nodeid in targets:
            self._trace_target(collected, nodeid, LineRecorder(self._target.work, skipped))
        passing = [nodeid for nodeid in self._job["passing"] if nodeid in collected.items]
        recorder = LineRecorder(self._target.work, skipped, frozenset(self._codes))
        passed = self._trace_passing(collected, passing, recorder) if self._codes else 0
        self.summary = {"targets": len(targets), "passed": passed, "collected": len(collected.items)}

    def _bounds(self, nodeid: str) -> Bounds:
        seconds = self._job["test_ms"] / 1000
        return Bounds(cpu_s=seconds, wall_s=seconds, memory=self._job["memory_mb"] * 1024 * 1024 // 2)

    def _target_bounds(self, nodeid: str) -> Bounds:
        bounds = self._bounds(nodeid)
        return replace(bounds, cpu_s=min(bounds.cpu_s, _ENDLESS_S), wall_s=min(bounds.wall_s, _ENDLESS_S))

    def _trace_target(self, collected: Collected, nodeid: str, recorder: LineRecorder) -> None:
        # An endless test is cut short: the lines that it has run by then are the ones to suspect.
        trial = Trial(collected, self._target_bounds, observe=recorder.observe, salvage=recorder.seen)
        for done in trial.run([nodeid]):
            extra = done.extra or {"lines": {}, "codes": []}
            self._codes.update((path, line, name) for path, line, name in extra["codes"])
            self._report("spectrum", id=nodeid, outcome=done.outcome, lines=extra["lines"])

    def _trace_passing(self, collected: Collected, nodeids: list[str], recorder: LineRecorder) -> int:
        counts: dict[str, dict[int, int]] = {}
        ends_at = time.monotonic() + self._job["passing_ms"] / 1000
        passed, left = 0, nodeids
        while left and time.monotonic() < ends_at:
            seen = 0
            for done in Trial(collected, self._bounds, observe=recorder.observe).run(left):
                seen += 1
                if done.outcome == "passed":
                    passed += 1
                    for path, lines in done.extra["lines"].items():
                        counted = counts.setdefault(path, {})
                        for line in lines:
                            counted[line] = counted.get(line, 0) + 1
                if time.monotonic() - self._beat > _BEAT_S:
                    self._beat = time.monotonic()
                    self._report("traced", count=passed)
                if time.monotonic() > ends_at:
                    break
            left = left[max(seen, 1) :]
        for path, counted in sorted(counts.items()):
            self._report("passing", path=path, lines={str(line): count for line, count in sorted(counted.items())})
        return passed

"""Time a command of the request in a fresh sandbox that holds a tree."""

from __future__ import annotations

from collections.abc import Callable

from activities.testbed.harness import collect, describe_end
from activities.testbed.protocol import HarnessBroken, parse_line
from activities.testbed.run import TestBed
from schemas.regression import BenchmarkSample, RunBenchmark

_TAIL_CHARS = 1_000
_LONGEST_US = 2**53 - 1


def run_benchmark(testbed: TestBed, request: RunBenchmark, heartbeat: Callable[[], None]) -> BenchmarkSample:
    """Times of all repetitions, or how the command failed.

    Raises:
        InfrastructureError: no sandbox could be started.
    """
    job = {"argv": list(request.argv), "repeat": request.repeat}
    with testbed.session(
        request.tree, request.environment, request.plan, request.limits, "benchmark", job, commit_time=request.commit_time
    ) as process:
        lines = collect(process, heartbeat)
        completed = process.finish()
    try:
        end = parse_line(lines[-1]) if len(lines) == 1 else {}
    except HarnessBroken:
        end = {}
    micros, code = end.get("micros"), end.get("exit_code")
    if end.get("kind") != "end" or not isinstance(micros, list) or type(code) is not int:
        return BenchmarkSample(exit_code=completed.exit_code or 1, message=describe_end(completed)[-_TAIL_CHARS:])
    if code != 0:
        return BenchmarkSample(exit_code=code, message=str(end.get("tail", "")).strip()[-_TAIL_CHARS:])
    if len(micros) != request.repeat or not all(type(one) is int and 0 < one <= _LONGEST_US for one in micros):
        return BenchmarkSample(exit_code=1, message="the times cannot be read")
    return BenchmarkSample(micros=tuple(micros))

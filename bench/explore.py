"""How much faster the fork server decides a candidate on the failing tests than a fresh pytest process does.

    python -m bench.explore [--pair ID] [--candidates N] [--fresh N]

Both run in the same kind of sandbox with the same tree, environment and tests. Prints one JSON document: milliseconds from
asking the fork server to its answer, the way into the sandbox and back included, for each candidate that was decided on the
failing tests (edits that do not compile, or that went on to the whole suite, are left out), milliseconds of
``python -m pytest`` on those tests, and their ratio.
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path
from typing import Any

from activities.explore.deciding import ForkServer
from activities.explore.product import files_of
from activities.explore.space import Space
from activities.explore.tracing import read_spectra, targets_of, trace_job
from activities.kernel.sandbox.port import ENVIRONMENT, HOME, WORK, SandboxSpec
from activities.testbed.harness import PINNED, RUNNER_FOLDER
from bench.bed import Bed, open_bed
from bench.repair import COMMIT_TIME, DEFAULT_PAIRS, beat, command_of
from cli.demo_source import fetch_pair, load_pairs
from schemas.capabilities import Localize, RunTests
from schemas.test_command import parse_test_command
from schemas.testing import Limits

_FRESH = """
import io, json, os, subprocess, sys, tarfile, time
order = json.loads(sys.stdin.buffer.readline())
tarfile.open(fileobj=io.BytesIO(sys.stdin.buffer.read(order["bytes"]))).extractall(order["work"])
times = []
for _ in range(order["times"]):
    began = time.perf_counter()
    command = [sys.executable, "-m", "pytest", *order["arguments"]]
    subprocess.run(command, cwd=order["work"], env={**os.environ, "PYTHONPATH": order["path"]}, stdout=subprocess.DEVNULL)
    times.append((time.perf_counter() - began) * 1000)
print(json.dumps(times))
"""


def measure(
    bed: Bed, folder: Path, command: tuple[str, ...], requirements: tuple[str, ...], candidates: int, fresh: int
) -> dict[str, Any]:
    tree, plan, limits = bed.tree_of(folder), parse_test_command(command), Limits()
    environment = bed.environments.prepare(tree, requirements, beat)
    run = RunTests(tree=tree, environment=environment, plan=plan, limits=limits, commit_time=COMMIT_TIME, purpose="base")
    baseline = bed.testbed.run(run, beat)
    outcomes = bed.blobs.get_json(baseline.outcomes)
    targets = targets_of(outcomes, ())
    request = Localize(
        base_tree=tree, environment=environment, plan=plan, limits=limits, commit_time=COMMIT_TIME, baseline=baseline
    )  # fmt: skip
    with bed.testbed.session(tree, environment, plan, limits, "trace", trace_job(request, outcomes, targets)) as process:
        suspects, _ = read_spectra(process, targets, outcomes, beat)
    space = Space(suspects, lambda path: bed.objects.file(tree, path), files_of(list(outcomes)))
    job = {
        "targets": list(targets), "passing": [nodeid for nodeid, outcome in outcomes.items() if outcome == "passed"],
        "named": False, "memory_mb": limits.memory_mb,
    }  # fmt: skip
    options = [argument for argument in plan.pytest_args if argument.startswith("-") or "=" in argument or ":" in argument]
    arguments = [*options, *targets]

    def fresh_times() -> list[float]:
        return _fresh(bed, tree, environment.environment_digest, plan.python_path, arguments, limits, fresh // 2)

    pristine = fresh_times()
    forked: dict[str, list[float]] = {"swap": [], "import": []}
    with bed.testbed.session(tree, environment, plan, limits, "forkserver", job) as process:
        server = ForkServer(process, beat)
        server.ready()
        for number, ranked in enumerate(islice(space.ranked(), candidates)):
            began = time.perf_counter()
            server.submit(number, ranked.edit, tuple(range(len(targets))))
            decided = server.next()
            if decided.verdict == "fails":
                forked[decided.how].append((time.perf_counter() - began) * 1000)
    pristine += fresh_times()  # before and behind, because the load of the machine changes
    every = forked["swap"] + forked["import"]
    return {
        "targets": len(targets), "candidates": len(every),
        "fork_ms": {"median": _median(every), "mean": round(statistics.fmean(every), 2)},
        "fork_ms_in_function_bodies": {"n": len(forked["swap"]), "median": _median(forked["swap"])},
        "fork_ms_by_import": {"n": len(forked["import"]), "median": _median(forked["import"])},
        "fresh_ms": {"n": len(pristine), "median": _median(pristine)},
        "ratio_of_medians": round(statistics.median(pristine) / statistics.median(every), 1),
        "ratio_of_means": round(statistics.fmean(pristine) / statistics.fmean(every), 1),
    }  # fmt: skip


def _fresh(
    bed: Bed, tree: str, environment: str, path: tuple[str, ...], arguments: list[str], limits: Limits, times: int
) -> list[float]:
    archive = io.BytesIO()
    bed.objects.tar(tree, archive)
    data = archive.getvalue()
    folders = ":".join([*(f"{WORK}/{folder}" for folder in path), ENVIRONMENT])
    spec = SandboxSpec(
        root=bed.root, argv=(bed.root.python, "-c", _FRESH), env={**PINNED, "HOME": HOME}, limits=limits, runner=RUNNER_FOLDER,
        environment=bed.environments.path(environment),
    )  # fmt: skip
    order = {"bytes": len(data), "work": WORK, "times": times, "arguments": arguments, "path": folders}
    with bed.backend.start(spec) as process:
        process.send(json.dumps(order).encode() + b"\n" + data)
        process.close_input()
        times_ms: list[float] = json.loads(b"".join(process.lines()))
    return times_ms


def _median(values: list[float]) -> float | None:
    return round(statistics.median(values), 2) if values else None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pair", default="voluptuous__0.12.1__0.12.2")
    parser.add_argument("--candidates", type=int, default=300)
    parser.add_argument("--fresh", type=int, default=10)
    options = parser.parse_args()
    pair = load_pairs(DEFAULT_PAIRS)[options.pair]
    with open_bed() as bed, tempfile.TemporaryDirectory(prefix="gen4-pairs-") as name:
        folder = fetch_pair(pair, Path(name) / pair.id)
        result = measure(bed, folder, command_of(pair), pair.extra_requirements, options.candidates, options.fresh)
    print(json.dumps({"pair": pair.id, **result}, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""How long the gate takes to decide.

    python -m bench.kernel [--rounds N] [--calls N]

``decision``: the checks alone, on a call of which everything is known, against ``govern()`` of the agent-governance-toolkit
package with one rule and without its audit log (``audited``: with it, as it comes), alternating in one run. Its packages come
from the operator's index into an environment of their own below the cache folder. ``gate``: everything but the commit, that
is decoding the request, reading store and policy, and every check; a real store on disk, a real policy engine, the memo of
policy decisions as it is in a worker. ``cpu_ms`` is the processor time of the same calls, and ``empty_thread_ms`` how long a
thread that does nothing takes there and back, measured in between: on a busy machine both say what of the p99 is the machine's.
Prints one JSON document.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import time
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from temporalio.common import RawValue
from temporalio.testing import ActivityEnvironment

from activities.kernel.admission import CHECKS, Call, first_refusal
from activities.kernel.attempt import Attempt
from activities.kernel.gate import Gate, asked_for
from activities.kernel.identity import Started
from activities.kernel.inquiry import Inquiry
from activities.record.executions import ExecutionRow
from bench.gates import NAMESPACE, GateBed, complete_call, open_gate_bed
from bench.servers import policy_engine
from schemas.capabilities import FETCH_SOURCE, FetchSource
from workers.converter import data_converter
from workers.toolchain import cache_directory

PACKAGE = "agent-governance-toolkit[core]==4.1.0"
DECISION_TARGET = {"p50": 2.0, "p99": 3.0}
GATE_P99_MS = 3.0
WARM_UP = 500


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--calls", type=int, default=2_000, help="per round and arm")
    options = parser.parse_args()
    result = {"decision": decision(options.rounds, options.calls)}
    with policy_engine() as policy, open_gate_bed(policy) as bed:
        result["gate"] = asyncio.run(whole_gate(bed, options.rounds * options.calls // 4))
    print(json.dumps(result, indent=2))
    return 0 if all(part["met"] for part in result.values()) else 1


# --- the checks alone ------------------------------------------------------------------------------------------------


def decision(rounds: int, calls: int) -> dict[str, Any]:
    ours: list[int] = []
    theirs: dict[str, list[int]] = {"PLAIN": [], "AUDITED": []}
    call = complete_call()
    with governed() as yardstick:
        for times in [_decide(call, WARM_UP), *(yardstick.timed(kind, WARM_UP) for kind in theirs)]:
            times.clear()
        for _ in range(rounds):
            ours += _decide(call, calls)
            for kind, times in theirs.items():
                times += yardstick.timed(kind, calls)
    plain = _percentiles(theirs["PLAIN"], 1_000)
    mine = _percentiles(ours, 1_000)
    ratio = {name: round(mine[name] / plain[name], 2) for name in plain}
    return {
        "calls": len(ours), "gate_us": mine, "govern_us": plain, "govern_audited_us": _percentiles(theirs["AUDITED"], 1_000),
        "govern_version": yardstick.version, "ratio": ratio, "target": DECISION_TARGET,
        "met": all(ratio[name] <= DECISION_TARGET[name] for name in DECISION_TARGET),
    }  # fmt: skip


def _decide(call: Call, count: int) -> list[int]:
    clock, times = time.perf_counter_ns, []
    for _ in range(count):
        began = clock()
        refusal = first_refusal(call)
        times.append(clock() - began)
    if refusal is not None:
        raise AssertionError(f"the call was to pass: {refusal}")
    return times


@dataclass(frozen=True)
class Yardstick:
    process: subprocess.Popen[str]
    version: str

    def timed(self, kind: str, count: int) -> list[int]:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(f"{kind} {count}\n")
        self.process.stdin.flush()
        times: list[int] = json.loads(self.process.stdout.readline())
        return times


@contextmanager
def governed() -> Iterator[Yardstick]:
    """The other package, waiting for orders."""
    argv = [str(_environment()), "-I", str(Path(__file__).with_name("governed.py"))]
    process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert process.stdout
        yield Yardstick(process, json.loads(process.stdout.readline())["version"])
    finally:
        process.kill()
        process.wait()


def _environment() -> Path:
    """Python of an environment with the package; made on first use."""
    folder = cache_directory() / "bench" / PACKAGE.replace("[core]==", "-")
    python, done = folder / "bin" / "python", folder / ".installed"
    if not done.exists():
        venv.create(folder, clear=True, with_pip=True)
        install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", PACKAGE]
        subprocess.run(install, check=True, stdout=sys.stderr)
        done.touch()
    return python


# --- everything but the commit ---------------------------------------------------------------------------------------


async def whole_gate(bed: GateBed, calls: int) -> dict[str, Any]:
    row = bed.session()
    gate = bed.gate(None)  # type: ignore[arg-type]  # nothing asks the server: the run is known
    environment = ActivityEnvironment()
    environment.payload_converter = data_converter.payload_converter
    argument = RawValue(data_converter.payload_converter.to_payload(FetchSource(repository="/repository", ref="HEAD")))
    times: dict[str, list[int]] = {"ms": [], "cpu_ms": [], "empty_thread_ms": []}
    for number in range(WARM_UP + calls):
        began, cpu = time.perf_counter_ns(), time.process_time_ns()
        await environment.run(_pass, gate, row, argument, number)
        times["cpu_ms"].append(time.process_time_ns() - cpu)
        times["ms"].append(time.perf_counter_ns() - began)
        began = time.perf_counter_ns()
        await asyncio.to_thread(int)
        times["empty_thread_ms"].append(time.perf_counter_ns() - began)
    found = {name: _percentiles(taken[WARM_UP:], 1_000_000) for name, taken in times.items()}
    return {
        "calls": calls, **found, "target_p99_ms": GATE_P99_MS, "met": found["ms"]["p99"] <= GATE_P99_MS,
        "mean_ms_of_stages": bed.stage_ms(),
    }  # fmt: skip


async def _pass(gate: Gate, row: ExecutionRow, argument: RawValue, number: int) -> None:
    attempt = Attempt(
        activity_type=FETCH_SOURCE.id, workflow_type="Remediation", namespace=NAMESPACE, workflow_id=row.workflow_id,
        run_id=row.run_id, activity_id=str(number), number=1,
    )  # fmt: skip
    inquiry = Inquiry(gate.kernel, gate.questions, attempt, NAMESPACE, _unknown)
    call = asked_for(attempt, [argument], gate)
    for check in CHECKS:
        call = await inquiry.gather(call, check.needs)
        if refusal := check.judge(call):
            raise AssertionError(f"the call was to pass: {refusal}")


async def _unknown(workflow_id: str, run_id: str) -> Started | None:
    raise AssertionError(f"run {run_id} of {workflow_id} is on record")


def _percentiles(times_ns: list[int], unit_ns: int) -> dict[str, float]:
    ordered = sorted(times_ns)
    return {name: round(ordered[int(len(ordered) * part)] / unit_ns, 3) for name, part in (("p50", 0.5), ("p99", 0.99))}


if __name__ == "__main__":
    sys.exit(main())

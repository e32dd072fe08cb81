"""A bundle with many test results and a long trajectory, written and verified by this process alone, and the memory it took."""

from __future__ import annotations

import dataclasses
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from activities.evidence.content import StoredFile
from activities.evidence.members import assemble, bundle_digest
from activities.evidence.seal import publish, sign_members, write_stamp
from activities.evidence.verification import verify_bundle
from schemas.canonical import sha256_hex
from schemas.event import GENESIS
from schemas.evidence import BUILDER_ID, TEST_RESULTS, TRAJECTORY
from schemas.testing import Outcomes
from schemas.verdict import judge
from tests.evidence.workshop import NOW_S, Workshop, establish, make_run, make_workshop

_OUTPUT = "def total(items):\n    return {'sum': [item['price'] for item in items]}\n" * 220
_MIB = 1024 * 1024


def measure(megabytes: int, tests: int) -> dict[str, Any]:
    """Peak memory of writing and verifying, in MiB, and seconds."""
    workshop = make_workshop()
    with tempfile.TemporaryDirectory(prefix="gen4-bench-") as name:
        folder = Path(name)
        before = peak_mib()
        started = time.perf_counter()
        write_trajectory(folder / "steps", json.loads(workshop.files[TRAJECTORY]), megabytes * _MIB)
        written = seal(workshop, folder, tests)
        sealed = time.perf_counter()
        report = verify_bundle(folder / "bundle", workshop.trust, now_ms=NOW_S * 1000)
        verified = time.perf_counter()
        assert report.verdict == "pass", report.codes
        return {
            "trajectory_mib": round((folder / "bundle" / TRAJECTORY).stat().st_size / _MIB), "tests": tests, "before_mib": before,
            "peak_mib": peak_mib(), "write_s": round(sealed - started, 2), "verify_s": round(verified - sealed, 2),
            "results_kib": written // 1024,
        }  # fmt: skip


def write_trajectory(path: Path, last: dict[str, Any], size: int) -> None:
    """Steps with outputs as long as they may be, and then ``last``."""
    digest, seq, previous, written = sha256_hex(_OUTPUT.encode()), 0, GENESIS, 0
    step = {**last, "tool_call": None, "tool_output": _OUTPUT, "tool_output_sha256": digest, "tool_output_bytes": len(_OUTPUT)}
    with path.open("wb") as file:
        while written < size:
            seq += 1
            written += file.write((line := _line({**step, "seq": seq, "prev_hash": previous})) + b"\n")
            previous = sha256_hex(line)
        file.write(_line({**last, "seq": seq + 1, "prev_hash": previous}) + b"\n")


def _line(step: dict[str, Any]) -> bytes:
    """JCS of values without numbers that could be spelled differently, much faster."""
    return json.dumps(step, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def seal(workshop: Workshop, folder: Path, tests: int) -> int:
    """Write the bundle; returns the size of its test results."""
    more: Outcomes = {f"tests/unit/test_module_{number // 50}.py::test_case_{number}": "passed" for number in range(tests)}
    inputs = workshop.inputs
    base, patched = {**inputs.base_outcomes, **more}, {**inputs.patched_outcomes, **more}
    inputs = dataclasses.replace(
        inputs, base=make_run(base, "1"), base_outcomes=base, patched=make_run(patched, "2"), patched_outcomes=patched,
        judgement=judge(base, patched), trajectory=StoredFile.of(folder / "steps"),
    )  # fmt: skip
    members = assemble(inputs)
    request = workshop.request.model_copy(update={"rerun_bundle_digest": bundle_digest(members)})
    stamp = write_stamp(request, establish(members, inputs.judgement), workshop.signer, workshop.facts)
    publish(sign_members(members, stamp, workshop.signer, BUILDER_ID), folder / "bundle", lambda _: None)
    return (folder / "bundle" / TEST_RESULTS).stat().st_size


def peak_mib() -> int:
    """Highest resident size of this process so far."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) // 1024
    raise OSError("the kernel does not tell VmHWM")

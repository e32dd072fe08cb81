"""Verifying an Evidence Bundle against cosign, hashing against sha256sum, and the memory that a long trajectory takes.

    python -m bench.evidence [--rounds N] [--hashed MIB] [--trajectory MIB] [--tests N]

``verify``: the whole Trust Gate on a bundle, in process, against one ``cosign verify-blob-attestation`` process on the same
envelope, alternating; ratio of the medians. ``hash``: throughput of our hashing of a file against ``sha256sum``, alternating;
ratio of the best. ``memory``: peak of a process of its own that writes and verifies a bundle with that trajectory and that many
test results. Prints one JSON document; times are of this machine, the ratios were taken in one run.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from activities.evidence.content import StoredFile
from activities.evidence.verification import verify_bundle
from schemas.evidence import CHECKSUMS, SIGSTORE_BUNDLE
from tests.evidence.workshop import NOW_S, make_workshop
from workers.toolchain import locate

TARGETS = {"verify": 5.0, "hash": 0.8, "memory_mib": 200}
_MIB = 1024 * 1024


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--hashed", type=int, default=256, help="MiB of the file that is hashed")
    parser.add_argument("--trajectory", type=int, default=500, help="MiB of the trajectory; 0: leave it out")
    parser.add_argument("--tests", type=int, default=10_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="gen4-bench-") as name:
        result: dict[str, Any] = {
            "targets": TARGETS, "verify": verify(Path(name), options.rounds), "hash": hashing(Path(name), options.hashed),
        }  # fmt: skip
    if options.trajectory:
        result["memory"] = memory(options.trajectory, options.tests)
    print(json.dumps(result, indent=2))
    return int(any(not part["met"] for key, part in result.items() if key != "targets"))


def verify(folder: Path, rounds: int) -> dict[str, Any]:
    workshop, cosign = make_workshop(), locate("cosign")
    bundle, key = folder / "bundle", folder / "key.pub"
    bundle.mkdir()
    for name, data in workshop.files.items():
        (bundle / name).write_bytes(data)
    key.write_text(workshop.signer.public_pem)
    argv = [str(cosign.path), "verify-blob-attestation", "--key", str(key), "--bundle", str(bundle / SIGSTORE_BUNDLE)]
    argv += ["--type", "slsaprovenance1", "--insecure-ignore-tlog", str(bundle / CHECKSUMS)]
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder)}

    def ours() -> None:
        assert verify_bundle(bundle, workshop.trust, now_ms=NOW_S * 1000).verdict == "pass"

    def theirs() -> None:
        subprocess.run(argv, env=environment, check=True, capture_output=True)

    ours(), theirs()
    times = [(_seconds(ours), _seconds(theirs)) for _ in range(rounds)]
    mine, other = (statistics.median(column) for column in zip(*times, strict=True))
    return {
        "in_process_ms": round(mine * 1000, 2), "cosign_process_ms": round(other * 1000, 1), "cosign": cosign.version,
        "ratio": round(other / mine, 1), "met": other / mine >= TARGETS["verify"],
    }  # fmt: skip


def hashing(folder: Path, size: int) -> dict[str, Any]:
    file = folder / "hashed"
    with file.open("wb") as out:
        for _ in range(size):
            out.write(os.urandom(_MIB))

    def ours() -> None:
        StoredFile.of(file)

    def theirs() -> None:
        subprocess.run(["sha256sum", str(file)], check=True, capture_output=True)

    ours(), theirs()
    times = [(_seconds(ours), _seconds(theirs)) for _ in range(5)]
    mine, other = (min(column) for column in zip(*times, strict=True))
    return {
        "mib_per_s": round(size / mine), "sha256sum_mib_per_s": round(size / other), "ratio": round(other / mine, 2),
        "met": other / mine >= TARGETS["hash"],
    }  # fmt: skip


def memory(megabytes: int, tests: int) -> dict[str, Any]:
    code = f"import json; from bench.big_bundle import measure; print(json.dumps(measure({megabytes}, {tests})))"
    done = subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.PIPE)
    found: dict[str, Any] = json.loads(done.stdout)
    return {**found, "met": found["peak_mib"] < TARGETS["memory_mib"]}


def _seconds(work: Callable[[], None]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


if __name__ == "__main__":
    sys.exit(main())

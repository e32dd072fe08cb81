"""Many test results and a long trajectory are sealed and verified in little memory."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from activities.evidence.content import IN_MEMORY
from activities.evidence.external import external_trajectory
from activities.evidence.trusting import load_trust
from activities.evidence.verification import verify_bundle
from activities.kernel.acting import as_acting
from activities.kernel.judging import PolicyPort
from bench.big_bundle import write_trajectory
from schemas.evidence import TRAJECTORY
from tests.evidence.fabric import make_fabric, who
from tests.evidence.workshop import NOW_S

ROOT = Path(__file__).resolve().parents[2]


def test_a_trajectory_is_never_in_memory_as_a_whole() -> None:
    code = "import json; from bench.big_bundle import measure; print(json.dumps(measure(64, 10_000)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, stdout=subprocess.PIPE, timeout=120)
    found = json.loads(done.stdout)
    assert (found["trajectory_mib"], found["tests"]) == (64, 10_000)
    assert found["peak_mib"] < 100 and found["peak_mib"] - found["before_mib"] < 40


def test_a_signer_on_its_socket_seals_a_trajectory_that_stays_a_file(tmp_path: Path, policy: PolicyPort) -> None:
    with as_acting(who()), make_fabric(tmp_path, policy) as fabric:
        patch = fabric.imported().patch
        last = external_trajectory(fabric.source, patch, fabric.objects.snapshot_hash(patch.result_tree))
        write_trajectory(tmp_path / "steps", json.loads(last), IN_MEMORY + 1)
        sealed = fabric.seal(fabric.sealing((tmp_path / "steps").read_bytes()))
        folder = Path(sealed.bundle.directory)
        assert (folder / TRAJECTORY).stat().st_size > IN_MEMORY
        report = verify_bundle(folder, load_trust(Path(sealed.trust)), objects=fabric.objects, now_ms=NOW_S * 1000)
        assert (report.verdict, [check.code for check in report.checks if not check.checked]) == ("pass", [])

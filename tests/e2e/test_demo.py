"""``make demo``: the published bug is really released, and what it leaves lets others check that."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.e2e.harness import git
from workers.settings import state_directory

ROOT = Path(__file__).resolve().parents[2]


def test_the_demo_ends_with_a_released_commit_and_a_bundle_that_verifies(tmp_path: Path) -> None:
    cache = os.environ.get("GEN4_CACHE", str(state_directory() / "gen4-cache"))
    environment = os.environ | {"XDG_STATE_HOME": str(tmp_path / "state"), "GEN4_CACHE": cache}
    demo = [sys.executable, "-m", "cli.demo"]
    done = subprocess.run(demo, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    summary = json.loads((ROOT / "build/demo/summary.json").read_bytes())
    assert set(summary) == {"home", "workflow_id", "repository", "bundle", "trust", "release", "stages"}
    assert summary["release"]["mode"] == "merge"
    repository = Path(summary["repository"])
    assert git(repository, "rev-parse", summary["release"]["ref"]) == summary["release"]["commit"]
    assert {"explore", "compile", "approval", "release"} <= {stage["name"] for stage in summary["stages"]}
    verify = [sys.executable, "-m", "cli.main", "verify", summary["bundle"], "--trust", summary["trust"], "-r", str(repository)]
    assert subprocess.run(verify, cwd=ROOT, env=environment, capture_output=True, timeout=60).returncode == 0
    assert not (Path(summary["home"]) / "run" / "fabric.json").exists()

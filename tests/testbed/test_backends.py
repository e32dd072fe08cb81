"""The same run gives the same canonical result in the other backend."""

from __future__ import annotations

from typing import Any

from activities.kernel.sandbox.backends import choose_backend
from activities.kernel.sandbox.port import RootFilesystem
from activities.testbed.run import TestBed
from schemas.capabilities import RunTests
from schemas.test_command import parse_test_command
from schemas.testing import Environment, Limits


def test_docker_and_bubblewrap_agree(bed: Any, plain: Environment, root: RootFilesystem, docker_host: str) -> None:
    source = """
import os
def test_a(): pass
def test_b(): assert 0
def test_exit(): os._exit(0)
def test_loop():
    while True: pass
def test_z(): open("written", "w").write(os.getcwd())
"""
    request = RunTests(
        tree=bed.tree({"test_a.py": source}),
        environment=plain,
        plan=parse_test_command(()),
        limits=Limits(wall_ms=60_000, test_ms=1_000),
        commit_time=1,
        purpose="base",
    )
    docker = TestBed(bed.home, bed.blobs, bed.objects, bed.environments, root, choose_backend(root, "docker"))
    first, second = bed.testbed.run(request, lambda: None), docker.run(request, lambda: None)
    assert first.sandbox.backend == "bubblewrap" and second.sandbox.backend == "docker"
    assert first.outcomes_sha256 == second.outcomes_sha256
    assert (first.run_key, first.codes, first.counts) == (second.run_key, second.codes, second.counts)
    assert first.counts == {"error": 1, "failed": 2, "passed": 2}

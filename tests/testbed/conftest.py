"""A home, a real sandbox and trees made of texts."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from activities.kernel.sandbox.backends import choose_backend
from activities.kernel.sandbox.port import RootFilesystem, SandboxBackend
from activities.kernel.sandbox.rootfs import RootFilesystems
from activities.record.blobs import BlobStore
from activities.record.home import Home
from activities.record.objects import ObjectStore
from activities.testbed.environment import Environments
from activities.testbed.harness import RUNNER_FOLDER
from activities.testbed.run import TestBed
from schemas.capabilities import RunTests
from schemas.test_command import parse_test_command
from schemas.testing import Environment, Limits, Outcomes, TestPlan, TestRun
from workers.toolchain import cache_directory

Files = Mapping[str, str | bytes]
LIMITS = Limits(wall_ms=60_000, test_ms=5_000, memory_mb=1_024, disk_mb=256)


@pytest.fixture(scope="session")
def root() -> RootFilesystem:
    return RootFilesystems(cache_directory()).current()


@pytest.fixture(scope="session")
def backend(root: RootFilesystem) -> SandboxBackend:
    return choose_backend(root, "bubblewrap")


@dataclass(frozen=True)
class Bed:
    """Everything above one home."""

    home: Home
    blobs: BlobStore
    objects: ObjectStore
    environments: Environments
    testbed: TestBed

    def tree(self, files: Files) -> str:
        """A tree of the object store with these files."""
        empty = subprocess.run(
            ["git", "--git-dir", str(self.home.objects), "hash-object", "-t", "tree", "-w", "--stdin"],
            input=b"", capture_output=True, check=True,
        ).stdout.decode().strip()  # fmt: skip
        return self.objects.write_tree(empty, {path: _bytes(data) for path, data in files.items()})

    def run(
        self, tree: str, environment: Environment, plan: TestPlan | None = None, limits: Limits = LIMITS
    ) -> tuple[TestRun, Outcomes]:
        request = RunTests(
            tree=tree,
            environment=environment,
            plan=plan or parse_test_command(()),
            limits=limits,
            commit_time=1_700_000_000,
            purpose="base",
        )
        run = self.testbed.run(request, lambda: None)
        return run, self.blobs.get_json(run.outcomes)


@pytest.fixture(scope="session")
def bed(root: RootFilesystem, backend: SandboxBackend) -> Iterator[Bed]:
    # Not below pytest's own folder: that may lie inside a git work tree, where a home is refused.
    with tempfile.TemporaryDirectory(prefix="gen4-bed-") as name:
        home = Home.open(Path(name) / "home")
        blobs, objects = BlobStore(home.blobs, "local"), ObjectStore.open(home.objects)
        environments = Environments(home, blobs, objects, root, backend)
        yield Bed(home, blobs, objects, environments, TestBed(home, blobs, objects, environments, root, backend))


@pytest.fixture(scope="session")
def plain(bed: Bed) -> Environment:
    """An environment with nothing but pytest."""
    return bed.environments.prepare(bed.tree({"README": ""}), (), lambda: None)


@pytest.fixture
def outcomes(bed: Bed, plain: Environment) -> Callable[..., tuple[TestRun, Outcomes]]:
    """Run pytest on files, in a sandbox with the plain environment."""

    def go(files: Files, *command: str, **limits: int) -> tuple[TestRun, Outcomes]:
        return bed.run(bed.tree(files), plain, parse_test_command(command), LIMITS.model_copy(update=limits))

    return go


@dataclass(frozen=True)
class Spoken:
    """What the runner said and how it ended."""

    lines: list[dict[str, Any]]
    exit_code: int
    stderr: str

    @property
    def end(self) -> dict[str, Any]:
        return self.lines[-1]

    @property
    def outcomes(self) -> dict[str, str]:
        return {line["id"]: line["outcome"] for line in self.lines if line["kind"] in ("outcome", "worse")}


def speak(mode: str, job: dict[str, Any], archive: bytes = b"") -> Spoken:
    """Start the runner under this Python, without a sandbox: only for files that a test wrote itself."""
    header = json.dumps({"mode": mode, "job": job, "archive_bytes": len(archive)}).encode() + b"\n"
    done = subprocess.run(
        [sys.executable, "-S", "-s", "-P", "-B", str(RUNNER_FOLDER / "main.py")],
        input=header + archive, capture_output=True, timeout=120, check=False,
        env={"PATH": "/usr/bin:/bin", "PYTHONHASHSEED": "0", "LC_ALL": "C.UTF-8"},
    )  # fmt: skip
    return Spoken([json.loads(line) for line in done.stdout.splitlines()], done.returncode, done.stderr.decode())


def _bytes(data: str | bytes) -> bytes:
    return data.encode() if isinstance(data, str) else data

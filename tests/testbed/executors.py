"""An executor process of a test's own, and the worker's end of it."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from activities.kernel.sandbox.remote import Executor, RemoteBackend
from activities.kernel.sandbox.running import KnownBackend, Running
from activities.testbed.environment import Environments
from activities.testbed.harness import sandbox_spec
from activities.testbed.remote_runs import Contents, RemoteRuns
from activities.testbed.run import TestBed
from tests.testbed.conftest import Bed
from workers.toolchain import cache_directory

TENANT = "local"


@dataclass(frozen=True)
class Remote:
    """Everything that a worker has of an executor."""

    process: subprocess.Popen[bytes]
    home: Path
    executor: Executor
    backend: RemoteBackend
    running: Running
    runs: RemoteRuns
    environments: Environments
    testbed: TestBed

    @property
    def public_key(self) -> str:
        return (self.home / "executor.pub").read_text()


def start(folder: Path, *options: str, sandbox: str = "bubblewrap", before: Sequence[str] = ()) -> subprocess.Popen[bytes]:
    """``python -m workers.executor`` with its socket and its home below ``folder``; ``before``: a program that starts it."""
    command = [sys.executable, "-P", "-m", "workers.executor", "--socket", str(folder / "socket"), "--home", str(folder / "home")]
    environment = {**os.environ, "GEN4_SANDBOX": sandbox, "GEN4_CACHE": str(cache_directory())}
    return subprocess.Popen([*before, *command, *options], env=environment, cwd="/")


@contextmanager
def executor(bed: Bed, sandbox: str = "bubblewrap") -> Iterator[Remote]:
    """A running executor that a worker with the home of ``bed`` calls."""
    with tempfile.TemporaryDirectory(prefix="gen4-executor-") as name:
        process = start(Path(name), sandbox=sandbox)
        try:
            contents = Contents(bed.blobs, bed.objects)
            calls = Executor(Path(name) / "socket", contents)
            calls.await_ready(30)
            running = Running()
            backend = RemoteBackend(calls, TENANT, sandbox_spec, bed.home.environments / TENANT)
            runs = RemoteRuns(calls, bed.blobs, running)
            root, known = backend.root(), KnownBackend(backend, running)
            environments = Environments(
                bed.home, bed.blobs, bed.objects, root, known, lambda digest: runs.prepare(TENANT, digest)
            )  # fmt: skip
            contents.environments = environments
            testbed = TestBed(bed.home, bed.blobs, bed.objects, environments, root, known)
            yield Remote(process, Path(name) / "home", calls, backend, running, runs, environments, testbed)
        finally:
            process.terminate()
            process.wait(30)

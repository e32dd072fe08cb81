"""A real Temporal server and a real OPA for the tests of the gate."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kernel.gated import Server
from tests.policy.running import RunningOpa, free_port
from workers.supervisor import PROMPT
from workers.toolchain import locate


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    port = free_port()
    argv = [
        str(locate("temporal").path), "server", "start-dev", "--headless", "--ip", "127.0.0.1", "--port", str(port),
        "--log-level", "error", *PROMPT,
    ]  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="gen4-temporal-") as folder:
        process = subprocess.Popen(argv, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            yield Server(f"127.0.0.1:{port}")
        finally:
            process.terminate()
            process.wait(timeout=20)


@pytest.fixture(scope="session")
def opa(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningOpa]:
    with RunningOpa(tmp_path_factory.mktemp("opa")) as running:
        yield running


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path

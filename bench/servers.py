"""A throw-away Temporal server and a throw-away OPA with our policies, for benchmarks."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from temporalio.client import Client

from activities.policy.bundle import build_bundle, opa_argv, opa_environment, write_credentials
from activities.policy.opa import PolicyEngine
from schemas.error import InfrastructureError
from workers.client import connect
from workers.toolchain import locate

READY_S = 30.0


@dataclass(frozen=True)
class Server:
    address: str
    pid: int

    def cpu_s(self) -> float:
        """Processor time that it has used so far, user and system."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def temporal_server() -> Iterator[Server]:
    """A development server that keeps its state in memory."""
    port = _free_port()
    argv = [
        str(locate("temporal").path), "server", "start-dev", "--headless", "--ip", "127.0.0.1", "--port", str(port),
        "--log-level", "error",
    ]  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="gen4-temporal-") as folder, _running(argv, folder) as process:
        yield Server(f"127.0.0.1:{port}", process.pid)


@contextmanager
def policy_engine() -> Iterator[PolicyEngine]:
    """A client of a real OPA that serves the policies of this tree."""
    opa, port = locate("opa").path, _free_port()
    with tempfile.TemporaryDirectory(prefix="gen4-opa-") as name:
        bundle = build_bundle(opa, Path(name) / "policy.tar.gz")
        credentials = Path(name) / "credentials"
        token = write_credentials(credentials)
        argv = list(opa_argv(opa, bundle, credentials, port))
        with _running(argv, name, opa_environment()):
            _await_health(f"http://127.0.0.1:{port}/health")
            yield PolicyEngine(port, token, bundle)


async def client_of(address: str, namespace: str = "default") -> Client:
    """The client that workers have, as soon as the server answers."""
    deadline = time.monotonic() + READY_S
    while True:
        try:
            return await connect(address, namespace)
        except InfrastructureError:
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.1)


@contextmanager
def _running(argv: list[str], folder: str, environment: dict[str, str] | None = None) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        argv, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield process
    finally:
        process.terminate()
        process.wait(timeout=20)


def _await_health(url: str) -> None:
    deadline = time.monotonic() + READY_S
    while True:
        try:
            with urllib.request.urlopen(url, timeout=2):  # noqa: S310  our own loopback URL
                return
        except (urllib.error.URLError, OSError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])

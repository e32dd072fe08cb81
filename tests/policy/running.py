"""A real OPA with our policy bundle, hardened as in production, for as long as a test needs it."""

from __future__ import annotations

import functools
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

from activities.policy.bundle import PolicyBundle, build_bundle, opa_argv, opa_environment, write_credentials
from activities.policy.opa import PolicyEngine
from workers.toolchain import locate


@functools.cache
def opa_program() -> Path:
    return locate("opa").path


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class RunningOpa:
    """``stop`` and ``start`` may be called in turn; port and token stay."""

    def __init__(self, folder: Path, bundle: PolicyBundle | None = None) -> None:
        self.bundle = bundle or build_bundle(opa_program(), folder / "policy.tar.gz")
        self.credentials = folder / "credentials"
        self.token = write_credentials(self.credentials)
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.start()

    @property
    def engine(self) -> PolicyEngine:
        return PolicyEngine(self.port, self.token, self.bundle)

    def start(self) -> None:
        argv = opa_argv(opa_program(), self.bundle, self.credentials, self.port)
        self._process = subprocess.Popen(
            argv, env=opa_environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 20
        while not self._healthy():
            assert self._process.poll() is None and time.monotonic() < deadline, "OPA does not start"
            time.sleep(0.05)

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(timeout=20)

    def __enter__(self) -> RunningOpa:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _healthy(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/health", timeout=2) as answer:  # noqa: S310  our own loopback URL
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False

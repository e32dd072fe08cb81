"""Driver processes: who starts sandboxes, and with which backend."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from activities.kernel.sandbox.port import RootFilesystem

HERE = Path(__file__).resolve().parent
PROJECT = HERE.parents[1]
ORDINARY_UID = 64_321
USERS = ("root", "ordinary") if os.geteuid() == 0 else ("ordinary",)
SECRET = "hunter2-of-the-worker"

DEFAULTS = {"memory_mb": 256, "pids": 32, "wall_ms": 20_000, "output_bytes": 1 << 20, "disk_mb": 64, "cpus": 1.0}


@dataclass
class Driver:
    """A process that starts sandboxes, as ``user``, with ``backend``."""

    backend: str
    user: str
    process: subprocess.Popen[str] = field(repr=False)

    def run(self, code: str, stdin: str = "", program: str | None = None, **limits: float) -> dict[str, Any]:
        order: dict[str, Any] = {"code": code, "stdin": stdin, "limits": {**DEFAULTS, **limits}}
        answer = self.ask(order if program is None else {**order, "program": program})
        assert answer.get("error", "SANDBOX_START_FAILED") in ("SANDBOX_START_FAILED", "SANDBOX_GONE"), answer
        return answer

    def begin(self, line: str) -> None:
        assert self.process.stdin
        self.process.stdin.write(line)
        self.process.stdin.flush()

    def ask(self, order: dict[str, Any]) -> dict[str, Any]:
        assert self.process.stdout
        self.begin(json.dumps(order) + "\n")
        answer: dict[str, Any] = json.loads(self.process.stdout.readline())
        return answer


def start(root: RootFilesystem, backend: str, user: str, docker_host: str = "") -> Driver:
    settings = {"backend": backend, "digest": root.digest, "path": str(root.path), "tar": str(root.tar)}
    settings["runner"] = str(HERE / "runner")
    command = [sys.executable, str(HERE / "driver.py"), json.dumps(settings)]
    if user == "ordinary" and os.geteuid() == 0:
        groups = [os.stat(docker_host.removeprefix("unix://")).st_gid] if docker_host else []
        exposed = dict.fromkeys(str(Path(path).resolve()) for path in (sys.base_prefix, sys.prefix, PROJECT, root.path))
        order = {"uid": ORDINARY_UID, "groups": groups, "expose": list(exposed)}
        command = [sys.executable, str(HERE / "ordinary.py"), json.dumps(order), *command]
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(PROJECT), "HOME": "/nonexistent", "SECRET": SECRET}
    if docker_host:
        environment["DOCKER_HOST"] = docker_host
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd="/", env=environment, start_new_session=True
    )
    return Driver(backend, user, process)


def end(driver: Driver) -> None:
    assert driver.process.stdin and driver.process.stdout
    driver.process.stdin.close()
    driver.process.wait(60)
    driver.process.stdout.close()

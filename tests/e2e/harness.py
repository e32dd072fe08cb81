"""``gen4`` as a user runs it, in a home of its own, on small buggy repositories."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from temporalio.client import WorkflowQueryFailedError, WorkflowQueryRejectedError
from temporalio.service import RPCError

from schemas.error import Gen4Error
from workers.client import connect

IDENTITY = {
    "GIT_AUTHOR_NAME": "t", "GIT_AUTHOR_EMAIL": "t@localhost", "GIT_COMMITTER_NAME": "t", "GIT_COMMITTER_EMAIL": "t@localhost",
    "GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": "/dev/null",
}  # fmt: skip

BUGGY = {
    "src/shop/__init__.py": "",
    "src/shop/price.py": '''"""Prices."""


def clamp(value, low, high):
    """Keep value within [low, high]."""
    if value < low:
        return low
    if value < high:
        return high
    return value


def total(prices, discount=0):
    # the discount is in percent
    subtotal = sum(prices)
    return subtotal - subtotal * discount / 100
''',
    "tests/test_price.py": """import pytest

from shop.price import clamp, total


@pytest.mark.parametrize("value, expected", [(-1, 0), (0, 0), (5, 5), (10, 10), (11, 10)])
def test_clamp(value, expected):
    assert clamp(value, 0, 10) == expected


def test_total():
    assert total([10, 20]) == 30


def test_discount():
    assert total([100], discount=20) == 80
""",
    "requirements-test.txt": "pytest\n",
}


@dataclass(frozen=True)
class Finished:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@dataclass(frozen=True)
class Fabric:
    """One home; ``gen4`` runs the installed command line in it, after ``become``: a command that changes the user."""

    home: Path
    repositories: Path
    environment: dict[str, str]
    become: tuple[str, ...] = ()

    def gen4(self, *arguments: str, timeout: float = 180, stdin: str | None = None) -> Finished:
        done = subprocess.run(
            [*self.become, sys.executable, "-m", "cli.main", *arguments], env=self.environment, cwd=self.repositories,
            capture_output=True, text=True, timeout=timeout, input=stdin,
        )  # fmt: skip
        return Finished(done.returncode, done.stdout, done.stderr)

    def repository(self, name: str, files: dict[str, str] | None = None, bare: bool = False) -> Path:
        path = self.repositories / name
        write_repository(path, BUGGY if files is None else files)
        if bare:
            target = self.repositories / f"{name}.git"
            git(self.repositories, "clone", "-q", "--bare", str(path), str(target))
            return target
        return path

    def status(self) -> Any:
        return self.gen4("status", "--json").json

    def state(self) -> Any:
        """What clients read to find the fabric; for loops, where a whole command would cost more than what is waited for."""
        return json.loads((self.home / "run" / "fabric.json").read_bytes())

    def wait_for(self, workflow_id: str, reached: Any, timeout: float = 180) -> Any:
        """Ask the session's status until ``reached(document)``; no answer, while a process restarts, is asked again."""

        async def poll() -> Any:
            latest: Any = None
            deadline = time.monotonic() + timeout
            while time.monotonic() < deadline:
                try:
                    client = await connect(self.state()["temporal_address"], "default")
                    handle = client.get_workflow_handle(workflow_id)
                    while time.monotonic() < deadline:
                        latest = await handle.query("status", rpc_timeout=timedelta(seconds=5))
                        if reached(latest):
                            return latest
                        await asyncio.sleep(0.2)
                except (RPCError, Gen4Error, FileNotFoundError, WorkflowQueryFailedError, WorkflowQueryRejectedError):
                    await asyncio.sleep(0.3)
            raise AssertionError(f"{workflow_id} did not get there: {json.dumps(latest, indent=1)}")

        return asyncio.run(poll())


def waiting(document: Any) -> bool:
    return bool(document.get("approval") and document["approval"]["status"] == "pending")


def closed(document: Any) -> bool:
    return bool(document["state"] == "Closed" and document.get("result"))


def git(path: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(path), *arguments], env=os.environ | IDENTITY, capture_output=True, text=True, check=True
    )
    return done.stdout.rstrip("\n")


def write_repository(path: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text(text)
    git(path, "init", "-q", "-b", "main")
    git(path, "add", "-A")
    git(path, "commit", "-q", "-m", "start")

"""Sandboxes whose worker was killed while they started.

A started sandbox dies with its worker. But bubblewrap's first process waits for its parent before it arranges that; a
worker killed in this moment leaves it waiting for ever, with nothing of the target in it yet.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

from .owner import alive, owner

VARIABLE = "GEN4_SANDBOX_OWNER"


def environment() -> dict[str, str]:
    """The whole environment of the launcher and of bubblewrap: whose they are."""
    return {VARIABLE: owner()}


def kill_orphans() -> int:
    """Kill what belongs to a worker that is gone; how many processes."""
    killed = 0
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and (mark := _owner_of(folder)) is not None and not alive(mark):
            try:
                os.kill(int(folder.name), signal.SIGKILL)
                killed += 1
            except ProcessLookupError:
                continue  # it ended by itself
    return killed


def _owner_of(process: Path) -> str | None:
    try:
        variables = (process / "environ").read_bytes().split(b"\0")
    except OSError:
        return None  # somebody else's, or gone
    prefix = VARIABLE.encode() + b"="
    return next((entry.removeprefix(prefix).decode("ascii", "replace") for entry in variables if entry.startswith(prefix)), None)

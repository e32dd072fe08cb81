"""What is looked at before a start: that the program exists, and that the sandbox's user can read the folders bound in."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from schemas.error import InfrastructureError

from .port import SandboxSpec


def check_program(spec: SandboxSpec) -> None:
    """Refuse a program that is not in the root filesystem: later, its absence would look like an exit code.

    Raises:
        InfrastructureError: SANDBOX_START_FAILED.
    """
    program = spec.argv[0]
    if not program.startswith("/") or not os.path.lexists(spec.root.path / program[1:]):
        raise InfrastructureError(
            "SANDBOX_START_FAILED", f"the root filesystem has no {program}", "name a program by its full path in it"
        )


def readable(folder: Path) -> Path:
    """The folder itself, once everything in it can be read by others (only what is ours is changed).

    Folders above it may stay closed: they are never walked by the sandbox's user.

    Raises:
        InfrastructureError: SANDBOX_START_FAILED for a missing folder or one whose modes we may not change.
    """
    resolved = folder.resolve()
    if not resolved.is_dir():
        raise InfrastructureError("SANDBOX_START_FAILED", f"{folder} is not a folder", "prepare it before starting a sandbox")
    if os.stat(resolved).st_mode & 0o005 != 0o005:
        make_readable(resolved)
    return resolved


def make_readable(folder: Path) -> None:
    """``chmod -R go+rX``, without following links."""
    for path, _, files in os.walk(folder):
        _open_to_others(path)
        for name in files:
            _open_to_others(os.path.join(path, name))


def _open_to_others(path: str) -> None:
    mode = os.lstat(path).st_mode
    if stat.S_ISLNK(mode):
        return
    wanted = mode | 0o044 | (0o011 if mode & 0o100 else 0)
    if wanted != mode:
        os.chmod(path, stat.S_IMODE(wanted), follow_symlinks=True)

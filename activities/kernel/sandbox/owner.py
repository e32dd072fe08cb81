"""Whose sandbox it is: a mark that tells a living worker from one that was killed, also after its number is reused."""

from __future__ import annotations

import os
from pathlib import Path


def owner() -> str:
    """``<boot id>:<pid>:<start time>`` of this process."""
    return _mark(os.getpid()) or ""


def alive(mark: str) -> bool:
    """Whether the process that made ``mark`` still runs; a mark of an unknown form is nobody's."""
    parts = mark.split(":")
    return len(parts) == 3 and parts[1].isdigit() and _mark(int(parts[1])) == mark


def _mark(pid: int) -> str | None:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return None
    return f"{boot}:{pid}:{fields[19]}"

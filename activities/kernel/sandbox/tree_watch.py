"""Memory and CPU time of a process tree, watched from outside, where no control group can be made."""

from __future__ import annotations

import os
from pathlib import Path

PAGE = os.sysconf("SC_PAGE_SIZE")
CLOCK_TICKS = os.sysconf("SC_CLK_TCK")
_PROC = Path("/proc")


def supported() -> bool:
    """Whether the kernel names the children of a process (CONFIG_PROC_CHILDREN)."""
    return Path("/proc/thread-self/children").exists()


def descendants(pid: int) -> list[int]:
    """``pid`` and all that came from it. Orphans of a PID namespace are children of its first process, so none is lost."""
    found = [pid]
    for parent in found:
        try:
            for task in (_PROC / str(parent) / "task").iterdir():
                found += [int(child) for child in (task / "children").read_text().split()]
        except OSError:
            continue
    return found


def memory_exceeds(pid: int, limit_bytes: int) -> bool:
    """Whether the tree holds more private memory than ``limit_bytes``.

    The cheap sum counts pages that forks share once for each of them, so it only decides when to take the exact one.
    """
    pids = descendants(pid)
    if sum(_private(one) for one in pids) <= limit_bytes:
        return False
    return sum(_proportional(one) for one in pids) > limit_bytes


def cpu_ms(pid: int) -> int:
    """CPU time of the tree: of what lives, and of what has ended and was waited for."""
    return sum(_ticks(one) for one in descendants(pid)) * 1000 // CLOCK_TICKS


def _ticks(pid: int) -> int:
    """User and system time, own and of children that were waited for; also of a process that has ended and was not."""
    try:
        fields = (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
        return sum(int(field) for field in fields[11:15])
    except (OSError, ValueError):
        return 0


def _private(pid: int) -> int:
    try:
        fields = (_PROC / str(pid) / "statm").read_text().split()
        return (int(fields[1]) - int(fields[2])) * PAGE
    except (OSError, IndexError):
        return 0


def _proportional(pid: int) -> int:
    """Anonymous memory in bytes, shared pages divided among their holders; private pages where the kernel hides that."""
    try:
        text = (_PROC / str(pid) / "smaps_rollup").read_text()
    except OSError:
        return _private(pid)
    for line in text.splitlines():
        if line.startswith("Pss_Anon:"):
            return int(line.split()[1]) * 1024
    return _private(pid)

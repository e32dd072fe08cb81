"""Control groups of both versions, where this process may make them: as root, or in a delegated subtree."""

from __future__ import annotations

import os
import secrets
import time
from dataclasses import dataclass
from pathlib import Path

from schemas.testing import Limits

PREFIX = "gen4-sandbox-"
CONTROLLERS = ("memory", "pids", "cpu")
ACCOUNTING = "cpuacct"
PERIOD_US = 100_000


@dataclass(frozen=True)
class Parents:
    """Where new groups go, by controller. Version 2 has one folder for all of its controllers."""

    v1: dict[str, Path]
    v2: Path | None = None
    v2_controllers: frozenset[str] = frozenset()
    v1_accounting: Path | None = None
    """Of ``cpuacct``, which limits nothing: it may lie in a folder of its own or in that of ``cpu``."""

    def controllers(self) -> frozenset[str]:
        return frozenset(self.v1) | self.v2_controllers

    def folders(self) -> set[Path]:
        return {folder for folder in (*self.v1.values(), self.v2, self.v1_accounting) if folder}


def find_parents(proc: Path = Path("/proc/self")) -> Parents:
    """What is usable here; empty where nothing is."""
    own = _own_groups((proc / "cgroup").read_text())
    v1: dict[str, Path] = {}
    v2: tuple[Path, frozenset[str]] | None = None
    for mount, root, kind, options in _mounts((proc / "mountinfo").read_text()):
        if kind == "cgroup2":
            v2 = v2 or _delegated(mount, _below(mount, root, own.get("", "/")))
            continue
        for controller in set(options.split(",")) & {*CONTROLLERS, ACCOUNTING}:
            folder = _below(mount, root, own.get(controller, "/"))
            if controller not in v1 and os.access(folder, os.W_OK):
                v1[controller] = folder
    accounting = v1.pop(ACCOUNTING, None)
    return Parents(v1, *v2, v1_accounting=accounting) if v2 else Parents(v1, v1_accounting=accounting)


def _own_groups(text: str) -> dict[str, str]:
    """``{controller: path}``; the empty name is version 2."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        _, names, path = line.split(":", 2)
        found.update((name, path) for name in names.split(","))
    return found


def _mounts(text: str) -> list[tuple[Path, str, str, str]]:
    rows = []
    for line in text.splitlines():
        left, _, right = line.partition(" - ")
        fields, (kind, _, options) = left.split(), right.split()[:3]
        if kind in ("cgroup", "cgroup2"):
            rows.append((Path(fields[4]), fields[3], kind, options))
    return rows


def _below(mount: Path, root: str, own: str) -> Path:
    """Our own group's folder; the mount itself where the path lies outside of what is mounted."""
    relative = os.path.relpath(own, root)
    folder = mount / relative
    return folder if not relative.startswith("..") and folder.is_dir() else mount


def _delegated(mount: Path, own: Path) -> tuple[Path, frozenset[str]] | None:
    """The nearest group, ourselves upwards, below which we may make groups that have our controllers.

    A group that has processes cannot hand controllers down, so it is usually an ancestor; the real root may.
    """
    folder = own
    while True:
        if os.access(folder, os.W_OK) and os.access(folder / "cgroup.procs", os.W_OK):
            handed_down = _hand_down(folder)
            if handed_down:
                return folder, handed_down
        if folder == mount:
            return None
        folder = folder.parent


def _hand_down(folder: Path) -> frozenset[str]:
    control = folder / "cgroup.subtree_control"
    try:
        have = set((folder / "cgroup.controllers").read_text().split()) & set(CONTROLLERS)
        missing = have - set(control.read_text().split())
        if missing:
            control.write_text(" ".join(f"+{name}" for name in sorted(missing)))
        return frozenset(have & set(control.read_text().split()))
    except OSError:
        return frozenset()


@dataclass(frozen=True)
class OutOfMemory:
    """Asks the kernel whether it has killed a process of a group for the group's memory limit."""

    folder: Path | None

    @staticmethod
    def of(pid: int) -> OutOfMemory:
        """For the group of another process; always "no" where its group cannot be seen."""
        try:
            own = _own_groups(Path(f"/proc/{pid}/cgroup").read_text())
        except OSError:
            return OutOfMemory(None)
        for mount, root, kind, options in _mounts(Path("/proc/self/mountinfo").read_text()):
            name = "" if kind == "cgroup2" else "memory"
            folder = mount / os.path.relpath(own.get(name, "/"), root)
            if own.get(name, "/") != "/" and (name == "" or name in options.split(",")) and folder.is_dir():
                if (folder / "memory.events").exists() or (folder / "memory.oom_control").exists():
                    return OutOfMemory(folder)
        return OutOfMemory(None)

    def happened(self) -> bool:
        if self.folder is None:
            return False
        text = _read(self.folder / "memory.oom_control") or _read(self.folder / "memory.events")
        return any(line.startswith("oom_kill ") and line != "oom_kill 0" for line in text.splitlines())


@dataclass(frozen=True)
class CpuTime:
    """What the processes of a group have used, also those that have ended; None where the kernel does not say."""

    folder: Path | None

    @staticmethod
    def of(pid: int) -> CpuTime:
        """For the group of another process, which must not be the root's."""
        try:
            own = _own_groups(Path(f"/proc/{pid}/cgroup").read_text())
        except OSError:
            return CpuTime(None)
        for mount, root, kind, options in _mounts(Path("/proc/self/mountinfo").read_text()):
            name = "" if kind == "cgroup2" else ACCOUNTING
            folder = mount / os.path.relpath(own.get(name, "/"), root)
            if own.get(name, "/") != "/" and (name == "" or name in options.split(",")):
                if (folder / "cpuacct.usage").exists() or (folder / "cpu.stat").exists():
                    return CpuTime(folder)
        return CpuTime(None)

    def ms(self) -> int | None:
        if self.folder is None:
            return None
        if nanoseconds := _read(self.folder / "cpuacct.usage").strip():
            return int(nanoseconds) // 1_000_000
        fields = dict(line.split(" ", 1) for line in _read(self.folder / "cpu.stat").splitlines() if " " in line)
        return int(fields["usage_usec"]) // 1_000 if "usage_usec" in fields else None


class Group:
    """One sandbox's control groups."""

    def __init__(self, parents: Parents, limits: Limits) -> None:
        name = PREFIX + secrets.token_hex(8)
        self._folders = {controller: folder / name for controller, folder in parents.v1.items()}
        self._unified = parents.v2 / name if parents.v2 else None
        self._accounting = parents.v1_accounting / name if parents.v1_accounting else None
        try:
            for controller, folder in self._folders.items():
                folder.mkdir()
                _configure_v1(controller, folder, limits)
            if self._accounting and self._accounting not in self._folders.values():
                self._accounting.mkdir()
            if self._unified:
                self._unified.mkdir()
                _configure_v2(parents.v2_controllers, self._unified, limits)
        except OSError:
            self.remove()
            raise

    def add(self, pid: int) -> None:
        for folder in self._all():
            (folder / "cgroup.procs").write_text(str(pid))

    def out_of_memory(self) -> bool:
        """Whether the kernel has killed a process of this group for its memory limit."""
        return OutOfMemory(self._folders.get("memory") or self._unified).happened()

    def cpu_ms(self) -> int | None:
        """CPU time of all its processes; None where there is no such controller."""
        return CpuTime(self._accounting or self._unified).ms()

    def remove(self, patience_s: float = 5.0) -> None:
        """Remove the groups, which must be empty of processes. Raises OSError when one never becomes so."""
        for folder in self._all():
            _remove(folder, patience_s)

    def _all(self) -> list[Path]:
        return [folder for folder in dict.fromkeys((*self._folders.values(), self._unified, self._accounting)) if folder]


def reap(parents: Parents, older_than_s: float) -> int:
    """Remove empty groups that a killed worker left; one that still has processes is not ours to touch."""
    count = 0
    for parent in parents.folders():
        for folder in parent.glob(PREFIX + "*"):
            try:
                if time.time() - folder.stat().st_mtime >= older_than_s:
                    folder.rmdir()
                    count += 1
            except OSError:
                continue
    return count


def _configure_v1(controller: str, folder: Path, limits: Limits) -> None:
    if controller == "memory":
        _write(folder / "memory.limit_in_bytes", limits.memory_mb << 20)
        if (folder / "memory.memsw.limit_in_bytes").exists():
            _write(folder / "memory.memsw.limit_in_bytes", limits.memory_mb << 20)
    elif controller == "pids":
        _write(folder / "pids.max", limits.pids + 1)
    elif (folder / "cpu.cfs_quota_us").exists():
        _write(folder / "cpu.cfs_period_us", PERIOD_US)
        _write(folder / "cpu.cfs_quota_us", int(limits.cpus * PERIOD_US))


def _configure_v2(controllers: frozenset[str], folder: Path, limits: Limits) -> None:
    if "memory" in controllers:
        _write(folder / "memory.max", limits.memory_mb << 20)
        if (folder / "memory.swap.max").exists():
            _write(folder / "memory.swap.max", 0)
        _write(folder / "memory.oom.group", 1)
    if "pids" in controllers:
        _write(folder / "pids.max", limits.pids + 1)  # the sandbox's own first process
    if "cpu" in controllers:
        (folder / "cpu.max").write_text(f"{int(limits.cpus * PERIOD_US)} {PERIOD_US}")


def _write(path: Path, value: int) -> None:
    path.write_text(str(value))


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:  # also ENODEV: the engine is just removing the group
        return ""


def _remove(folder: Path, patience_s: float) -> None:
    deadline = time.monotonic() + patience_s
    while True:
        try:
            folder.rmdir()
            return
        except FileNotFoundError:
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)

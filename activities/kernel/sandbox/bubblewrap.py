"""The bubblewrap backend: namespaces, a system call filter, and identity given up before (threats 2.1).

How limits are enforced: memory, processes and CPU by control groups where we may make them. Elsewhere: memory by
RLIMIT_DATA for each process and a watchdog for the whole; processes by RLIMIT_NPROC, which the kernel counts in the
sandbox's own user namespace; CPU by affinity, so whole CPUs only. Affinity is set everywhere, and the filter does not let
the sandbox widen it.
Disk by the sizes of the tmpfs folders (their pages count as memory too); time and output by our own watch.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import secrets
import select
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, Literal

from schemas.canonical import jcs_sha256
from schemas.error import InfrastructureError
from schemas.testing import Limits, SandboxFacts

from . import cgroup, launcher, orphans, probes, seccomp, tree_watch
from .cpus import cpus_for
from .launching import check_program, readable
from .port import (
    ENVIRONMENT,
    HARNESS,
    HOME,
    RUNNER,
    UID,
    WORK,
    CpuUsed,
    Ending,
    Probe,
    RootFilesystem,
    SandboxProcess,
    SandboxSpec,
)
from .shares import DiskShares
from .supervised import Chunk, Supervised

LAUNCHER = Path(launcher.__file__)
UID_FIRST, UID_COUNT = 1_900_000_000, 65_536
"""Users that root's sandboxes become: a range that neither distributions nor systemd nor containers hand out."""

START_TIMEOUT_S = 15.0
END_TIMEOUT_S = 10.0

# The kernel kills bubblewrap when the *thread* that started it ends, so all are started by one that lives as long as we.
_STARTER = ThreadPoolExecutor(max_workers=1, thread_name_prefix="gen4-sandbox-start")

HARDENING = (
    *("--unshare-all", "--unshare-user", "--disable-userns", "--uid", str(UID), "--gid", str(UID)),
    *("--hostname", "gen4", "--cap-drop", "ALL", "--clearenv", "--new-session", "--die-with-parent"),
)


def _options(spec: SandboxSpec, at: dict[str, str]) -> list[str]:
    """Environment and file system (order matters): what bubblewrap reads from a descriptor, as its command line can be
    read from inside."""
    disk = DiskShares.of(spec.limits)
    options = [word for name, value in spec.env.items() for word in ("--setenv", name, value)]
    options += ["--ro-bind", at["root"], "/", "--proc", "/proc", "--dev", "/dev"]
    for mode, size, target in (
        ("1777", disk.shm, "/dev/shm"),
        ("1777", disk.tmp, "/tmp"),
        ("0755", disk.work, WORK),
        ("0755", disk.home, HOME),
    ):
        options += ["--perms", mode, "--size", str(size), "--tmpfs", target]
    options += ["--remount-ro", "/dev", "--ro-bind", at["runner"], RUNNER]
    if "environment" in at:
        options += ["--ro-bind", at["environment"], ENVIRONMENT]
    if "harness" in at:
        options += ["--ro-bind", at["harness"], HARNESS]
    return [*options, "--chdir", WORK]


@dataclass(frozen=True)
class Enforcement:
    """Which of the two ways each limit takes on this machine."""

    parents: cgroup.Parents

    def has(self, controller: str) -> bool:
        return controller in self.parents.controllers()

    def facts(self) -> dict[str, Literal["cgroup", "rlimit", "kernel", "watchdog", "none"]]:
        return {
            "memory": "cgroup" if self.has("memory") else "watchdog" if tree_watch.supported() else "rlimit",
            "cpus": "cgroup" if self.has("cpu") else "kernel",
            "pids": "cgroup" if self.has("pids") else "rlimit",
            "disk": "kernel",
            "wall": "watchdog",
            "output": "watchdog",
            "network": "kernel",
        }


class BubblewrapBackend:
    """Starts sandboxes with the ``bwrap`` of this machine; works as root and as an ordinary user."""

    name: Literal["docker", "bubblewrap"] = "bubblewrap"

    def __init__(self, executable: str | None = None) -> None:
        self._executable = executable or shutil.which("bwrap")
        self._enforcement = Enforcement(cgroup.find_parents())

    @cached_property
    def version(self) -> str:
        """``bubblewrap 0.8.0``. Raises InfrastructureError(SANDBOX_UNAVAILABLE)."""
        try:
            done = subprocess.run([self._bwrap(), "--version"], capture_output=True, text=True, check=True, timeout=10)
        except (OSError, subprocess.SubprocessError) as error:
            raise _unavailable(f"bubblewrap does not run: {error}") from error
        return done.stdout.strip()

    def facts(self) -> SandboxFacts:
        profile = {
            "arguments": [*HARDENING],
            "disk": DiskShares.PROFILE,
            "enforcement": self._enforcement.facts(),
            "launcher": LAUNCHER.read_text(),
            "seccomp": seccomp.bpf().hex(),
        }
        return SandboxFacts(
            backend=self.name,
            version=self.version,
            profile_sha256=jcs_sha256(profile),
            enforcement=self._enforcement.facts(),
        )

    @contextmanager
    def start(self, spec: SandboxSpec) -> Iterator[SandboxProcess]:
        check_program(spec)
        self._check_kernel()
        process = self._start(spec)
        try:
            yield process
        finally:
            process.discard()

    def probe(self, root: RootFilesystem) -> tuple[Probe, ...]:
        return probes.run(self, root)

    def reap(self, older_than_s: float) -> int:
        """Sandboxes die with their worker; what may stay is one that was just starting, and an empty control group."""
        # A younger group may be another worker's, whose sandbox is just starting and is not in it yet.
        return orphans.kill_orphans() + cgroup.reap(self._enforcement.parents, max(older_than_s, START_TIMEOUT_S))

    def _bwrap(self) -> str:
        if self._executable is None:
            raise _unavailable("bwrap is not installed")
        return self._executable

    def _check_kernel(self) -> None:
        release = tuple(int(part) for part in platform.release().split("-")[0].split(".")[:2])
        if not self._enforcement.has("pids") and release < (5, 14):
            raise _unavailable("before Linux 5.14 the number of processes can only be limited with control groups")

    def _start(self, spec: SandboxSpec) -> BubblewrapProcess:
        folders = {"root": str(spec.root.path), "runner": str(readable(spec.runner))}
        if spec.environment is not None:
            folders["environment"] = str(readable(spec.environment))
        if spec.harness is not None:
            folders["harness"] = str(readable(spec.harness))
        uid = UID_FIRST + secrets.randbelow(UID_COUNT) if os.geteuid() == 0 else None
        at = folders if uid is None else {name: f"{launcher.STAGE}/{name}" for name in folders}
        order = {"parent": os.getpid(), "uid": uid, "folders": folders, "cpus": cpus_for(spec.limits)}
        options = _options(spec, at)
        filter_fd, options_fd = _in_memory(seccomp.bpf()), _in_memory(b"".join(os.fsencode(one) + b"\0" for one in options))
        status_read, status_write = os.pipe()
        block_read, block_write = os.pipe()
        group: cgroup.Group | None = None
        try:
            command = [sys.executable, "-I", "-S", "-B", str(LAUNCHER), json.dumps(order), self._bwrap(), *HARDENING]
            command += ["--seccomp", str(filter_fd), "--json-status-fd", str(status_write), "--block-fd", str(block_read)]
            command += ["--args", str(options_fd), "--", *spec.argv]
            popen = _STARTER.submit(_popen, command, (filter_fd, options_fd, status_write, block_read)).result()
            os.close(status_write)
            status_write = -1
            try:
                init, status_rest = _first_status(popen, status_read)
                group = self._confine(init, spec.limits)
            except BaseException:
                popen.kill()
                popen.wait()
                raise
            os.write(block_write, b"1")
            return BubblewrapProcess(spec.limits, popen, init, group, (status_read, status_rest))
        except BaseException as error:
            os.close(status_read)
            if group is not None:
                group.remove()
            if isinstance(error, OSError):
                raise InfrastructureError("SANDBOX_START_FAILED", str(error), "run `gen4 doctor`") from error
            raise
        finally:
            for descriptor in (filter_fd, options_fd, status_write, block_read, block_write):
                if descriptor >= 0:
                    os.close(descriptor)

    def _confine(self, init: int, limits: Limits) -> cgroup.Group | None:
        """Limit the sandbox's first process, which waits for us; all others inherit."""
        if not self._enforcement.has("pids"):
            resource.prlimit(init, resource.RLIMIT_NPROC, (limits.pids + 1, limits.pids + 1))
        if not self._enforcement.has("memory"):
            resource.prlimit(init, resource.RLIMIT_DATA, (limits.memory_mb << 20, limits.memory_mb << 20))
        if not self._enforcement.parents.controllers():
            return None
        group = cgroup.Group(self._enforcement.parents, limits)
        try:
            group.add(init)
        except OSError:
            os.kill(init, signal.SIGKILL)
            group.remove()
            raise
        return group


class BubblewrapProcess(Supervised):
    """``init`` is the first process of the sandbox's PID namespace: with it, the kernel kills all others, and it ends last."""

    def __init__(
        self,
        limits: Limits,
        popen: subprocess.Popen[bytes],
        init: int,
        group: cgroup.Group | None,
        status: tuple[int, bytes],
    ) -> None:
        super().__init__(limits)
        self._popen = popen
        self._stdin, self._out, self._err = _pipes(popen)
        self._streams: dict[int, Literal["stdout", "stderr"]] = {self._out.fileno(): "stdout", self._err.fileno(): "stderr"}
        self._init = init
        self._group = group
        self._memory = limits.memory_mb << 20
        self._status = status
        self._handles = threading.Lock()  # whoever kills must not do so by a number that was closed and given away again
        self._outer = os.pidfd_open(popen.pid)
        try:
            self._inner: int | None = os.pidfd_open(init)
        except ProcessLookupError:
            self._inner = None  # already gone: it failed at its first steps
        self._begin()

    def discard(self) -> None:
        """Kill what still runs and wait until it is gone."""
        self.kill()
        self._close_input()
        self._done.wait()

    def _poll(self, timeout_s: float) -> Sequence[Chunk] | None:
        watched = [*self._streams, self._outer] if self._outer >= 0 else [*self._streams]
        if not watched:
            return None
        ready, _, _ = select.select(watched, [], [], timeout_s)
        chunks: list[Chunk] = []
        for descriptor in ready:
            if descriptor == self._outer:
                # The command itself has ended: whatever it left behind must not hold the pipes open.
                self._kill()
                os.close(self._outer)
                self._outer = -1
            elif data := os.read(descriptor, 1 << 16):
                chunks.append((self._streams[descriptor], data))
            else:
                del self._streams[descriptor]
        return chunks

    def _write(self, data: bytes) -> None:
        left = memoryview(data)
        while left:
            left = left[self._stdin.write(left) :]

    def _close_input(self) -> None:
        try:
            self._stdin.close()
        except OSError:
            return

    def _kill(self) -> None:
        with self._handles:
            if self._inner is not None:
                try:
                    signal.pidfd_send_signal(self._inner, signal.SIGKILL)
                except ProcessLookupError:
                    pass
            elif self._popen.poll() is None:
                self._popen.kill()

    def _reap(self) -> int:
        """The descriptor of the first process becomes readable only when its whole namespace is empty."""
        try:
            self._await_empty()
            return self._exit_code()
        finally:
            self._free()

    def _await_empty(self) -> None:
        if self._inner is not None and not select.select([self._inner], [], [], END_TIMEOUT_S)[0]:
            raise InfrastructureError(
                "SANDBOX_NOT_ENDED", f"processes of sandbox {self._init} survive SIGKILL", "look for stuck file systems"
            )
        self._await_outer()
        try:
            self._popen.wait(END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._popen.kill()
            self._popen.wait()

    def _await_outer(self) -> None:
        """Bubblewrap itself has ended but was not waited for: now it knows the time of all that it waited for."""
        if self._outer >= 0:
            select.select([self._outer], [], [], END_TIMEOUT_S)
        self._note_cpu()

    def _exit_code(self) -> int:
        """As bubblewrap reported it; without a report the command never ran or was killed with its namespace."""
        descriptor, text = self._status
        while data := os.read(descriptor, 4096):
            text += data
        for line in text.splitlines():
            report = json.loads(line)
            if "exit-code" in report:
                return int(report["exit-code"])
        if self._ending == "exited" and not self._overrun():
            raise InfrastructureError(
                "SANDBOX_START_FAILED",
                f"bubblewrap ended with {self._popen.returncode}: {self._stderr.value()[-800:].decode(errors='replace').strip()}",
                "run `gen4 doctor`",
            )
        return 128 + signal.SIGKILL

    def _free(self) -> None:
        with self._handles:
            for descriptor in (self._outer, self._inner, self._status[0]):
                if descriptor is not None and descriptor >= 0:
                    os.close(descriptor)
            self._outer, self._inner = -1, None
        self._out.close()
        self._err.close()
        if self._group is not None:
            self._out_of_memory = self._group.out_of_memory()
            self._note_cpu()
            self._group.remove()
            self._group = None

    def _count_cpu(self) -> CpuUsed:
        counted = self._group.cpu_ms() if self._group is not None else None
        if counted is not None:
            return CpuUsed(counted, "cgroup")
        return CpuUsed(tree_watch.cpu_ms(self._popen.pid), "processes")

    _out_of_memory = False

    def _overrun(self) -> Ending | None:
        if self._group is not None:
            self._out_of_memory = self._out_of_memory or self._group.out_of_memory()
        elif self._inner is not None and tree_watch.supported():
            self._out_of_memory = self._out_of_memory or tree_watch.memory_exceeds(self._init, self._memory)
        return "memory" if self._out_of_memory else None


def _in_memory(data: bytes) -> int:
    """A descriptor that reads ``data``."""
    descriptor = os.memfd_create("gen4")
    with open(descriptor, "wb", closefd=False) as file:
        file.write(data)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


def _popen(command: list[str], inherited: Sequence[int]) -> subprocess.Popen[bytes]:
    pipe = subprocess.PIPE
    return subprocess.Popen(
        command, stdin=pipe, stdout=pipe, stderr=pipe, env=orphans.environment(), pass_fds=inherited, bufsize=0,
        start_new_session=True,
    )  # fmt: skip


def _pipes(popen: subprocess.Popen[bytes]) -> tuple[IO[bytes], IO[bytes], IO[bytes]]:
    if popen.stdin is None or popen.stdout is None or popen.stderr is None:
        raise InfrastructureError("SANDBOX_START_FAILED", "started without pipes", "run `gen4 doctor`")
    return popen.stdin, popen.stdout, popen.stderr


def _first_status(popen: subprocess.Popen[bytes], descriptor: int) -> tuple[int, bytes]:
    """The number of the sandbox's first process, and what bubblewrap said after it."""
    text, deadline = b"", time.monotonic() + START_TIMEOUT_S
    while b"\n" not in text:
        left = deadline - time.monotonic()
        if left <= 0:
            raise InfrastructureError("SANDBOX_START_FAILED", "bubblewrap did not start in time", "run `gen4 doctor`")
        if select.select([descriptor], [], [], left)[0]:
            data = os.read(descriptor, 4096)
            if not data:
                raise InfrastructureError("SANDBOX_START_FAILED", _why(popen), "run `gen4 doctor`")
            text += data
    line, rest = text.split(b"\n", 1)
    return int(json.loads(line)["child-pid"]), rest


def _why(popen: subprocess.Popen[bytes]) -> str:
    _, _, stderr = _pipes(popen)
    os.set_blocking(stderr.fileno(), False)
    popen.wait(END_TIMEOUT_S)
    text = stderr.read() or b""
    return f"bubblewrap ended with {popen.returncode}: {text[-2000:].decode(errors='replace').strip()}"


def _unavailable(why: str) -> InfrastructureError:
    return InfrastructureError(
        "SANDBOX_UNAVAILABLE", why, "run: apt-get install bubblewrap — or start a Docker engine and set GEN4_SANDBOX=docker"
    )

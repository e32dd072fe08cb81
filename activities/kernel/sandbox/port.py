"""The port that everything behind the kernel uses to run foreign code (explore-verify §5, threats §2).

A sandbox sees: a read-only root filesystem, read-only folders ``/env`` (installed wheels), ``/gen4`` (our stdlib-only
runner) and, where asked for, ``/harness`` (our tools), and writable tmpfs folders ``/work``, ``/tmp`` and ``/home/gen4``
of bounded size.
Files enter as a tar on standard input and results leave as bounded streams: the host reads nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

from schemas.model import Digest
from schemas.testing import Limits, SandboxFacts

WORK = "/work"
ENVIRONMENT = "/env"
RUNNER = "/gen4"
HARNESS = "/harness"
HOME = "/home/gen4"
UID = 10001

Ending = Literal["exited", "wall_time", "memory", "output", "killed"]
"""How a run ended: by itself, or by which limit; ``killed`` = on our own request."""


@dataclass(frozen=True)
class RootFilesystem:
    """An unpacked base: ``digest`` is that of the tar made by mmdebstrap."""

    digest: Digest
    path: Path
    tar: Path
    python: str = "/usr/bin/python3"


@dataclass(frozen=True, kw_only=True)
class SandboxSpec:
    """``argv`` is a list, never a string for a shell; ``env`` is the whole environment of the process."""

    root: RootFilesystem
    argv: tuple[str, ...]
    env: dict[str, str]
    limits: Limits
    runner: Path
    """Folder bound read-only at ``/gen4``."""
    environment: Path | None = None
    """Folder bound read-only at ``/env``; None: an empty one."""
    harness: Path | None = None
    """Folder bound read-only at ``/harness``: measuring tools, which are on no path of the target; None: an empty one."""
    labels: dict[str, str] = field(default_factory=dict)


class CpuUsed(NamedTuple):
    """CPU time of all processes of a sandbox. ``source``: what counted it. ``processes``, and Docker's groups, miss what was used
    in the last tenth of a second before a kill or an end; ``none`` counted nothing."""

    ms: int = 0
    source: Literal["cgroup", "processes", "none"] = "none"


@dataclass(frozen=True)
class Completed:
    """``stderr`` keeps the last 64 KiB. ``exit_code`` is that of the process, 128 + n when a signal n ended it."""

    ending: Ending
    exit_code: int
    stderr: bytes
    wall_ms: int
    cpu: CpuUsed


class SandboxProcess(Protocol):
    """A running sandbox. Once the output or wall limit is passed it is killed to its last process."""

    def send(self, data: bytes) -> None:
        """Write to standard input. Raises InfrastructureError(SANDBOX_GONE) when the process has ended."""

    def close_input(self) -> None: ...

    def lines(self) -> Iterator[bytes]:
        """Standard output by lines, without LF, until it ends. A line longer than the output limit is never held whole."""

    def line(self, timeout_s: float) -> bytes | None:
        """The next line, None at the end of output. Raises TimeoutError after ``timeout_s`` without one."""

    def kill(self) -> None: ...

    def finish(self) -> Completed:
        """Wait for the end, make sure that no process is left, and say how it ended."""

    def cpu(self) -> CpuUsed:
        """Used so far; after the end, all of it."""


@dataclass(frozen=True)
class Probe:
    """One property tried inside a real sandbox, e.g. ``network``, ``keyring``, ``userns``, ``vsock``, ``io_uring``."""

    name: str
    ok: bool
    detail: str = ""


class SandboxBackend(Protocol):
    name: Literal["docker", "bubblewrap"]

    def facts(self) -> SandboxFacts: ...

    def start(self, spec: SandboxSpec) -> AbstractContextManager[SandboxProcess]:
        """Start a sandbox; leaving the context kills and removes it, whatever happened.

        Raises:
            InfrastructureError: SANDBOX_UNAVAILABLE, SANDBOX_START_FAILED. Never a test result.
        """

    def probe(self, root: RootFilesystem) -> tuple[Probe, ...]:
        """Try every escape that the hardening must prevent; one that is not ok refuses the backend."""

    def reap(self, older_than_s: float) -> int:
        """Remove sandboxes of ours that a killed worker left behind; how many."""

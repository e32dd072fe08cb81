"""The sandboxes that run in this process: whose they are, what they use, and why one was killed from outside.

``KnownBackend`` stands between the kernel and a real backend. A sandbox that somebody killed never gives a result: whatever
its user was doing with it ends with the error that says why.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol, TypeVar

from activities.kernel.acting import Acting, acting
from activities.kernel.metering import metering
from schemas.error import Gen4Error, InfrastructureError, Stopped
from schemas.testing import SandboxFacts

from .port import Completed, CpuUsed, Probe, RootFilesystem, SandboxBackend, SandboxProcess, SandboxSpec

KillCode = Literal["KILL_SWITCH", "LEASE_REVOKED", "TENANT_INACTIVE", "STORE_LOST"]
_numbers = itertools.count(1)


class Cause(NamedTuple):
    """Why a sandbox is killed from outside."""

    code: KillCode
    message: str

    def error(self) -> Gen4Error:
        """What its user gets: tried again where only the store was lost, final otherwise."""
        if self.code == "STORE_LOST":
            return InfrastructureError("SANDBOX_KILLED", f"{self.code}: {self.message}", "nothing was judged; it is tried again")
        return Stopped(self.code, f"the running sandbox was killed: {self.message}", "see `gen4 kill list` and `gen4 events`")


class Stoppable(Protocol):
    """What can be killed and counts its CPU time: a sandbox here, or a run that an executor makes for us."""

    def kill(self) -> None: ...

    def cpu(self) -> CpuUsed: ...


S = TypeVar("S", bound=Stoppable)


@dataclass(eq=False)
class Entry:
    """One running sandbox. ``who`` is None where no activity started it."""

    process: Stoppable
    who: Acting | None
    number: int = field(default_factory=lambda: next(_numbers))
    cause: Cause | None = None

    def require_alive(self) -> None:
        """Raises the error of whoever killed it."""
        if self.cause is not None:
            raise self.cause.error()


class Running:
    """The registry, one per worker process. Every method may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._entries: set[Entry] = set()

    def add(self, process: Stoppable, who: Acting | None) -> Entry:
        entry = Entry(process, who)
        with self._lock:
            self._entries.add(entry)
        return entry

    def remove(self, entry: Entry) -> None:
        with self._lock:
            self._entries.discard(entry)

    def entries(self) -> list[Entry]:
        with self._lock:
            return sorted(self._entries, key=lambda entry: entry.number)

    def sessions(self) -> frozenset[str]:
        """Ids of the sessions that something runs for."""
        return frozenset(entry.who.keys.session_id for entry in self.entries() if entry.who is not None)

    def kill(self, judge: Callable[[Acting | None], Cause | None]) -> list[Entry]:
        """Kill every sandbox for which ``judge`` names a cause; those that were not killed before are returned.

        Returns at once; that the processes are gone is made sure of by whoever started the sandbox.
        """
        killed: list[Entry] = []
        for entry in self.entries():
            if entry.cause is None and (cause := judge(entry.who)) is not None:
                entry.cause = cause
                killed.append(entry)
                entry.process.kill()
        return killed


class _Known:
    """A process that says by whom it was killed instead of how it ended then."""

    def __init__(self, entry: Entry, process: SandboxProcess) -> None:
        self._entry = entry
        self._process = process

    def send(self, data: bytes) -> None:
        try:
            self._process.send(data)
        except InfrastructureError:
            self._entry.require_alive()
            raise

    def close_input(self) -> None:
        self._process.close_input()

    def lines(self) -> Iterator[bytes]:
        yield from self._process.lines()
        self._entry.require_alive()

    def line(self, timeout_s: float) -> bytes | None:
        line = self._process.line(timeout_s)
        if line is None:
            self._entry.require_alive()
        return line

    def kill(self) -> None:
        self._process.kill()

    def finish(self) -> Completed:
        try:
            return self._process.finish()
        finally:
            self._entry.require_alive()

    def cpu(self) -> CpuUsed:
        return self._process.cpu()


@contextmanager
def known(started: AbstractContextManager[S], running: Running) -> Iterator[tuple[Entry, S]]:
    """Register and meter what ``started`` starts, as long as it runs; errors as :meth:`KnownBackend.start` raises them."""
    meter = metering()
    meter.tool_call()
    entry: Entry | None = None
    try:
        with meter.sandbox(), started as process:
            entry = running.add(process, _who())
            try:
                yield entry, process
            finally:
                running.remove(entry)
    except Exception:
        if entry is not None:
            entry.require_alive()  # also when what was seen of the death was taken for something else
        raise
    finally:
        if entry is not None:
            meter.cpu(entry.process.cpu().ms)
    entry.require_alive()


class KnownBackend:
    """A ``SandboxBackend`` whose sandboxes are registered and metered."""

    def __init__(self, backend: SandboxBackend, running: Running) -> None:
        self.name: Literal["docker", "bubblewrap"] = backend.name
        self._backend = backend
        self._running = running

    def facts(self) -> SandboxFacts:
        return self._backend.facts()

    @contextmanager
    def start(self, spec: SandboxSpec) -> Iterator[SandboxProcess]:
        """As the port says; besides:

        Raises:
            InfrastructureError: SANDBOX_KILLED when the worker lost its store while it ran.
            Stopped: KILL_SWITCH, LEASE_REVOKED, TENANT_INACTIVE when it was killed for that; TOOL_CALLS_LIMIT.
        """
        with known(self._backend.start(spec), self._running) as (entry, process):
            yield _Known(entry, process)

    def probe(self, root: RootFilesystem) -> tuple[Probe, ...]:
        return self._backend.probe(root)

    def reap(self, older_than_s: float) -> int:
        return self._backend.reap(older_than_s)


def _who() -> Acting | None:
    try:
        return acting()
    except LookupError:
        return None

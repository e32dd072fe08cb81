"""What both backends share: one thread that moves output, watches the limits and ends the sandbox."""

from __future__ import annotations

import abc
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Literal

from schemas.error import Gen4Error, InfrastructureError
from schemas.testing import Limits

from .output import LineStream, Tail
from .port import Completed, CpuUsed, Ending

TICK_S = 0.1
"""How often the limits are looked at."""

DRAIN_S = 10.0
"""How long output may still come after a kill."""

Chunk = tuple[Literal["stdout", "stderr"], bytes]


class Supervised(abc.ABC):
    """A ``SandboxProcess``. A backend says how to poll, write, kill and reap; this class says when.

    The stream of lines ends only after ``_reap`` has confirmed that the last process is gone.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._stdout = LineStream(limits.output_bytes)
        self._stderr = Tail()
        self._ending: Ending = "exited"
        self._cpu = CpuUsed()
        self._lock = threading.Lock()
        self._stopped: float | None = None
        self._done = threading.Event()
        self._started = time.monotonic()
        self._counted = 0.0
        self._completed: Completed | None = None
        self._error: Gen4Error | None = None
        self._thread = threading.Thread(target=self._supervise, name="gen4-sandbox", daemon=True)

    def _begin(self) -> None:
        self._started = time.monotonic()
        self._thread.start()

    # What a backend supplies.

    @abc.abstractmethod
    def _poll(self, timeout_s: float) -> Sequence[Chunk] | None:
        """Output that came within ``timeout_s``; None once there will be no more."""

    @abc.abstractmethod
    def _write(self, data: bytes) -> None:
        """All of ``data`` to standard input. Raises OSError when the reader is gone."""

    @abc.abstractmethod
    def _close_input(self) -> None: ...

    @abc.abstractmethod
    def _kill(self) -> None:
        """Kill every process of the sandbox; harmless when there is none."""

    @abc.abstractmethod
    def _reap(self) -> int:
        """Wait until no process is left and free everything; the exit code. Raises InfrastructureError."""

    @abc.abstractmethod
    def _overrun(self) -> Ending | None:
        """The limit, other than time and output, that is passed now."""

    @abc.abstractmethod
    def _count_cpu(self) -> CpuUsed:
        """CPU time used so far, as far as it can be seen now; never more than was used."""

    # The protocol.

    def send(self, data: bytes) -> None:
        try:
            if self._done.is_set():
                raise BrokenPipeError("the process has ended")
            self._write(data)
        except (OSError, ValueError) as error:
            raise InfrastructureError(
                "SANDBOX_GONE", f"the sandbox no longer reads its input: {error}", "see how the run ended"
            ) from error

    def close_input(self) -> None:
        self._close_input()

    def lines(self) -> Iterator[bytes]:
        while (line := self._stdout.line(None)) is not None:
            yield line

    def line(self, timeout_s: float) -> bytes | None:
        return self._stdout.line(timeout_s)

    def kill(self) -> None:
        self._stop("killed")

    def finish(self) -> Completed:
        self._close_input()
        self._done.wait()
        if self._error is not None:
            raise self._error
        if self._completed is None:
            raise InfrastructureError("SANDBOX_BROKEN", "the sandbox ended without a result", "see the worker's log")
        return self._completed

    def cpu(self) -> CpuUsed:
        return self._cpu

    # The supervising thread.

    def _supervise(self) -> None:
        try:
            code = self._watch()
            wall_ms = int((time.monotonic() - self._started) * 1000)
            self._completed = Completed(self._ending, code, self._stderr.value(), wall_ms, self._cpu)
        except Gen4Error as error:
            self._error = error
        except Exception as error:
            self._error = InfrastructureError("SANDBOX_BROKEN", f"{type(error).__name__}: {error}", "see the worker's log")
        finally:
            self._stdout.end()
            self._done.set()

    def _watch(self) -> int:
        try:
            while (chunks := self._poll(TICK_S)) is not None:
                for stream, data in chunks:
                    self._take(stream, data)
                self._enforce()
                if self._stopped is not None and time.monotonic() - self._stopped > DRAIN_S:
                    break  # killed, and yet somebody holds the pipes: reaping will say who
        finally:
            self._kill()
            code = self._reap()
        if self._ending == "exited" and (late := self._overrun()):
            self._ending = late
        return code

    def _take(self, stream: Literal["stdout", "stderr"], data: bytes) -> None:
        if stream == "stderr":
            self._stderr.feed(data)
            fits = self._stderr.taken <= self._limits.output_bytes
        else:
            fits = self._stdout.feed(data)
        if not fits:
            self._stop("output")

    def _note_cpu(self) -> None:
        self._cpu = max(self._cpu, self._count_cpu())

    def _enforce(self) -> None:
        if time.monotonic() - self._counted >= TICK_S:
            self._counted = time.monotonic()
            self._note_cpu()
        if (time.monotonic() - self._started) * 1000 >= self._limits.wall_ms:
            self._stop("wall_time")
        elif ending := self._overrun():
            self._stop(ending)

    def _stop(self, ending: Ending) -> None:
        with self._lock:
            if self._done.is_set() or self._ending != "exited":
                return
            self._ending = ending
            self._stopped = time.monotonic()
        self._kill()

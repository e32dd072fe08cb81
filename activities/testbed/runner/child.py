"""A child that runs foreign code: it reports over a socket with a token, its output is kept as a bounded tail."""

from __future__ import annotations

import fcntl
import json
import os
import resource
import select
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Callable
from typing import Any, NoReturn

from .host import Host, set_dumpable

PYTEST_MISSING, CLOCK_RUNS, NO_TRACER = 71, 72, 73
"""Exit codes of a child that cannot begin."""
TAIL_BYTES = 16 * 1024
_LINE_LIMIT = 8 * 1024 * 1024
_MOST_HELD = 100
_POLL_S = 0.05
_GATHER_S = 0.01
"""How long reports come together where nobody waits for an answer: to be woken for each takes longer than many a test."""


class BrokenReport(Exception):
    """Something other than our reporter wrote to the socket."""


class Reporter:
    """The child's end. What it writes is a line for one report or several. The token keeps blind writes to the descriptor from
    being read as reports, and the number a line from being read twice."""

    def __init__(self, descriptor: int, token: str) -> None:
        self.descriptor, self.token = descriptor, token
        self._owner = os.getpid()
        self._number = 0
        self._held: list[dict[str, Any]] = []

    def __call__(self, event: str, **fields: Any) -> None:
        self._held.append({"event": event, **fields})
        self._write()

    def with_next(self, event: str, **fields: Any) -> None:
        """Report it together with the next one."""
        self._held.append({"event": event, **fields})
        if len(self._held) > _MOST_HELD:
            self._write()

    def _write(self) -> None:
        if os.getpid() != self._owner:
            return  # a test forked and its copy of pytest runs on
        line = f"{self.token} {self._number} {json.dumps(self._held)}\n".encode()
        self._held.clear()
        self._number += 1
        while line:
            line = line[os.write(self.descriptor, line) :]


class Child:
    """The supervisor's end. ``next`` gives reports in order, then how the process ended."""

    def __init__(self, pid: int, reports: int, output: int, token: str) -> None:
        self.pid = pid
        self.status: int | None = None
        """Exit code, negative for a signal; None while it runs."""
        self.tail = b""
        self._reports, self._output, self._token = reports, output, token
        self._buffer = b""
        self._number = 0
        self._pending: deque[dict[str, Any]] = deque()
        self._open = {reports, output}

    @classmethod
    def fork(cls, host: Host, main: Callable[[Reporter], int]) -> Child:
        """Run ``main`` in a new session of its own; it never returns into the caller's code."""
        # No pipe: code under test could open the reading end of one by its name in /proc, and take reports out of it.
        reports, report_end = (end.detach() for end in socket.socketpair())
        report_end = _out_of_the_way(report_end)
        output, output_end = os.pipe()
        token = os.urandom(16).hex()
        pid = os.fork()
        if pid == 0:
            code = 70
            try:
                _become_child(host, (reports, output), output_end)
                code = main(Reporter(report_end, token))
            except BaseException:  # noqa: BLE001  whatever foreign code raises ends here, with its text in the tail
                import traceback  # which the supervisor never needs

                traceback.print_exc()
            finally:
                leave(code)
        os.close(report_end)
        os.close(output_end)
        os.set_blocking(reports, False)
        os.set_blocking(output, False)
        return cls(pid, reports, output, token)

    @classmethod
    def execute(cls, host: Host, order: dict[str, Any], variables: dict[str, str]) -> Child:
        """A new interpreter, which holds nothing of this one's memory; ``main.py`` hands ``order`` to :mod:`inside`."""
        return cls.fork(host, lambda report: _execute(order, variables, report))

    def next(self, deadline: float, meanwhile: Callable[[], None] | None = None) -> dict[str, Any] | None:
        """The next report; None once the child has ended and all its reports were read.

        ``meanwhile`` is called whenever all that came is read; whoever has something else to do is in no hurry for the next.

        Raises:
            TimeoutError: the deadline (``time.monotonic``) passed first.
            BrokenReport: a line without the token, or one that is not JSON.
        """
        while not self._pending:
            if self.status is not None:
                self._drain()
                return self._pending.popleft() if self._pending else None
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            if meanwhile is not None:
                meanwhile()
                time.sleep(min(left, _GATHER_S))
            # A grandchild may hold both open for ever, so the end of the child is asked for as well.
            if self._open:
                for descriptor in select.select(list(self._open), [], [], min(left, _POLL_S))[0]:
                    self._read(descriptor)
            else:
                time.sleep(min(left, 0.005))
            if not self._pending:
                self._reap()
        return self._pending.popleft()

    def kill(self) -> None:
        """Kill the child and everything that it started, however it detached itself."""
        if self.status is None:
            _kill(self.pid)
            self.status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        kill_descendants()

    def close(self) -> None:
        self.kill()
        self._drain()
        for descriptor in (self._reports, self._output):
            os.close(descriptor)

    def _reap(self) -> None:
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        if pid:
            self.status = os.waitstatus_to_exitcode(status)

    def _drain(self) -> None:
        for descriptor in list(self._open):
            while descriptor in self._open and self._read(descriptor):
                pass

    def _read(self, descriptor: int) -> bool:
        """Read what is there; False when nothing was."""
        try:
            data = os.read(descriptor, 1 << 16)
        except BlockingIOError:
            return False
        if not data:
            self._open.discard(descriptor)
            return False
        if descriptor == self._output:
            self.tail = (self.tail + data)[-TAIL_BYTES:]
        else:
            self._split(data)
        return True

    def _split(self, data: bytes) -> None:
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        if len(self._buffer) > _LINE_LIMIT:
            raise BrokenReport("a report without end")
        for line in lines:
            start = f"{self._token} {self._number} ".encode()
            if not line.startswith(start):
                raise BrokenReport("the report's descriptor was written by foreign code")
            self._number += 1
            try:
                self._pending.extend(json.loads(line[len(start) :]))
            except (ValueError, TypeError) as error:
                raise BrokenReport(f"a report that is none: {error}") from error


def kill_descendants() -> None:
    """Kill every process below this one. We are their subreaper, so a double fork or setsid hides none."""
    for _ in range(100):
        children = _descendants()
        if not children:
            return
        for pid in children:
            _kill(pid)
        while True:
            try:
                if os.waitpid(-1, os.WNOHANG)[0] == 0:
                    break
            except ChildProcessError:
                break
        time.sleep(0.005)


def _descendants() -> list[int]:
    parents: dict[int, int] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", "rb") as file:
                    parents[int(name)] = int(file.read().rsplit(b")", 1)[1].split()[1])
            except OSError:
                continue
    found, ours = [os.getpid()], os.getpid()
    for pid in found:
        found.extend(child for child, parent in parents.items() if parent == pid)
    return [pid for pid in found if pid != ours]


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def _become_child(host: Host, parents_ends: tuple[int, ...], output_end: int) -> None:
    os.setsid()
    host.close_in_child()
    for descriptor in parents_ends:
        os.close(descriptor)
    os.dup2(output_end, 1)
    os.dup2(output_end, 2)
    os.close(output_end)
    # Not dumpable hides /proc/self from a test that looks at its own descriptors or maps.
    set_dumpable(True)


def _out_of_the_way(descriptor: int) -> int:
    """The same at a random high number: programs that close or write to low ones do not hit it by chance."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    most = 4096 if limit == resource.RLIM_INFINITY else min(limit, 4096)
    lowest = most // 4 + int.from_bytes(os.urandom(2), "big") % (most // 2)
    moved = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, lowest)
    os.close(descriptor)
    return moved


def _execute(order: dict[str, Any], variables: dict[str, str], report: Reporter) -> int:
    descriptor = os.memfd_create("order", 0)
    with open(descriptor, "w", closefd=False) as file:
        json.dump({"order": order, "descriptor": report.descriptor, "token": report.token}, file)
    os.lseek(descriptor, 0, os.SEEK_SET)
    os.set_inheritable(report.descriptor, True)
    main = os.path.join(os.path.dirname(os.path.abspath(__file__)), "main.py")
    os.execve(sys.executable, [sys.executable, "-S", "-s", "-P", "-B", main, str(descriptor)], {**os.environ, **variables})


def leave(code: int) -> NoReturn:
    """End this process."""
    # Neither exit handlers nor threads that the tests left behind get another turn.
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):
            pass
    os._exit(code)

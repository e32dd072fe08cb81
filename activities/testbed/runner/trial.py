"""Some collected tests, run in a fork that may loop, crash, flood or eat memory without harm to the rest."""

from __future__ import annotations

import ctypes
import functools
import gc
import json
import os
import resource
import select
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from .child import kill_descendants
from .collected import Collected

_SALVAGE_S = 1.0
_PR_SET_CHILD_SUBREAPER = 36
_LINE_LIMIT = 16 * 1024 * 1024


@dataclass(frozen=True)
class Bounds:
    """``cpu_s`` and ``wall_s`` are for one test, ``memory`` is what the fork may add, in bytes."""

    cpu_s: float
    wall_s: float
    memory: int


@dataclass(frozen=True)
class Done:
    """``outcome`` is canonical, or ``timeout`` or ``crashed``, which end the trial. ``extra``: what the observer returned."""

    nodeid: str
    outcome: str
    ms: float
    extra: Any = None


class Trial:
    """``prepare`` runs in the fork before the first test, ``observe`` around each test (start it, and get what it saw);
    ``salvage`` gives what was seen of a test that runs out of time."""

    def __init__(
        self,
        collected: Collected,
        bounds: Callable[[str], Bounds],
        prepare: Callable[[], None] | None = None,
        observe: Callable[[Callable[[], str]], tuple[str, Any]] | None = None,
        salvage: Callable[[], Any] | None = None,
    ) -> None:
        self._collected, self._bounds, self._prepare = collected, bounds, prepare
        self._observe, self._salvage = observe, salvage

    def run(self, nodeids: list[str], stop: Callable[[str], bool] = lambda outcome: False) -> Iterator[Done]:
        """Results in order; ends early behind an outcome for which ``stop`` is true."""
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(reading)
            self._in_fork(writing, nodeids, stop)
        os.close(writing)
        try:
            yield from self._follow(pid, reading, nodeids)
        finally:
            os.close(reading)
            end_process(pid)
            end_strays()

    def _follow(self, pid: int, reading: int, nodeids: list[str]) -> Iterator[Done]:
        buffer = b""
        current = nodeids[0] if nodeids else ""
        began = time.monotonic()
        deadline = began + self._bounds(current).wall_s + 1.0
        asked_to_end = False
        while True:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([reading], [], [], left)[0]:
                if not asked_to_end and self._salvage is not None:
                    asked_to_end, deadline = True, time.monotonic() + _SALVAGE_S
                    os.kill(pid, signal.SIGPROF)
                    continue
                yield Done(current, "timeout", (time.monotonic() - began) * 1000)
                return
            data = os.read(reading, 1 << 16)
            if not data or len(buffer) > _LINE_LIMIT:
                break
            *lines, buffer = (buffer + data).split(b"\n")
            for line in lines:
                message = json.loads(line)
                if "start" in message:
                    current, began = message["start"], time.monotonic()
                    deadline = began + self._bounds(current).wall_s
                elif "end" in message:
                    return
                else:
                    yield Done(message["done"], message["outcome"], message["ms"], message.get("extra"))
                    if message["outcome"] == "timeout":
                        return
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        yield Done(current, "timeout" if status == -signal.SIGPROF else "crashed", (time.monotonic() - began) * 1000)

    def _in_fork(self, writing: int, nodeids: list[str], stop: Callable[[str], bool]) -> None:
        try:
            os.setsid()
            gc.disable() if len(nodeids) <= 3 else gc.enable()
            if self._prepare is not None:
                self._prepare()
            for index, nodeid in enumerate(nodeids):
                following = nodeids[index + 1] if index + 1 < len(nodeids) else None
                bounds = self._bounds(nodeid)
                _bound(bounds, first=index == 0)
                if self._salvage is not None:
                    signal.signal(signal.SIGPROF, functools.partial(_give_up, writing, nodeid, self._salvage))
                _write(writing, {"start": nodeid})
                began = time.monotonic()
                run = functools.partial(self._collected.run, nodeid, following)
                outcome, extra = (run(), None) if self._observe is None else self._observe(run)
                _write(writing, {"done": nodeid, "outcome": outcome, "ms": (time.monotonic() - began) * 1000, "extra": extra})
                if stop(outcome):
                    break
            _write(writing, {"end": True})
        finally:
            os._exit(0)


def _bound(bounds: Bounds, first: bool) -> None:
    # The profiling timer counts CPU time, so that a busy machine does not turn slow tests into failing ones.
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_PROF, bounds.cpu_s)
    if first:
        with open("/proc/self/statm", "rb") as file:
            present = int(file.read().split()[0]) * resource.getpagesize()
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        limit = present + bounds.memory
        resource.setrlimit(resource.RLIMIT_AS, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))


def _give_up(writing: int, nodeid: str, salvage: Callable[[], Any], *_: object) -> None:
    _write(writing, {"done": nodeid, "outcome": "timeout", "ms": 0.0, "extra": salvage()})
    os._exit(0)


def _write(descriptor: int, message: dict[str, Any]) -> None:
    data = json.dumps(message).encode() + b"\n"
    while data:
        data = data[os.write(descriptor, data) :]


def end_process(pid: int) -> None:
    """End a fork and its process group."""
    for kill in (os.killpg, os.kill):
        try:
            kill(pid, signal.SIGKILL)
            break
        except ProcessLookupError:
            continue
    try:
        os.waitpid(pid, 0)
    except ChildProcessError:
        pass


def end_strays() -> None:
    """End every descendant of this process, which must be a subreaper with no child of its own left."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return
    kill_descendants()


def be_subreaper() -> None:
    """Whatever a test leaves behind becomes our child and can be found."""
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")

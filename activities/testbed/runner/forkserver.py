"""Mode ``forkserver``: decides candidate edits on the failing tests, then on the whole suite, without a fresh process each.

Processes: the supervisor relays lines; the *zygote* has imported pytest but nothing of the tree; the *server* is its fork that
has collected the tests. An edit inside a function body is decided in forks of the server, in which the function has its new
code. Any other edit is written to the file for as long as a further fork of the zygote collects and decides it.

Requests: {"kind": "try", "id", "path", "start", "end", "text", "targets": [index]}.
Answers: ``verdict`` {id, verdict, mended, detail, how, ms}, where verdict is ``plausible``, ``breaks`` (mends, but loses
``detail``), ``fails``, ``same`` (no other code), ``invalid`` (does not compile), ``timeout``, or ``broken`` (nothing could be
concluded).
"""

from __future__ import annotations

import gc
import json
import os
import select
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from .child import PYTEST_MISSING, BrokenReport, Child, Reporter
from .collected import Collected, files_of
from .host import Host
from .swap import Functions, Invalid, NeedsImport, Unchanged
from .target import PutTreeFirst, Target, pytest_arguments
from .trial import Bounds, Trial, be_subreaper, end_process

_STARTUP_S = 120.0
_ENDLESS_S = 20.0
_CPU_FLOOR_S = 0.5
_OWN_FACTOR = 10.0
_SLOWEST_FACTOR = 2.0
_WALL_FACTOR = 5.0


def run(job: dict[str, Any], host: Host) -> dict[str, Any]:
    """``job``: that of mode ``tests``, and ``targets``, ``passing`` (ids), ``named`` (all targets must pass), ``memory_mb``."""
    ends_at = time.monotonic() + job["wall_ms"] / 1000
    requests, to_zygote = os.pipe()
    child = Child.fork(host, lambda report: _zygote(job, report, requests, to_zygote))
    os.close(requests)
    code = ""
    try:
        code = _relay(child, host, to_zygote, ends_at)
    except TimeoutError:
        code = "RUN_TIMEOUT"
    except (BrokenReport, BrokenPipeError):
        code = "HARNESS_BROKEN"
    finally:
        os.close(to_zygote)
        child.close()
    if child.status == PYTEST_MISSING:
        code = "PYTEST_MISSING"
    return {"codes": [code] if code else [], "tail": child.tail.decode("utf-8", "backslashreplace")}


def _relay(child: Child, host: Host, to_zygote: int, ends_at: float) -> str:
    """Pass answers to the host until ``ready`` or ``verdict``, then one request to the zygote; the code when it ended early."""
    while True:
        while True:
            event = child.next(ends_at)
            if event is None:
                return "HARNESS_BROKEN"
            kind = event.pop("event")
            host.send(kind, **event)
            if kind in ("ready", "verdict"):
                break
        request = host.receive()
        if request is None or request.get("kind") != "try":
            return ""
        _write_line(to_zygote, request)


def _zygote(job: dict[str, Any], report: Reporter, requests: int, to_zygote: int) -> int:
    os.close(to_zygote)
    be_subreaper()
    target = Target(job)
    target.enter()
    try:
        import pytest  # noqa: F401  every fork needs it
    except ModuleNotFoundError:
        return PYTEST_MISSING
    gc.freeze()
    server = _Server.start(job, target)
    calibration = server.receive(time.monotonic() + _STARTUP_S + job["wall_ms"] / 1000)
    report("ready", **{name: value for name, value in calibration.items() if name != "times_ms"})
    lines = _Lines(requests)
    while (request := lines.next(None)) is not None:
        began = time.monotonic()
        answer = server.ask(request)
        if answer["verdict"] == "needs_import":
            answer = _decide_by_import(job, target, calibration, request)
        report("verdict", id=request["id"], ms=round((time.monotonic() - began) * 1000, 2), **answer)
        if server.gone:
            server = _Server.start(job, target)
            server.receive(time.monotonic() + _STARTUP_S + job["wall_ms"] / 1000)
    server.stop()
    return 0


class _Server:
    """The zygote's end of a fork that has collected the tests and answers requests."""

    def __init__(self, pid: int, requests: int, answers: int) -> None:
        self._pid, self._requests = pid, requests
        self._answers = _Lines(answers)
        self.gone = False

    @classmethod
    def start(cls, job: dict[str, Any], target: Target) -> _Server:
        requests, to_server = os.pipe()
        answers, from_server = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                os.setsid()
                be_subreaper()
                os.close(to_server)
                os.close(answers)
                deciding = _Deciding(job, target)
                _collect(job, target, None, lambda collected: deciding.serve(collected, _Lines(requests), from_server))
            finally:
                os._exit(0)
        os.close(requests)
        os.close(from_server)
        return cls(pid, to_server, answers)

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        try:
            _write_line(self._requests, request)
            answer = self._answers.next(None)
        except BrokenPipeError:
            answer = None
        if answer is None:
            self.stop()
            return {"verdict": "broken", "mended": [], "detail": "the server ended", "how": "swap"}
        return answer

    def receive(self, deadline: float) -> dict[str, Any]:
        try:
            answer = self._answers.next(deadline)
        except TimeoutError:
            answer = None
        if answer is None:
            self.stop()
            return {"collected": 0, "unsteady": [], "times_ms": {}, "codes": ["HARNESS_BROKEN"]}
        return answer

    def stop(self) -> None:
        self.gone = True
        end_process(self._pid)


class _Deciding:
    """What a fork with collected tests does with one edit: targets first, then everything that passed on base."""

    def __init__(self, job: dict[str, Any], target: Target, calibration: dict[str, Any] | None = None) -> None:
        self._job, self._work = job, target.work
        self._targets: list[str] = job["targets"]
        self._passing: list[str] = job["passing"]
        self._adopt(calibration or {"unsteady": [], "times_ms": {}})

    def _adopt(self, calibration: dict[str, Any]) -> None:
        self._unsteady = set(calibration["unsteady"])
        self._ms: dict[str, float] = calibration["times_ms"]
        self._slowest_ms = max((self._ms.get(nodeid, 0.0) for nodeid in self._passing), default=0.0)

    def serve(self, collected: Collected, requests: _Lines, answers: int) -> None:
        functions = Functions(self._work)
        gc.collect()
        gc.freeze()
        _write_line(answers, self._calibrate(collected))
        while (request := requests.next(None)) is not None:
            _write_line(answers, self._decide_by_swap(collected, functions, request))

    def _calibrate(self, collected: Collected) -> dict[str, Any]:
        """Run everything unedited: how long tests take, and which do not do in a fork what they did in a run."""
        known = [nodeid for nodeid in self._passing if nodeid in collected.items]
        targets = [nodeid for nodeid in self._targets if nodeid in collected.items]
        times_ms: dict[str, float] = {}
        outcomes: dict[str, str] = {}
        for left, bounds in ((known, self._generous), *(([nodeid], self._endless) for nodeid in targets)):
            while left:
                seen = 0
                for done in Trial(collected, bounds).run(left):
                    seen += 1
                    outcomes[done.nodeid] = done.outcome
                    # How long a test would have gone on says nothing about how long it needs once it is mended.
                    times_ms[done.nodeid] = 0.0 if done.outcome == "timeout" else round(done.ms, 2)
                left = left[max(seen, 1) :]
        unsteady = {nodeid for nodeid in known if outcomes.get(nodeid) != "passed"}
        unsteady |= {nodeid for nodeid in targets if outcomes.get(nodeid) == "passed"}
        calibration = {"collected": len(collected.items), "unsteady": sorted(unsteady), "times_ms": times_ms, "codes": []}
        self._adopt(calibration)
        return calibration

    def _decide_by_swap(self, collected: Collected, functions: Functions, request: dict[str, Any]) -> dict[str, Any]:
        try:
            exchanges = functions.edited(request["path"], request["start"], request["end"], request["text"])
        except NeedsImport as reason:
            return {"verdict": "needs_import", "mended": [], "detail": str(reason), "how": "swap"}
        except Unchanged:
            return {"verdict": "same", "mended": [], "detail": "", "how": "swap"}
        except Invalid as reason:
            return {"verdict": "invalid", "mended": [], "detail": str(reason)[:200], "how": "swap"}

        def exchange() -> None:
            for function, code in exchanges:
                function.__code__ = code

        answer = self.on_targets(collected, request, exchange)
        if answer["verdict"] == "mends":
            answer = self.on_suite(collected, answer["mended"], exchange)
        return {**answer, "how": "swap"}

    def on_targets(self, collected: Collected, request: dict[str, Any], prepare: Callable[[], None] | None) -> dict[str, Any]:
        asked = [self._targets[index] for index in request["targets"]]
        asked = [nodeid for nodeid in asked if nodeid in collected.items and nodeid not in self._unsteady]
        mended: list[str] = []
        slow = False
        left = asked
        while left:
            seen = 0
            for done in Trial(collected, self._bounds, prepare).run(
                left, stop=lambda outcome: self._job["named"] and outcome != "passed"
            ):
                seen += 1
                slow = slow or done.outcome == "timeout"
                if done.outcome == "passed":
                    mended.append(done.nodeid)
                elif self._job["named"]:
                    return _answer("timeout" if slow else "fails", [], done.nodeid)
            left = left[max(seen, 1) :]
        if not mended:
            return _answer("timeout" if slow else "fails", [], "")
        return _answer("mends", mended, "")

    def on_suite(self, collected: Collected, mended: list[str], prepare: Callable[[], None] | None) -> dict[str, Any]:
        wanted = (set(self._passing) - self._unsteady) | set(mended)
        asked = [nodeid for nodeid in collected.items if nodeid in wanted]
        for done in Trial(collected, self._bounds, prepare).run(asked, stop=lambda outcome: outcome != "passed"):
            if done.outcome != "passed":
                return _answer("breaks", mended, done.nodeid)
        return _answer("plausible", mended, "")

    def _generous(self, nodeid: str) -> Bounds:
        seconds = self._job["test_ms"] / 1000
        return Bounds(cpu_s=seconds, wall_s=seconds, memory=self._job["memory_mb"] * 1024 * 1024 // 2)

    def _endless(self, nodeid: str) -> Bounds:
        bounds = self._generous(nodeid)
        return replace(bounds, cpu_s=min(bounds.cpu_s, _ENDLESS_S), wall_s=min(bounds.wall_s, _ENDLESS_S))

    def _bounds(self, nodeid: str) -> Bounds:
        # Most edits that make a test slow make it endless, so it gets a multiple of its own time, not the user's limit. A test
        # that failed early may need longer once it is mended: as long as the slowest of the others do.
        allowed = self._job["test_ms"] / 1000
        usual = max(self._ms.get(nodeid, 0.0) * _OWN_FACTOR, self._slowest_ms * _SLOWEST_FACTOR) / 1000
        return Bounds(
            cpu_s=min(allowed, _CPU_FLOOR_S + usual),
            wall_s=min(allowed, _WALL_FACTOR * _CPU_FLOOR_S + 2 * usual),
            memory=self._job["memory_mb"] * 1024 * 1024 // 2,
        )


def _decide_by_import(
    job: dict[str, Any], target: Target, calibration: dict[str, Any], request: dict[str, Any]
) -> dict[str, Any]:
    """The edit is in the file while forks that have not yet imported the tree collect: the targets' files, then all."""
    file = os.path.join(target.work, request["path"])
    with open(file, "rb") as handle:
        data = handle.read()
    edited = data[: request["start"]] + request["text"].encode() + data[request["end"] :]
    try:
        compile(edited, file, "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError, MemoryError, OverflowError) as error:
        return {"verdict": "invalid", "mended": [], "detail": str(error)[:200], "how": "import"}
    try:
        with open(file, "wb") as handle:
            handle.write(edited)
        asked = [job["targets"][index] for index in request["targets"]]
        deciding = _Deciding(job, target, calibration)
        answer = _in_fresh_fork(job, target, files_of(asked), lambda collected: deciding.on_targets(collected, request, None))
        if answer["verdict"] == "mends":
            mended = answer["mended"]
            answer = _in_fresh_fork(job, target, None, lambda collected: deciding.on_suite(collected, mended, None))
    finally:
        with open(file, "wb") as handle:
            handle.write(data)
    return {**answer, "how": "import"}


def _in_fresh_fork(
    job: dict[str, Any], target: Target, files: frozenset[str] | None, decide: Callable[[Collected], dict[str, Any]]
) -> dict[str, Any]:
    answers, from_fork = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setsid()
            be_subreaper()
            os.close(answers)
            _collect(job, target, files, lambda collected: _write_line(from_fork, decide(collected)))
        finally:
            os._exit(0)
    os.close(from_fork)
    lines = _Lines(answers)
    try:
        answer = lines.next(time.monotonic() + _STARTUP_S)
    except TimeoutError:
        answer = _answer("timeout", [], "collection")
    finally:
        lines.close()
        end_process(pid)
    return answer if answer is not None else _answer("fails", [], "collection")


def _collect(job: dict[str, Any], target: Target, files: frozenset[str] | None, body: Callable[[Collected], None]) -> None:
    import pytest

    pytest.main(pytest_arguments(job["pytest_args"]), plugins=[PutTreeFirst(target), Collected(body, files)])


def _answer(verdict: str, mended: list[str], detail: str) -> dict[str, Any]:
    return {"verdict": verdict, "mended": mended, "detail": detail}


class _Lines:
    """JSON lines from a pipe."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor, self._buffer = descriptor, b""

    def next(self, deadline: float | None) -> dict[str, Any] | None:
        """The next line, None at the end. Raises TimeoutError at ``deadline`` (``time.monotonic``)."""
        while b"\n" not in self._buffer:
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and (left <= 0 or not select.select([self._descriptor], [], [], left)[0]):
                raise TimeoutError
            data = os.read(self._descriptor, 1 << 16)
            if not data:
                return None
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        found: dict[str, Any] = json.loads(line)
        return found

    def close(self) -> None:
        os.close(self._descriptor)


def _write_line(descriptor: int, message: dict[str, Any]) -> None:
    data = json.dumps(message).encode() + b"\n"
    while data:
        data = data[os.write(descriptor, data) :]

"""Sandboxes for other processes: whoever may open the engine's socket starts them, by a fixed request (threats 1.4).

A request names a mode of the runner, limits and an environment. It cannot name a program, an argument, a variable, a mount,
a user or a path: those come from the code of this process. After ``started``, frames go both ways at once::

    caller ─▶ input (bytes for standard input) · close_input · kill          closing the connection kills
    broker ─▶ lines (of standard output) · taken (bytes of input) · cpu · gone (input is read no more) · ended | error
"""

from __future__ import annotations

import json
import queue
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Annotated, Any, Protocol, TypeVar

from pydantic import Field, ValidationError

from activities.kernel.channel import Channel, Closed, Message, describe, need
from schemas.error import Gen4Error, InfrastructureError, InputError, Refused
from schemas.model import Digest, Door, Sha256
from schemas.receipt import ReceiptLimits
from schemas.testing import Limits

from .archives import unpack_folder
from .port import CpuUsed, RootFilesystem, SandboxBackend, SandboxProcess, SandboxSpec

WINDOW = 8 * 1024 * 1024
"""Bytes of input that may be on their way: whoever sends more without waiting is cut off."""
CPU_S = 0.2
"""How often the used CPU time is told, so that who pays can stop."""
_BATCH = 256 * 1024
_LONGEST_HEADER = 64 * 1024 * 1024

_HOUR_MS = 3_600_000
MAXIMUM = Limits(
    memory_mb=65_536, cpus=64, pids=16_384, wall_ms=24 * _HOUR_MS, output_bytes=1 << 30, disk_mb=65_536, test_ms=24 * _HOUR_MS
)
"""More than policy ever allows; an executor of an operator has its own."""

M = TypeVar("M", bound=Door)
Tenant = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]


class LockedEnvironment(Door):
    """Made here, from a lock and archives that are hashed here."""

    lock: Digest


class ArchivedEnvironment(Door):
    """A tar of regular files that the caller has: tools of a build."""

    archive: Sha256


class SessionRequest(Door):
    """Everything that a caller may choose."""

    tenant_id: Tenant
    mode: Annotated[str, Field(pattern=r"^[a-z_]{1,32}$")]
    root_digest: Digest
    limits: ReceiptLimits
    source_date_epoch: Annotated[int, Field(ge=0, le=2**53 - 1)]
    environment: LockedEnvironment | ArchivedEnvironment | None = None


class SpecOf(Protocol):
    """The runner's sandbox, see :func:`activities.testbed.harness.sandbox_spec`."""

    def __call__(
        self, root: RootFilesystem, *, mode: str, limits: Limits, environment: Path | None, source_date_epoch: int
    ) -> SandboxSpec: ...


class Broker:
    """Answers the call ``start``. ``locked`` gives the folder of a tenant's environment, asking the caller for what it lacks."""

    def __init__(
        self,
        root: RootFilesystem,
        backend: SandboxBackend,
        spec_of: SpecOf,
        modes: Collection[str],
        locked: Callable[[Channel, str, Digest], Path],
        maximum: Limits = MAXIMUM,
    ) -> None:
        self._root, self._backend, self._spec_of = root, backend, spec_of
        self._modes, self._locked, self._maximum = frozenset(modes), locked, maximum

    def start(self, channel: Channel, asked: Any) -> None:
        """One sandbox, from its start to its end; the channel has said everything when this returns.

        Raises:
            InputError: CALL_INVALID.
            Refused: MODE_UNKNOWN, BASE_UNKNOWN, LIMITS_EXCEEDED, ARCHIVE_INVALID.
            Closed: the caller is gone, and with it the sandbox.
        """
        request = parse(SessionRequest, asked)
        if request.mode not in self._modes:
            raise Refused("MODE_UNKNOWN", f"there is no mode {request.mode}", f"one of {', '.join(sorted(self._modes))}")
        require_root(self._root, request.root_digest)
        limits = require_limits(request.limits, self._maximum)
        with self._environment(channel, request) as environment:
            spec = self._spec_of(
                self._root, mode=request.mode, limits=limits, environment=environment, source_date_epoch=request.source_date_epoch
            )
            with self._backend.start(spec) as process:
                channel.send({"started": True})
                _Session(channel, process, request.mode).run()

    @contextmanager
    def _environment(self, channel: Channel, request: SessionRequest) -> Iterator[Path | None]:
        match request.environment:
            case None:
                yield None
            case LockedEnvironment(lock=digest):
                yield self._locked(channel, request.tenant_id, digest)
            case ArchivedEnvironment(archive=sha256):
                with need(channel, {"archive": sha256}) as archive, tempfile.TemporaryDirectory(prefix="gen4-tools-") as name:
                    yield unpack_folder(archive, sha256, Path(name) / "env")


def parse(model: type[M], asked: Any) -> M:
    """Raises InputError(CALL_INVALID) for anything but the model's own fields."""
    try:
        return model.model_validate(asked)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()[:5])
        raise InputError("CALL_INVALID", problems, "send the fields that this version knows") from error


def require_limits(asked: ReceiptLimits, maximum: Limits) -> Limits:
    """Raises Refused(LIMITS_EXCEEDED), naming them: nothing is lowered in silence."""
    limits = Limits.model_validate(asked.model_dump())
    for name, most in maximum.model_dump().items():
        value = getattr(limits, name)
        if not 0 < value <= most:
            why = f"{name} {value} is not between 0 and {most}"
            raise Refused("LIMITS_EXCEEDED", why, "ask for less, or raise the executor's maximum")
    return limits


def require_root(root: RootFilesystem, digest: Digest) -> None:
    if digest != root.digest:
        raise Refused("BASE_UNKNOWN", f"{digest} is not the base of this executor", f"use {root.digest}")


class _Session:
    """One running sandbox and its caller: one thread reads frames, one feeds the sandbox, ours tells what comes out."""

    def __init__(self, channel: Channel, process: SandboxProcess, mode: str) -> None:
        self._channel, self._process, self._mode = channel, process, mode
        self._input: queue.Queue[IO[bytes] | None] = queue.Queue()
        self._lock = threading.Lock()
        self._outstanding = 0
        self._told = CpuUsed()
        self._told_at = 0.0

    def run(self) -> None:
        threads = [threading.Thread(target=target, daemon=True) for target in (self._read, self._feed)]
        for thread in threads:
            thread.start()
        try:
            self._tell_output()
            self._tell_end()
        finally:
            self._process.kill()
            self._input.put(None)
            self._channel.hang_up()  # what was sent arrives all the same
            for thread in threads:
                thread.join()

    def _read(self) -> None:
        try:
            while True:
                message, body = self._channel.receive()
                self._obey(message, body)
        except (Closed, InputError):
            self._process.kill()

    def _obey(self, message: Message, body: IO[bytes]) -> None:
        match message:
            case {"input": int(size)} if len(message) == 1:
                with self._lock:
                    self._outstanding += size
                    fits = self._outstanding <= WINDOW + _LONGEST_HEADER
                if not fits or body.seek(0, 2) != size:
                    raise InputError("CALL_INVALID", "more input than was waited for")
                body.seek(0)
                self._input.put(body)
            case {"close_input": True} if len(message) == 1:
                self._input.put(None)
            case {"kill": True} if len(message) == 1:
                self._process.kill()
            case _:
                raise InputError("CALL_INVALID", "an unknown frame")

    def _feed(self) -> None:
        try:
            self._feed_header()
            while (body := self._input.get()) is not None:
                self._give(body.read())
            self._process.close_input()
        except InfrastructureError as error:
            self._say({"gone": describe(error)})
        except Refused as error:
            self._process.kill()
            self._say({"gone": describe(error)})

    def _feed_header(self) -> None:
        """The runner's first line says the mode again; it must be the one that was asked for."""
        first = self._input.get()
        if first is None:
            return self._input.put(None)
        data = first.read(_LONGEST_HEADER)
        try:
            header = json.loads(data)
            same = data.endswith(b"\n") and isinstance(header, dict) and header.get("mode") == self._mode
        except ValueError:
            same = False
        if not same:
            raise Refused("MODE_UNKNOWN", f"the first input is no job of mode {self._mode}", "send the job's line first")
        self._give(data)
        return None

    def _give(self, data: bytes) -> None:
        self._process.send(data)
        with self._lock:
            self._outstanding -= len(data)
        self._say({"taken": len(data)})

    def _tell_output(self) -> None:
        ended = False
        while not ended:
            self._tell_cpu()
            lines, ended = self._batch()
            if lines:
                self._channel.send({"lines": len(lines)}, b"".join(line + b"\n" for line in lines))

    def _batch(self) -> tuple[list[bytes], bool]:
        """Lines that are there, after a short wait for the first; and whether there will be no more."""
        lines: list[bytes] = []
        size = 0
        try:
            while size < _BATCH:
                line = self._process.line(0 if lines else CPU_S)
                if line is None:
                    return lines, True
                lines.append(line)
                size += len(line)
        except TimeoutError:
            pass
        return lines, False

    def _tell_cpu(self) -> None:
        used, now = self._process.cpu(), time.monotonic()
        if used != self._told and now - self._told_at >= CPU_S:
            self._told, self._told_at = used, now
            self._channel.send({"cpu": list(used)})

    def _tell_end(self) -> None:
        try:
            completed = self._process.finish()
        except Gen4Error as error:
            return self._channel.send({"error": describe(error)})
        ended = {"ending": completed.ending, "exit_code": completed.exit_code, "wall_ms": completed.wall_ms}
        return self._channel.send({"ended": {**ended, "cpu": list(completed.cpu)}}, completed.stderr)

    def _say(self, message: Message) -> None:
        try:
            self._channel.send(message)
        except Closed:
            pass  # the reading thread has noticed

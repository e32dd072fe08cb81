"""The backend of a worker that may not start sandboxes itself: each is a connection to an executor (:mod:`broker`)."""

from __future__ import annotations

import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Literal, cast

from activities.kernel.channel import Channel, Closed, begin, call, connect, error_of
from activities.kernel.signing_keys import hint_of, public_key
from schemas.error import Gen4Error, InfrastructureError, Refused
from schemas.receipt import ReceiptLimits
from schemas.testing import SandboxFacts

from .archives import pack_folder
from .broker import WINDOW, ArchivedEnvironment, LockedEnvironment, SessionRequest, SpecOf
from .port import Completed, CpuUsed, Ending, Probe, RootFilesystem, SandboxProcess, SandboxSpec

_CHUNK = 1 << 20
_IN_MEMORY = 16 * _CHUNK
START_TIMEOUT_S = 600.0
"""An environment may have to be made first."""
END_TIMEOUT_S = 30.0
"""An executor that was told to kill a sandbox says within this that it is gone."""

Supply = Callable[[Mapping[str, Any]], bytes | IO[bytes]]


class Executor:
    """Calls to the executor that listens at ``path``. ``supply`` gives the content that it may ask for."""

    def __init__(self, path: Path, supply: Supply) -> None:
        self.path, self.supply = path, supply

    def connect(self) -> Channel:
        return connect(self.path)

    def ask(self, message: Mapping[str, Any]) -> Any:
        """The result of a call that has no body and no stream."""
        channel = self.connect()
        try:
            channel.wait_at_most(START_TIMEOUT_S)
            return call(channel, dict(message), supply=self.supply)[0]
        finally:
            channel.close()

    def await_ready(self, timeout_s: float) -> None:
        """It may be starting at the same time as we. Raises InfrastructureError(CHANNEL_UNAVAILABLE)."""
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                return self.connect().close()
            except InfrastructureError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)


class RemoteBackend:
    """A ``SandboxBackend``. Only the runner can be started, in one of its modes.

    Args:
        environments: folder of environments that have a lock, by whose digest they are named; others are sent.
    """

    def __init__(self, executor: Executor, tenant_id: str, spec_of: SpecOf, environments: Path) -> None:
        self._executor, self._tenant_id = executor, tenant_id
        self._spec_of, self._environments = spec_of, environments
        self.name: Literal["docker", "bubblewrap"] = self.facts().backend

    def facts(self) -> SandboxFacts:
        return SandboxFacts.model_validate(self._executor.ask({"facts": {}})["sandbox"])

    def root(self) -> RootFilesystem:
        """The base on which this executor starts everything; its files are not here."""
        answer = self._executor.ask({"facts": {}})
        return RootFilesystem(answer["root_digest"], Path("/nonexistent"), Path("/nonexistent"), answer["python"])

    def executor_hint(self) -> str:
        """Of the key with which this executor signs receipts; empty where it shows none that we know."""
        key = public_key(str(self._executor.ask({"facts": {}})["public_key"]))
        return "" if key is None else hint_of(key)

    def packages(self, digest: str) -> Mapping[str, str]:
        """Name and version of every package of the base."""
        return cast(dict[str, str], self._executor.ask({"packages": {"root_digest": digest}}))

    @contextmanager
    def start(self, spec: SandboxSpec) -> Iterator[SandboxProcess]:
        channel = self._executor.connect()
        process: RemoteProcess | None = None
        try:
            with tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY) as archive:
                request = self._request(spec, cast(IO[bytes], archive))
                self._begin(channel, request, cast(IO[bytes], archive))
            process = RemoteProcess(channel)
            yield process
        finally:
            if process is not None:
                process.discard()
            channel.close()

    def probe(self, root: RootFilesystem) -> tuple[Probe, ...]:
        return tuple(Probe(*one) for one in self._executor.ask({"probe": {"root_digest": root.digest}}))

    def reap(self, older_than_s: float) -> int:
        """Nothing of ours: an executor ends what a connection started together with it."""
        return 0

    def _request(self, spec: SandboxSpec, archive: IO[bytes]) -> SessionRequest:
        mode, epoch = spec.labels.get("mode", ""), int(spec.env.get("SOURCE_DATE_EPOCH", "0"))
        known = self._spec_of(
            spec.root, mode=mode, limits=spec.limits, environment=spec.environment, source_date_epoch=epoch
        )  # fmt: skip
        if known != spec:
            raise Refused("SPEC_UNKNOWN", "an executor starts the runner as it knows it, and nothing else", "use its modes")
        environment: LockedEnvironment | ArchivedEnvironment | None = None
        if spec.environment is not None and spec.environment.parent == self._environments:
            environment = LockedEnvironment(lock=f"sha256:{spec.environment.name}")
        elif spec.environment is not None:
            environment = ArchivedEnvironment(archive=pack_folder(spec.environment, archive))
        return SessionRequest(
            tenant_id=self._tenant_id, mode=mode, root_digest=spec.root.digest, source_date_epoch=epoch,
            limits=ReceiptLimits.of(spec.limits), environment=environment,
        )  # fmt: skip

    def _begin(self, channel: Channel, request: SessionRequest, archive: IO[bytes]) -> None:
        channel.wait_at_most(START_TIMEOUT_S)
        begin(channel, {"start": request.model_dump(mode="json", exclude_none=True)})
        while True:
            answer, _ = channel.receive()
            match answer:
                case {"need": {"archive": str()}}:
                    channel.send({"content": True}, archive)
                case {"need": dict(wanted)}:
                    channel.send({"content": True}, self._executor.supply(wanted))
                case {"error": dict(described)}:
                    raise error_of(described)
                case {"started": True}:
                    return channel.wait_at_most(None)


class RemoteProcess:
    """A ``SandboxProcess`` on the other side of a channel; a thread takes what comes."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._changed = threading.Condition()
        self._lines: deque[bytes] = deque()
        self._cpu = CpuUsed()
        self._on_its_way = 0
        self._first = True
        self._gone: Gen4Error | None = None
        self._completed: Completed | None = None
        self._error: Gen4Error | None = None
        self._ended = False
        self._reader = threading.Thread(target=self._read, name="gen4-remote-sandbox", daemon=True)
        self._reader.start()

    # --- the protocol ------------------------------------------------------------------------------------------------

    def send(self, data: bytes) -> None:
        if self._first:  # the job's line, which the executor looks at as a whole
            self._first = False
            return self._send(data)
        for start in range(0, len(data), _CHUNK):
            self._send(data[start : start + _CHUNK])
        return None

    def close_input(self) -> None:
        self._tell("close_input")

    def lines(self) -> Iterator[bytes]:
        while (line := self._next(None)) is not None:
            yield line

    def line(self, timeout_s: float) -> bytes | None:
        return self._next(timeout_s)

    def kill(self) -> None:
        self._tell("kill")

    def finish(self) -> Completed:
        self.close_input()
        with self._changed:
            self._changed.wait_for(lambda: self._ended)
        if self._error is not None:
            raise self._error
        if self._completed is None:
            raise InfrastructureError("SANDBOX_BROKEN", "the sandbox ended without a result", "see the executor's log")
        return self._completed

    def cpu(self) -> CpuUsed:
        return self._cpu

    def discard(self) -> None:
        """Kill what still runs; returns once the executor has said that it is gone, or is gone itself."""
        if not self._ended:
            self.kill()
            with self._changed:
                self._changed.wait_for(lambda: self._ended, END_TIMEOUT_S)
        self._channel.hang_up()
        self._reader.join()

    # --- both directions ---------------------------------------------------------------------------------------------

    def _send(self, data: bytes) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._ended or self._gone is not None or self._on_its_way + len(data) <= WINDOW
                                   or self._on_its_way == 0)  # fmt: skip
            if self._ended or self._gone is not None:
                raise self._gone or _gone("the process has ended")
            self._on_its_way += len(data)
        try:
            self._channel.send({"input": len(data)}, data)
        except Closed as error:
            raise _gone(error.message) from error

    def _tell(self, what: str) -> None:
        try:
            self._channel.send({what: True})
        except Closed:
            pass  # it has ended, and the reader knows how

    def _next(self, timeout_s: float | None) -> bytes | None:
        with self._changed:
            if not self._changed.wait_for(lambda: self._lines or self._ended, timeout_s):
                raise TimeoutError(f"no line of output within {timeout_s} s")
            return self._lines.popleft() if self._lines else None

    def _read(self) -> None:
        try:
            while not self._ended:
                message, body = self._channel.receive()
                with self._changed:
                    self._take(message, body)
                    self._changed.notify_all()
        except Gen4Error as error:
            self._end(error)
        except (KeyError, TypeError, ValueError) as error:
            self._end(InfrastructureError("SANDBOX_BROKEN", f"the executor sent nonsense: {error}", "see the executor's log"))

    def _take(self, message: Mapping[str, Any], body: IO[bytes]) -> None:
        match message:
            case {"lines": int()}:
                self._lines.extend(body.read().split(b"\n")[:-1])
            case {"taken": int(size)}:
                self._on_its_way -= size
            case {"cpu": [int(ms), str(source)]}:
                self._cpu = CpuUsed(ms, cast(Literal["cgroup", "processes", "none"], source))
            case {"gone": dict(described)}:
                self._gone = error_of(described)
            case {"error": dict(described)}:
                self._error, self._ended = error_of(described), True
            case {"ended": {"ending": str(ending), "exit_code": int(code), "wall_ms": int(wall), "cpu": [int(ms), str(source)]}}:
                self._cpu = CpuUsed(ms, cast(Literal["cgroup", "processes", "none"], source))
                self._completed = Completed(cast(Ending, ending), code, body.read(), wall, self._cpu)
                self._ended = True
            case _:
                raise ValueError("an unknown frame")

    def _end(self, error: Gen4Error) -> None:
        with self._changed:
            self._error, self._ended = self._error or error, True
            self._changed.notify_all()


def _gone(why: str) -> InfrastructureError:
    return InfrastructureError("SANDBOX_GONE", f"the sandbox no longer reads its input: {why}", "see how the run ended")

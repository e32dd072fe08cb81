"""Frames on a Unix socket between processes of one machine: a JSON message and a body of bytes, both bounded.

One call is one connection: the caller sends ``{"call": …}``; the callee may ask back for content by hash (``{"need": …}``),
may report progress, and ends with ``{"result": …}`` or ``{"error": …}``. Closing the connection cancels the call.
"""

from __future__ import annotations

import errno
import io
import json
import os
import select
import socket
import struct
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from schemas.canonical import strict_json
from schemas.error import Gen4Error, InfrastructureError, InputError, Refused

_HEAD = struct.Struct("!IQ")
_LARGEST_MESSAGE = 16 * 1024 * 1024
_LARGEST_BODY = 2 * 1024 * 1024 * 1024
_CHUNK = 1 << 20
_IN_MEMORY = 16 * _CHUNK
FRAME_S = 60.0
"""So long a frame may take from its first byte to its last one, and longer by its size: who sends byte by byte is cut off."""
_SLOWEST = 8 * _CHUNK
"""Bytes in a second; on one machine even a busy one sends faster."""
_SEND = struct.pack("ll", int(FRAME_S), 0)
CONTENT_S = 600.0
"""So long a caller may take to find what it was asked for; an executor's may have to fetch it first."""

Message = dict[str, Any]
Supply = Callable[[Mapping[str, Any]], bytes | IO[bytes]]
"""Answers a need with the content that it names."""


class Closed(InfrastructureError):
    """The other side is gone."""

    def __init__(self, message: str) -> None:
        super().__init__("CHANNEL_CLOSED", message, "it is tried again")


@dataclass(frozen=True)
class Peer:
    """Who is on the other side, by the kernel's word (SO_PEERCRED)."""

    pid: int
    uid: int
    gid: int


class Channel:
    """One connection. ``receive`` reads strictly: duplicate keys, NaN and frames beyond their limit raise.

    One thread may receive while others send.
    """

    def __init__(self, connection: socket.socket) -> None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _SEND)  # of whom reads nothing
        self._socket = connection
        self._sending = threading.Lock()

    @property
    def peer(self) -> Peer:
        data = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        return Peer(*struct.unpack("3i", data))

    def fileno(self) -> int:
        return self._socket.fileno()

    def send(self, message: Message, body: bytes | IO[bytes] = b"") -> None:
        """Raises Closed."""
        data = json.dumps(message, allow_nan=False, separators=(",", ":")).encode()
        source = io.BytesIO(body) if isinstance(body, bytes) else body
        size = source.seek(0, os.SEEK_END)
        source.seek(0)
        try:
            with self._sending:
                self._socket.sendall(_HEAD.pack(len(data), size) + data)
                while chunk := source.read(_CHUNK):
                    self._socket.sendall(chunk)
        except OSError as error:
            raise Closed(f"the other side of the channel is gone: {error.strerror}") from error

    def receive(self, within_s: float | None = None) -> tuple[Message, IO[bytes]]:
        """The next frame; its body is rewound, and on disk when it is large.

        Args:
            within_s: when it has to begin; default: as :meth:`wait_at_most` says.

        Raises:
            Closed: also for a frame that does not come to its end in time.
        """
        begun = self._exactly(1, None if within_s is None else time.monotonic() + within_s)
        until = time.monotonic() + FRAME_S
        length, size = _HEAD.unpack(begun + self._exactly(_HEAD.size - 1, until))
        if length > _LARGEST_MESSAGE or size > _LARGEST_BODY:
            raise Closed(f"a frame of {length} and {size} bytes is too large")
        until += size / _SLOWEST
        try:
            message = strict_json(self._exactly(length, until))
        except ValueError as error:
            raise Closed(f"a frame that is not strict JSON: {error}") from error
        if not isinstance(message, dict):
            raise Closed("a frame that is not an object")
        body = tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY)  # noqa: SIM115  the caller reads and closes it
        while size:
            chunk = self._exactly(min(size, _CHUNK), until)
            body.write(chunk)
            size -= len(chunk)
        body.seek(0)
        return message, body

    def wait_at_most(self, seconds: float | None) -> None:
        """From now on the other side is gone when it is silent for longer; None: it may be silent for ever."""
        self._socket.settimeout(seconds)

    def hang_up(self) -> None:
        """From another thread: whoever sends or receives here is told that the channel is closed."""
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            return  # the other side was first

    def close(self) -> None:
        self._socket.close()

    def _exactly(self, count: int, until: float | None) -> bytes:
        parts = bytearray()
        while len(parts) < count:
            self._await(until)
            try:
                part = self._socket.recv(min(count - len(parts), _CHUNK))
            except OSError as error:
                raise Closed(f"the other side of the channel is gone: {error.strerror or error}") from error
            if not part:
                raise Closed("the other side of the channel is gone")
            parts += part
        return bytes(parts)

    def _await(self, until: float | None) -> None:
        """Without the socket's own timeout, which whoever sends meanwhile shares."""
        if until is None:
            return
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        if not poll.poll(max(0.0, until - time.monotonic()) * 1000):
            raise Closed("the other side of the channel takes too long")


def connect(path: Path) -> Channel:
    """Raises InfrastructureError CHANNEL_UNAVAILABLE when nobody listens there."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        with _short(path) as name:
            connection.connect(name)
    except OSError as error:
        connection.close()
        raise InfrastructureError(
            "CHANNEL_UNAVAILABLE", f"nobody answers at {path}: {error.strerror}", "run `gen4 status`, then `gen4 up`"
        ) from error
    return Channel(connection)


def listen(path: Path, *, shared: bool = False) -> socket.socket:
    """A listening socket at ``path``, for our own user alone unless ``shared``; whoever accepts then checks the peer.

    Raises:
        InfrastructureError: CHANNEL_TAKEN when another process listens there or the folder cannot be written.
    """
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        _remove_stale(path)
        os.fchmod(listener.fileno(), 0o600)  # the socket's file is made with this mode
        with _short(path) as name:
            listener.bind(name)
        if shared:
            path.chmod(0o666)
        listener.listen(64)
    except OSError as error:
        listener.close()
        remedy = "stop the process that listens there, or name another path"
        raise InfrastructureError("CHANNEL_TAKEN", f"cannot listen at {path}: {error.strerror}", remedy) from error
    return listener


def _remove_stale(path: Path) -> None:
    """The file of a listener that is gone. Raises OSError where one answers."""
    if not path.is_socket():
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe, _short(path) as name:
        try:
            probe.connect(name)
        except ConnectionRefusedError:
            path.unlink()
            return
    raise FileExistsError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))


@contextmanager
def _short(path: Path) -> Iterator[str]:
    """A name for ``path`` that fits into a socket address, which holds 107 bytes."""
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


def call(channel: Channel, message: Message, body: bytes | IO[bytes] = b"", *, supply: Supply) -> tuple[Any, IO[bytes]]:
    """Send one call, answer what it needs, and give its result and body.

    Raises:
        Gen4Error: what the callee raised, with its code, message and remedy; Closed when it went away.
    """
    begin(channel, message, body)
    while True:
        answer, content = channel.receive()
        if "need" in answer:
            channel.send({"content": True}, supply(answer["need"]))
        elif "error" in answer:
            raise error_of(answer["error"])
        elif "result" in answer:
            return answer["result"], content


def begin(channel: Channel, message: Message, body: bytes | IO[bytes] = b"") -> None:
    """Send a call. Where the other side has hung up at once, why it did is still to be read."""
    try:
        channel.send({"call": message}, body)
    except Closed:
        return


def need(channel: Channel, wanted: Message, within_s: float = CONTENT_S) -> IO[bytes]:
    """Ask the caller for content. Whoever asks checks its hash: the caller may send anything.

    Raises:
        Closed: also where the caller does not begin to answer in time.
    """
    channel.send({"need": wanted})
    answer, body = channel.receive(within_s)
    if "content" not in answer:
        raise Closed("the caller did not send what was needed")
    return body


def describe(error: Gen4Error) -> Message:
    """An error as it travels."""
    kind = "input" if isinstance(error, InputError) else "refused" if isinstance(error, Refused) else "infrastructure"
    return {"kind": kind, "code": error.code, "message": error.message, "remedy": error.remedy}


def error_of(described: Mapping[str, Any]) -> Gen4Error:
    kinds: dict[str, type[Gen4Error]] = {"input": InputError, "refused": Refused, "infrastructure": InfrastructureError}
    kind = kinds.get(str(described.get("kind")), InfrastructureError)
    code, message, remedy = (str(described.get(name, "")) for name in ("code", "message", "remedy"))
    return kind(code or "CHANNEL_ERROR", message, remedy)

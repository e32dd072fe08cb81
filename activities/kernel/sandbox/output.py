"""What leaves a sandbox: bounded streams, read by lines (threats 2.3)."""

from __future__ import annotations

import threading
import time
from collections import deque

STDERR_KEPT = 64 * 1024


class LineStream:
    """Bytes go in by ``feed`` on one thread and come out by lines on another; never more than ``limit`` are taken."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._taken = 0
        self._lines: deque[bytes] = deque()
        self._partial: list[bytes] = []
        self._ended = False
        self._ready = threading.Condition()

    def feed(self, data: bytes) -> bool:
        """Take what fits of ``data``; False once the limit is passed: what lies beyond it is dropped."""
        with self._ready:
            room = max(0, self._limit - self._taken)
            self._taken += len(data)
            first, *rest = data[:room].split(b"\n")
            self._partial.append(first)
            for piece in rest:
                self._lines.append(b"".join(self._partial))
                self._partial = [piece]
            if rest:
                self._ready.notify_all()
            return self._taken <= self._limit

    def end(self) -> None:
        """No more will come: what follows the last LF is a line too, unless the limit cut it."""
        with self._ready:
            if not self._ended and self._taken <= self._limit and any(self._partial):
                self._lines.append(b"".join(self._partial))
            self._partial.clear()
            self._ended = True
            self._ready.notify_all()

    def line(self, timeout_s: float | None) -> bytes | None:
        """The next line, None after the last one. Raises TimeoutError."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        with self._ready:
            while not self._lines:
                if self._ended:
                    return None
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    raise TimeoutError(f"no line of output within {timeout_s} s")
                self._ready.wait(left)
            return self._lines.popleft()


class Tail:
    """The last ``kept`` bytes of a stream."""

    def __init__(self, kept: int = STDERR_KEPT) -> None:
        self._kept = kept
        self._data = bytearray()
        self.taken = 0

    def feed(self, data: bytes) -> None:
        self.taken += len(data)
        self._data += data
        del self._data[: -self._kept]

    def value(self) -> bytes:
        return bytes(self._data)

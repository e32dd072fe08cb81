"""The channel to the host: JSON lines in and out, held by the supervisor alone."""

from __future__ import annotations

import ctypes
import json
import os
from typing import Any, BinaryIO

_PR_SET_DUMPABLE = 4
_PR_SET_CHILD_SUBREAPER = 36


class Host:
    """``input`` is the rest of standard input; lines and archive bytes are read from it in order."""

    def __init__(self, input: BinaryIO, output: int) -> None:
        self.input = input
        self._output = output
        self._held = b""

    @classmethod
    def take_over(cls) -> Host:
        """Move the real standard input and output out of everyone's reach and make this process a supervisor.

        Not dumpable: another process of the same user can neither open ``/proc/<pid>/fd`` nor trace it.
        Subreaper: whatever a test leaves behind becomes our child and can be found.
        """
        input_fd, output_fd = os.dup(0), os.dup(1)
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, 0)
        os.dup2(null, 1)
        os.close(null)
        set_dumpable(False)
        _prctl(_PR_SET_CHILD_SUBREAPER, 1)
        return cls(os.fdopen(input_fd, "rb", buffering=1 << 16), output_fd)

    def send(self, kind: str, **fields: Any) -> None:
        self.with_next(kind, **fields)
        self.flush()

    def with_next(self, kind: str, **fields: Any) -> None:
        """Send it together with the next line, or when told to: each write wakes everyone on the way to the host."""
        self._held += json.dumps({"kind": kind, **fields}, separators=(",", ":")).encode() + b"\n"

    def flush(self) -> None:
        while self._held:
            self._held = self._held[os.write(self._output, self._held) :]

    def receive(self) -> dict[str, Any] | None:
        """The next line of the host; None when it closed its end."""
        line = self.input.readline()
        return json.loads(line) if line else None

    def close_in_child(self) -> None:
        """After a fork: a child holds no descriptor of the host."""
        os.close(self.input.fileno())
        os.close(self._output)


def set_dumpable(dumpable: bool) -> None:
    _prctl(_PR_SET_DUMPABLE, int(dumpable))


def _prctl(option: int, value: int) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({option}, {value})")

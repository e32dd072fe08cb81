"""Objects of a git store as raw bytes, each hashed again, read through ``git cat-file``."""

from __future__ import annotations

import hashlib
import io
import subprocess
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import IO

from activities.record.git import Git, kill, object_id
from schemas.error import InfrastructureError

_KEPT = 2
"""Idle processes of one store."""
_AT_ONCE = 500
"""Questions that are sent before an answer is read: both fit into a pipe."""
_REMEDY = "fetch the repository again"


class CatFile:
    """One process: ask for an object, read it, ask for the next."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None and process.stdout is not None
        self._questions: IO[bytes] = process.stdin
        self._answers: IO[bytes] = process.stdout
        self._last: ObjectReader | None = None

    @property
    def in_step(self) -> bool:
        """What was asked has been read to its end, so the next question gets its own answer."""
        return self._last is None or self._last.is_read

    def read(self, oid: str) -> tuple[str, bytes]:
        """Type and bytes of an object, hashed again.

        Raises:
            InfrastructureError: OBJECT_MISSING, OBJECT_CORRUPT.
        """
        blob = self.open(oid)
        data = blob.read()
        blob.close()
        return blob.type, data

    def open(self, oid: str) -> ObjectReader:
        """Start reading an object; read it to its end and close it before asking for another one."""
        self._ask(f"contents {object_id(oid)}\n")
        kind, size = self._header(oid)
        self._last = ObjectReader(self._answers, oid, kind, size)
        return self._last

    def sizes(self, oids: Iterable[str]) -> dict[str, int]:
        """Bytes of each object. Raises InfrastructureError OBJECT_MISSING."""
        found: dict[str, int] = {}
        asked = sorted(oids)
        for start in range(0, len(asked), _AT_ONCE):
            some = asked[start : start + _AT_ONCE]
            self._ask("".join(f"info {object_id(oid)}\n" for oid in some))
            found.update((oid, self._header(oid)[1]) for oid in some)
        return found

    def missing(self, oids: Iterable[str]) -> set[str]:
        """Those that the store does not have."""
        found: set[str] = set()
        for oid in oids:
            self._ask(f"info {object_id(oid)}\n")
            if self._answer().endswith(b" missing\n"):
                found.add(oid)
        return found

    def _ask(self, questions: str) -> None:
        try:
            self._questions.write(questions.encode())
            self._questions.flush()
        except OSError as error:
            raise InfrastructureError("GIT_FAILED", f"git cat-file has ended: {error.strerror}") from error

    def _answer(self) -> bytes:
        line = self._answers.readline()
        if not line.endswith(b"\n"):
            raise InfrastructureError("GIT_FAILED", "git cat-file has ended")
        return line

    def _header(self, oid: str) -> tuple[str, int]:
        header = self._answer().split()
        if len(header) != 3:
            raise InfrastructureError("OBJECT_MISSING", f"object {oid} is not in the store", _REMEDY)
        return header[1].decode(), int(header[2])


class ObjectReader(io.RawIOBase):
    """The bytes of one object; ``close`` checks that they are the ones that the id names."""

    def __init__(self, stream: IO[bytes], oid: str, kind: str, size: int) -> None:
        self._stream = stream
        self._oid = oid
        self.type = kind
        self.size = size
        self._left = size
        self._hash = hashlib.sha1(f"{kind} {size}\0".encode(), usedforsecurity=False)
        self.is_read = False
        self.read(0)

    def read(self, count: int | None = -1) -> bytes:
        wanted = self._left if count is None or count < 0 else min(count, self._left)
        data = self._stream.read(wanted)
        if len(data) != wanted:
            raise InfrastructureError("OBJECT_MISSING", f"git ended inside object {self._oid}")
        self._left -= len(data)
        self._hash.update(data)
        if not self._left and not self.is_read:
            self._stream.read(1)  # the LF that follows each object
            self.is_read = True
        return data

    def close(self) -> None:
        """Raises: InfrastructureError OBJECT_CORRUPT."""
        if self.closed:
            return
        super().close()
        if self.is_read and self._hash.hexdigest() != self._oid:
            raise InfrastructureError("OBJECT_CORRUPT", f"the bytes of object {self._oid} are not those", "fetch again")


class Readers:
    """Processes of one store, kept for whoever reads next: starting one takes longer than what most read.

    They end with this object, or with the process that has it: their input ends then. One that finds an object missing looks
    for new packs, so it is never behind the store.
    """

    def __init__(self, git: Git) -> None:
        self._git = git
        self._idle: list[subprocess.Popen[bytes]] = []
        weakref.finalize(self, _end_all, self._idle)

    @contextmanager
    def reading(self) -> Iterator[CatFile]:
        """A process for the block alone; one that was left in the middle of an answer is ended."""
        process = self._waiting() or _start(self._git)
        objects, keep = CatFile(process), False
        try:
            yield objects
            keep = objects.in_step
        finally:
            if keep:
                self._idle.append(process)
                _end_all(self._idle, leave=_KEPT)
            else:
                _end(process)

    def _waiting(self) -> subprocess.Popen[bytes] | None:
        with suppress(IndexError):
            while True:
                process = self._idle.pop()
                if process.poll() is None:
                    return process
                _end(process)
        return None


def _start(git: Git) -> subprocess.Popen[bytes]:
    # What it keeps of deltas is for one look at many neighbours; it may live long.
    return git.start("-c", "core.deltaBaseCacheLimit=16m", "cat-file", "--batch-command", stderr=subprocess.DEVNULL)


def _end(process: subprocess.Popen[bytes]) -> None:
    kill(process)
    with suppress(OSError), process:
        pass  # closes its pipes and waits for it


def _end_all(processes: list[subprocess.Popen[bytes]], leave: int = 0) -> None:
    with suppress(IndexError):  # another thread was first
        while len(processes) > leave:
            _end(processes.pop())

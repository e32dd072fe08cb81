"""What a member is made of: bytes in memory, or a file that is too large for it. Only a trajectory is ever a file."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from schemas.canonical import sha256_hex
from schemas.error import Refused

_CHUNK = 1 << 20
IN_MEMORY = 16 * _CHUNK
"""A larger trajectory stays a file."""
LINE_LIMIT = 16 * _CHUNK
"""Bytes of one line of a trajectory."""


@dataclass(frozen=True)
class StoredFile:
    """``sha256`` and ``size`` are of the bytes that were read when it was made; whoever copies it checks them again."""

    path: Path
    sha256: str
    size: int

    @classmethod
    def of(cls, path: Path) -> StoredFile:
        digest, size = hashlib.sha256(), 0
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
                size += len(chunk)
        return cls(path, digest.hexdigest(), size)


Content = bytes | StoredFile


def sha256_of(content: Content) -> str:
    return content.sha256 if isinstance(content, StoredFile) else sha256_hex(content)


def size_of(content: Content) -> int:
    return content.size if isinstance(content, StoredFile) else len(content)


def opened(content: Content) -> AbstractContextManager[IO[bytes]]:
    return content.path.open("rb") if isinstance(content, StoredFile) else io.BytesIO(content)


def lines_of(content: Content) -> Iterator[bytes]:
    """Lines with their LF, one in memory at a time.

    Raises:
        Refused: BUNDLE_MEMBER_INVALID for one that is longer than :data:`LINE_LIMIT`.
    """
    with opened(content) as file:
        while line := file.readline(LINE_LIMIT + 1):
            if len(line) > LINE_LIMIT:
                raise Refused("BUNDLE_MEMBER_INVALID", f"a line is longer than {LINE_LIMIT} bytes", "record it in shorter steps")
            yield line


def copy(content: Content, out: IO[bytes]) -> None:
    """Write it to ``out``. Raises Refused BLOB_CORRUPT when the file is not what it was."""
    digest = hashlib.sha256()
    with opened(content) as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            out.write(chunk)
    if digest.hexdigest() != sha256_of(content):
        raise Refused("BLOB_CORRUPT", "a member changed while it was copied", "start again; what was recorded is kept")

"""Write the tree that the host sent into the work folder."""

from __future__ import annotations

import os
import shutil
import tarfile
from typing import Any, BinaryIO, cast


class _Bounded:
    """Exactly the next ``size`` bytes of a stream, so that what follows the archive stays in it."""

    def __init__(self, stream: BinaryIO, size: int) -> None:
        self._stream, self.left = stream, size

    def read(self, size: int = -1) -> bytes:
        data = self._stream.read(self.left if size < 0 else min(size, self.left))
        self.left -= len(data)
        return data


def unpack(stream: BinaryIO, size: int, folder: str) -> None:
    """Regular files, folders and symlinks only; links are made last, so that nothing is written through one.

    Raises:
        ValueError: a name that leaves the folder, or a member of another type.
    """
    bounded = _Bounded(stream, size)
    links: list[tuple[str, str]] = []
    if size:
        with tarfile.open(fileobj=cast(Any, bounded), mode="r|") as archive:
            for member in archive:
                path = os.path.join(folder, _inside(member.name))
                if member.isdir():
                    os.makedirs(path, exist_ok=True)
                elif member.isreg():
                    _write(archive, member, path)
                elif member.issym():
                    links.append((member.linkname, path))
                else:
                    raise ValueError(f"{member.name}: not a file, folder or symlink")
    for target, path in links:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        os.symlink(target, path)
    while bounded.read(1 << 16):
        pass


def _write(archive: tarfile.TarFile, member: tarfile.TarInfo, path: str) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as target:
        shutil.copyfileobj(cast(BinaryIO, archive.extractfile(member)), target)
    os.chmod(path, 0o755 if member.mode & 0o100 else 0o644)


def _inside(name: str) -> str:
    parts = name.split("/")
    if name.startswith("/") or ".." in parts:
        raise ValueError(f"{name}: outside the folder")
    return name

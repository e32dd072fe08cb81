"""Folders of regular files as tars between processes, named by the hash of their bytes."""

from __future__ import annotations

import hashlib
import os
import shutil
import tarfile
from pathlib import Path, PurePosixPath
from typing import IO, cast

from schemas.error import Refused

_MOST_BYTES = 2 * 1024**3
_MOST_FILES = 200_000
_TIME = 315_532_800
"""1980-01-01, as the folders of environments have it."""


def pack_folder(folder: Path, out: IO[bytes]) -> str:
    """Write the folder as a deterministic tar, rewound afterwards; its sha256. Links and devices are left out."""
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for path, folders, files in os.walk(folder):
            folders.sort()
            for name in sorted(files):
                file = Path(path) / name
                if file.is_file() and not file.is_symlink():
                    archive.add(file, str(file.relative_to(folder)), filter=_plain)
    out.seek(0)
    sha256 = hashlib.file_digest(out, "sha256").hexdigest()  # type: ignore[arg-type]
    out.seek(0)
    return sha256


def unpack_folder(archive: IO[bytes], sha256: str, target: Path) -> Path:
    """The new folder ``target`` with the files of a tar from anybody.

    Raises:
        Refused: ARCHIVE_INVALID for other bytes than named, names outside, anything but regular files, and too much of them.
    """
    if hashlib.file_digest(archive, "sha256").hexdigest() != sha256:  # type: ignore[arg-type]
        raise _invalid(f"the bytes are not {sha256}")
    archive.seek(0)
    target.parent.chmod(0o755)  # the sandbox reads it under another uid
    target.mkdir(mode=0o755)
    left, files = _MOST_BYTES, 0
    try:
        with tarfile.open(fileobj=archive, mode="r:") as members:
            for member in members:
                left, files = left - member.size, files + 1
                if left < 0 or files > _MOST_FILES:
                    raise _invalid("it is too large")
                _unpack(members, member, target)
    except (tarfile.TarError, OSError, ValueError) as error:
        raise _invalid(str(error)) from error
    for path, _, _ in os.walk(target):
        os.chmod(path, 0o755)  # noqa: S103  whatever our umask is
    return target


def _plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    member.mtime, member.mode = _TIME, 0o755 if member.mode & 0o100 else 0o644
    return member


def _unpack(members: tarfile.TarFile, member: tarfile.TarInfo, target: Path) -> None:
    parts = PurePosixPath(member.name).parts
    if not member.isreg() or member.issparse() or member.name.startswith("/") or ".." in parts or not parts:
        raise _invalid(f"{member.name[:200]!a} is no regular file inside")
    file = target.joinpath(*parts)
    file.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    with cast(IO[bytes], members.extractfile(member)) as source, file.open("xb") as out:
        shutil.copyfileobj(source, out, 1 << 20)
    file.chmod(0o755 if member.mode & 0o100 else 0o644)
    os.utime(file, (_TIME, _TIME))


def _invalid(why: str) -> Refused:
    return Refused("ARCHIVE_INVALID", f"the archive of a folder is refused: {why}", "send the folder again")

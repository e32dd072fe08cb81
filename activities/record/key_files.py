"""Files that hold secrets: made whole and once, whoever comes first; read only when nobody else could read or replace them."""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path

from schemas.error import InputError

_LIMIT = 65_536


def read_private(path: Path) -> bytes:
    """Raises InputError KEY_UNSAFE when others could read or replace the file, or it cannot be opened."""
    remedy = f"make {path} a regular file of yours with mode 0600, or move it away"
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise InputError("KEY_UNSAFE", f"cannot open {path}: {error.strerror}", remedy) from error
    with os.fdopen(descriptor, "rb") as file:
        facts = os.fstat(file.fileno())
        if not stat.S_ISREG(facts.st_mode) or facts.st_uid != os.getuid() or facts.st_mode & 0o077:
            raise InputError("KEY_UNSAFE", f"{path} can be read or replaced by others", remedy)
        return file.read(_LIMIT)


def write_once(path: Path, data: bytes, mode: int) -> None:
    """Create ``path`` complete or not at all; when two processes race, the first one's file stays."""
    temporary = _temporary(path, data, mode)
    try:
        os.link(temporary, path)
    except FileExistsError:
        pass
    finally:
        temporary.unlink()
    sync_folder(path.parent)


def replace(path: Path, data: bytes, mode: int) -> None:
    os.replace(_temporary(path, data, mode), path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _temporary(path: Path, data: bytes, mode: int) -> Path:
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return temporary

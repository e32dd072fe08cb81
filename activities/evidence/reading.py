"""Reading a bundle directory that may be hostile: each file is opened once, and what was hashed is what is parsed.

A trajectory is scanned while it is read, and never in memory as a whole.
"""

from __future__ import annotations

import errno
import os
import stat
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from activities.evidence.scanning import Scan, scan, values_in
from schemas.canonical import sha256_hex, strict_json
from schemas.error import InputError
from schemas.evidence import OPTIONAL_MEMBERS, REQUIRED_MEMBERS, SIZE_LIMITS, TRAJECTORY, VALUE_LIMIT
from schemas.stamp import AnyStamp, MemberDigest, Stamp, Stamp2

_KNOWN = frozenset((*REQUIRED_MEMBERS, *OPTIONAL_MEMBERS))
_IN_ORDER = (*sorted(_KNOWN - {TRAJECTORY}), TRAJECTORY)
"""The trajectory last: it is parsed as it is read, and nothing is parsed before every other size is known."""
_MOST_NAMES = 256
_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
"""NONBLOCK: opening a named pipe must not wait for its writer."""


@dataclass
class Reading:
    """What is known of every regular member within its limit; the rest says why one is not there."""

    files: dict[str, bytes] = field(default_factory=dict)
    """Bytes of all of them but the trajectory."""
    digests: dict[str, MemberDigest] = field(default_factory=dict)
    trajectory: Scan | None = None
    missing: list[str] = field(default_factory=list)
    extra: list[str] = field(default_factory=list)
    too_large: dict[str, int] = field(default_factory=dict)
    too_many: dict[str, int] = field(default_factory=dict)
    """JSON files of more values than anybody needs, which are not parsed."""
    not_regular: dict[str, str] = field(default_factory=dict)
    """Name (printable) to reason: symlink, links, folder, fifo, socket, device, name, casefold, unreadable."""


def read_bundle(directory: Path, in_time: Callable[[], bool] = lambda: True) -> Reading:
    """Raises InputError BUNDLE_NOT_FOUND when ``directory`` cannot be opened as a folder.

    Args:
        in_time: a trajectory is read no further once it says no.
    """
    folder = _open_folder(directory)
    try:
        return _read(folder, in_time)
    finally:
        os.close(folder)


def read_member(directory: Path, name: str) -> bytes | None:
    """The bytes of one member, not a trajectory; None where it cannot be read. Raises InputError BUNDLE_NOT_FOUND."""
    folder, reading = _open_folder(directory), Reading()
    try:
        _read_member(folder, name, reading, lambda: True)
    finally:
        os.close(folder)
    return reading.files.get(name)


def read_text(directory: Path, name: str, limit: int = 1024 * 1024) -> bytes | None:
    """The bytes of a small regular file that is no member; None where it cannot be read. Raises InputError BUNDLE_NOT_FOUND."""
    folder = _open_folder(directory)
    try:
        with os.fdopen(os.open(name, _FLAGS, dir_fd=folder), "rb") as file:
            data = file.read(limit + 1) if stat.S_ISREG(os.fstat(file.fileno()).st_mode) else b""
    except OSError:
        return None
    finally:
        os.close(folder)
    return data if 0 < len(data) <= limit else None


def read_stamp(data: bytes) -> AnyStamp:
    """A stamp of a known version. Raises StrictJsonError and pydantic.ValidationError."""
    document = strict_json(data)
    model = Stamp if isinstance(document, dict) and document.get("schema_version") == "stamp/1" else Stamp2
    return model.model_validate_json(data)


def _open_folder(directory: Path) -> int:
    try:
        return os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise InputError("BUNDLE_NOT_FOUND", f"cannot open bundle {directory}: {why}", "name the bundle's folder") from error


def printable(name: str) -> str:
    """Foreign text as ASCII that cannot steer a terminal, cut at 400 characters."""
    return ascii(name)[1:-1][:400]


def _read(folder: int, in_time: Callable[[], bool]) -> Reading:
    reading = Reading()
    names = _names(folder)
    reading.missing = [name for name in REQUIRED_MEMBERS if name not in names]
    reading.extra = sorted(printable(name) for name in names if name not in _KNOWN)
    for name in names:
        if reason := _bad_name(name, names):
            reading.not_regular[printable(name)] = reason
    for name in _IN_ORDER:
        if name in names:
            _read_member(folder, name, reading, in_time)
    return reading


def _names(folder: int) -> list[str]:
    names: list[str] = []
    with os.scandir(folder) as entries:
        for entry in entries:
            names.append(entry.name)
            if len(names) > _MOST_NAMES:
                break
    return sorted(names)


def _bad_name(name: str, names: list[str]) -> str:
    if any(unicodedata.category(char) in ("Cc", "Cf", "Cs", "Zl", "Zp") for char in name) or "\\" in name or ".." in name:
        return "name"
    if unicodedata.normalize("NFC", name) != name:
        return "name"
    folded = unicodedata.normalize("NFC", name).casefold()
    if any(other != name and unicodedata.normalize("NFC", other).casefold() == folded for other in names):
        return "casefold"
    return ""


def _read_member(folder: int, name: str, reading: Reading, in_time: Callable[[], bool]) -> None:
    try:
        descriptor = os.open(name, _FLAGS, dir_fd=folder)
    except OSError as error:
        reading.not_regular[name] = _why_not_opened(error)
        return
    facts = os.fstat(descriptor)
    if reason := _not_regular(facts):
        os.close(descriptor)
        reading.not_regular[name] = reason
        return
    try:
        with os.fdopen(descriptor, "rb") as file:
            if facts.st_size > SIZE_LIMITS[name]:
                reading.too_large[name] = facts.st_size
            elif name == TRAJECTORY:
                _scan(file, reading, in_time)
            else:
                _take(file, name, reading)
    except OSError:
        reading.not_regular[name] = "unreadable"


def _take(file: IO[bytes], name: str, reading: Reading) -> None:
    # The file may grow while it is read, so the bytes decide, not the size in its inode.
    data = file.read(SIZE_LIMITS[name] + 1)
    if len(data) > SIZE_LIMITS[name]:
        reading.too_large[name] = len(data)
        return
    values = values_in(data) if name.endswith(".json") else 0
    if values > VALUE_LIMIT:
        reading.too_many[name] = values
        return
    reading.files[name] = data
    reading.digests[name] = MemberDigest(sha256=sha256_hex(data), size=len(data))


def _scan(file: IO[bytes], reading: Reading, in_time: Callable[[], bool]) -> None:
    if reading.too_large:
        return
    found = scan(file, SIZE_LIMITS[TRAJECTORY], in_time)
    if found.size > SIZE_LIMITS[TRAJECTORY]:
        reading.too_large[TRAJECTORY] = found.size
    elif not found.stopped:
        reading.trajectory = found
        reading.digests[TRAJECTORY] = MemberDigest(sha256=found.sha256, size=found.size)


def _not_regular(facts: os.stat_result) -> str:
    if stat.S_ISREG(facts.st_mode):
        return "links" if facts.st_nlink != 1 else ""
    if stat.S_ISDIR(facts.st_mode):
        return "folder"
    return "fifo" if stat.S_ISFIFO(facts.st_mode) else "device"


def _why_not_opened(error: OSError) -> str:
    if error.errno in (errno.ELOOP, errno.EMLINK):
        return "symlink"
    return "socket" if error.errno == errno.ENXIO else "unreadable"

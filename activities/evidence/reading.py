"""Reading a bundle directory that may be hostile: each file is opened once, and what was hashed is what is parsed."""

from __future__ import annotations

import errno
import os
import stat
import unicodedata
from dataclasses import dataclass, field
from pathlib import Path

from schemas.error import InputError
from schemas.evidence import OPTIONAL_MEMBERS, REQUIRED_MEMBERS, SIZE_LIMITS

_KNOWN = frozenset((*REQUIRED_MEMBERS, *OPTIONAL_MEMBERS))
_MOST_NAMES = 256
_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
"""NONBLOCK: opening a named pipe must not wait for its writer."""


@dataclass
class Reading:
    """``files`` holds the bytes of every known regular member within its limit; the rest says why one is not there."""

    files: dict[str, bytes] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    extra: list[str] = field(default_factory=list)
    too_large: dict[str, int] = field(default_factory=dict)
    not_regular: dict[str, str] = field(default_factory=dict)
    """Name (printable) to reason: symlink, links, folder, fifo, socket, device, name, casefold, unreadable."""


def read_bundle(directory: Path) -> Reading:
    """Raises InputError BUNDLE_NOT_FOUND when ``directory`` cannot be opened as a folder."""
    try:
        folder = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise InputError(
            "BUNDLE_NOT_FOUND", f"cannot open bundle {directory}: {error.strerror}", "name the bundle's folder"
        ) from error
    try:
        return _read(folder)
    finally:
        os.close(folder)


def printable(name: str) -> str:
    """Foreign text as ASCII that cannot steer a terminal, cut at 400 characters."""
    return ascii(name)[1:-1][:400]


def _read(folder: int) -> Reading:
    reading = Reading()
    names = _names(folder)
    reading.missing = [name for name in REQUIRED_MEMBERS if name not in names]
    reading.extra = sorted(printable(name) for name in names if name not in _KNOWN)
    for name in names:
        if reason := _bad_name(name, names):
            reading.not_regular[printable(name)] = reason
    for name in (*REQUIRED_MEMBERS, *OPTIONAL_MEMBERS):
        if name in names:
            _read_member(folder, name, reading)
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


def _read_member(folder: int, name: str, reading: Reading) -> None:
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
    with os.fdopen(descriptor, "rb") as file:
        limit = SIZE_LIMITS[name]
        # The file may grow while it is read, so the bytes decide, not the size in its inode.
        data = file.read(limit + 1) if facts.st_size <= limit else b""
        if facts.st_size > limit or len(data) > limit:
            reading.too_large[name] = max(facts.st_size, len(data))
            return
    reading.files[name] = data


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

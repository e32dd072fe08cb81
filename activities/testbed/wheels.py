"""Wheels become a folder without running anything: the archive is unpacked as the wheel format says, and no more.

The same wheels give the same bytes, names, modes and times on every machine, so an environment can be rebuilt from its lock.
"""

from __future__ import annotations

import configparser
import glob
import io
import os
import re
import shutil
import stat
import zipfile
from collections.abc import Callable, Iterable, Iterator
from email.parser import HeaderParser
from pathlib import Path, PurePosixPath

from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename

from schemas.canonical import sha256_hex
from schemas.error import Refused
from schemas.testing import OwnDistribution, Wheel

PROFILE = "wheels/1"
"""Version of these rules; part of every lock."""
BYTECODE = "bytecode/1"
"""Beside it in the locks of environments whose modules lie there compiled as well."""
MAX_UNPACKED = 2 * 1024**3
_TIME = 315_532_800  # 1980-01-01, the oldest that a zip archive can hold
_COMMAND = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
_ENTRY_POINT = re.compile(r"([A-Za-z_][\w.]*)\s*:\s*([A-Za-z_][\w.]*)(?:\s*\[.*\])?")
_SCRIPT = """#!/usr/bin/env -S python3 -B -P
import sys
from {module} import {top}
sys.exit({attribute}())
"""
_SCHEMES = {"purelib": "", "platlib": "", "data": "", "scripts": "bin"}


def describe(filename: str, data: bytes) -> Wheel:
    """Name, version, hash and licence of a wheel, from its own metadata.

    Raises:
        Refused: WHEEL_INVALID.
    """
    try:
        name, version, _, _ = parse_wheel_filename(filename)
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            metadata = _metadata(archive)
    except (InvalidWheelFilename, zipfile.BadZipFile, KeyError) as error:
        raise Refused("WHEEL_INVALID", f"{filename}: {error}", "choose another version of the package") from error
    return Wheel(name=str(name), version=str(version), sha256=sha256_hex(data), filename=filename, license=_licence(metadata))


def install(
    wheels: Iterable[tuple[str, bytes]],
    folder: Path,
    project: OwnDistribution | None = None,
    bytecode: Callable[[str, bytes], bytes | None] | None = None,
    python_version: str = "",
) -> None:
    """Unpack wheels, sorted by file name, into a new folder; a later one replaces what an earlier one also has.

    ``project`` gets metadata, but no code: its modules come from the tree. ``bytecode`` gives that of a wheel, made by
    ``python_version``: a zip archive with the bytecode of modules under the names of their sources.

    Raises:
        Refused: WHEEL_INVALID for links, names outside the folder, and more than 2 GiB in all.
    """
    folder.mkdir(parents=True)
    left = MAX_UNPACKED
    for filename, data in sorted(wheels):
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for member, target in _members(filename, archive):
                left -= member.file_size
                if left < 0:
                    raise Refused("WHEEL_INVALID", f"{filename}: the environment exceeds {MAX_UNPACKED} bytes", "require less")
                _write(archive, member, folder / target, executable=target.parts[0] == "bin")
        if bytecode is not None and (compiled := bytecode(filename, data)) is not None:
            add_bytecode(compiled, folder, "cpython-" + "".join(python_version.split(".")[:2]))
    if project is not None:
        _describe_project(project, folder)
    _write_scripts(folder)
    _settle(folder)


def add_bytecode(archive: bytes, folder: Path, tag: str) -> None:
    """Put bytecode beside its sources, where an interpreter with this ``tag`` looks for it.

    Raises:
        Refused: WHEEL_INVALID for what is not the bytecode of a source, and more than 2 GiB in all.
    """
    left = MAX_UNPACKED
    ready: set[Path] = set()
    with zipfile.ZipFile(io.BytesIO(archive)) as compiled:
        for member in compiled.infolist():
            source = folder / member.filename
            left -= member.file_size
            inside = source.is_relative_to(folder) and ".." not in source.parts
            if left < 0 or not inside or source.suffix != ".py" or not source.is_file():
                raise Refused("WHEEL_INVALID", f"bytecode of {member.filename!r}, which is no source", "choose other versions")
            cache = source.parent / "__pycache__"
            if cache not in ready:
                cache.mkdir(exist_ok=True)
                ready.add(cache)
            with open(f"{cache}/{source.stem}.{tag}.pyc", "wb") as file:  # what the wheel itself has there is replaced
                file.write(compiled.read(member))
                os.fchmod(file.fileno(), 0o644)


def _describe_project(project: OwnDistribution, folder: Path) -> None:
    stem = project.name.replace("-", "_")
    if any(folder.glob(f"{stem}-*.dist-info")):
        return  # pytest itself needs the project: then its released metadata is there
    info = folder / f"{stem}-{project.version}.dist-info"
    info.mkdir()
    metadata = f"Metadata-Version: 2.1\nName: {project.name}\nVersion: {project.version}\n"
    for name, text in (("METADATA", metadata), ("entry_points.txt", project.entry_points)):
        if text:
            (info / name).write_text(text)
            (info / name).chmod(0o644)


def _write_scripts(folder: Path) -> None:
    """Commands of ``console_scripts``; they import from the tree first, like every child of a test."""
    for file in sorted(folder.glob("*.dist-info/entry_points.txt")):
        parser = configparser.RawConfigParser(strict=False, delimiters=("=",))
        parser.optionxform = str  # type: ignore[assignment,method-assign]
        try:
            parser.read_string(file.read_text("utf-8", "replace"))
        except configparser.Error:
            continue
        for name, value in parser.items("console_scripts") if parser.has_section("console_scripts") else ():
            match = _ENTRY_POINT.fullmatch(value.strip())
            script = folder / "bin" / name
            if match and _COMMAND.fullmatch(name) and not script.exists():
                script.parent.mkdir(exist_ok=True)
                script.write_text(_SCRIPT.format(module=match[1], attribute=match[2], top=match[2].partition(".")[0]))
                script.chmod(0o755)


def _members(filename: str, archive: zipfile.ZipFile) -> Iterator[tuple[zipfile.ZipInfo, PurePosixPath]]:
    for member in archive.infolist():
        parts = PurePosixPath(member.filename).parts
        if member.is_dir():
            continue
        outside = member.filename.startswith("/") or "\\" in member.filename or ".." in parts or not parts
        if outside or stat.S_ISLNK(member.external_attr >> 16):
            why = f"{filename}: {member.filename!r} is a link or outside the folder"
            raise Refused("WHEEL_INVALID", why, "choose another version")
        if parts[0].endswith(".data"):
            scheme = _SCHEMES.get(parts[1]) if len(parts) > 2 else None
            if scheme is None:
                continue  # headers: nothing is compiled against an environment
            parts = (*([scheme] if scheme else []), *parts[2:])
        yield member, PurePosixPath(*parts)


def _write(archive: zipfile.ZipFile, member: zipfile.ZipInfo, target: Path, executable: bool) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.is_dir():
        raise Refused("WHEEL_INVALID", f"{member.filename!r} is a folder in another wheel", "choose other versions")
    if target.exists():
        target.unlink()
        for stale in target.parent.glob(f"__pycache__/{glob.escape(target.stem)}.*.pyc"):
            stale.unlink()  # it would be taken for what replaces its source
    with archive.open(member) as source, target.open("xb") as file:
        shutil.copyfileobj(source, file)
    target.chmod(0o755 if executable or member.external_attr >> 16 & 0o100 else 0o644)


def _settle(folder: Path) -> None:
    for path, _, files in os.walk(folder, topdown=False):
        for name in files:
            os.utime(os.path.join(path, name), (_TIME, _TIME))
        os.chmod(path, 0o755)  # noqa: S103  the sandbox reads it under another uid
        os.utime(path, (_TIME, _TIME))


def _metadata(archive: zipfile.ZipFile) -> str:
    for name in archive.namelist():
        if re.fullmatch(r"[^/]+\.dist-info/METADATA", name):
            return archive.read(name).decode("utf-8", "replace")
    raise KeyError("no METADATA")


def _licence(metadata: str) -> str:
    headers = HeaderParser().parsestr(metadata)
    for value in (headers.get("License-Expression"), *_classifiers(headers.get_all("Classifier") or []), headers.get("License")):
        if value and value.strip() and value.strip().upper() != "UNKNOWN":
            return value.strip().splitlines()[0][:200]
    return ""


def _classifiers(values: list[str]) -> list[str]:
    return [value.rpartition(" :: ")[2] for value in values if value.startswith("License :: ")]


def same_project(filename: str, name: str) -> bool:
    """Whether a wheel file is one of the named project."""
    try:
        return parse_wheel_filename(filename)[0] == canonicalize_name(name)
    except InvalidWheelFilename:
        return False

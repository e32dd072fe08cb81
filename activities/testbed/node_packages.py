"""Packages of a JavaScript tree: from its package lock, by integrity hash, unpacked without running anything.

A lock of form 2 or 3 names every package with its place and hash, so nothing is resolved here. Tarballs come from the
registry that the operator configured for npm; the addresses that a lock may record are not used. Install scripts never
run: a package that needs its own to work shows in its tests.
"""

from __future__ import annotations

import base64
import functools
import gzip
import hashlib
import io
import json
import os
import re
import subprocess
import tarfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote, urlsplit

import requests

from schemas.canonical import StrictJsonError, sha256_hex, strict_json
from schemas.error import Gen4Error, InfrastructureError, InputError, Refused
from schemas.testing import NodePackage

Heartbeat = Callable[[], None]
LOCK_FILES = ("package-lock.json", "npm-shrinkwrap.json")
PROFILE = "node/1"
"""Version of these rules; part of every lock."""
MAX_UNPACKED = 2 * 1024**3
_MAX_TARBALL = 256 * 1024 * 1024
_MAX_PACKAGES = 5_000
_TIMEOUT_S = 60
_TIME = 315_532_800
_NAME = re.compile(r"(?:@[a-z0-9~-][a-z0-9._~-]*/)?[a-z0-9~-][a-z0-9._~-]*", re.IGNORECASE)
_VERSION = re.compile(r"[0-9A-Za-z.+-]{1,200}")
_PLACE = re.compile(r"(?:[^/]+/)*?node_modules/(?:@[^/]+/)?[^/]+(?:/node_modules/(?:@[^/]+/)?[^/]+)*")
_RENEW = "run: npm install --package-lock-only --lockfile-version 3, and commit package-lock.json"


@dataclass(frozen=True)
class Entry:
    """One package that a lock wants. ``link``: the folder of the tree that it stands for, instead of a tarball."""

    path: str
    name: str
    version: str
    integrity: str = ""
    license: str = ""
    link: str = ""


def read_package_lock(files: dict[str, bytes], *, os_name: str = "linux", cpu: str = "x64") -> tuple[Entry, ...]:
    """What is to be installed for this platform, by place. ``files``: package.json and the lock, as the tree has them.

    Raises:
        InputError: METADATA_INVALID, LOCK_MISSING, LOCK_TOO_OLD.
        Refused: REQUIREMENT_DIRECT (a package from elsewhere than a registry), LOCK_WITHOUT_HASH.
    """
    name = next((name for name in LOCK_FILES if name in files), None)
    if name is None:
        manifest = _object(files.get("package.json", b"{}"), "package.json")
        if any(manifest.get(kind) for kind in ("dependencies", "devDependencies", "optionalDependencies")):
            raise InputError("LOCK_MISSING", "package.json names dependencies, and there is no package-lock.json", _RENEW)
        return ()
    lock = _object(files[name], name)
    if lock.get("lockfileVersion") not in (2, 3) or not isinstance(lock.get("packages"), dict):
        raise InputError("LOCK_TOO_OLD", f"{name} has lockfileVersion {lock.get('lockfileVersion')!r}; 2 or 3 is needed", _RENEW)
    if len(lock["packages"]) > _MAX_PACKAGES:
        raise InputError("METADATA_INVALID", f"{name} names more than {_MAX_PACKAGES} packages", "require less")
    found = (_entry(path, value, name, os_name, cpu) for path, value in sorted(lock["packages"].items()))
    return tuple(entry for entry in found if entry is not None)


def _entry(path: str, value: Any, file: str, os_name: str, cpu: str) -> Entry | None:
    if "node_modules" not in path.split("/"):
        return None  # the project itself, and its workspaces: their code is in the tree
    if not isinstance(value, dict) or ".." in path.split("/") or not _PLACE.fullmatch(path):
        raise InputError("METADATA_INVALID", f"{file}: {path[:200]!r} is no place of a package", _RENEW)
    if not _fits(value.get("os"), os_name) or not _fits(value.get("cpu"), cpu) or value.get("inBundle"):
        return None  # for another platform, or part of the tarball around it
    if not _fits(value.get("libc"), "glibc"):
        return None
    name = str(value.get("name") or path.rpartition("node_modules/")[2])
    if value.get("link"):
        return Entry(path, name, "0.0.0-link", link=_inside(value.get("resolved"), path, file))
    version, integrity = str(value.get("version", "")), str(value.get("integrity", ""))
    if not _NAME.fullmatch(name) or not _VERSION.fullmatch(version) or not _from_registry(str(value.get("resolved") or "")):
        why = f"{file}: {path} is {str(value.get('resolved') or version)[:200]!r}, which is no version of a registry"
        raise Refused("REQUIREMENT_DIRECT", why, "require a published version")
    strong = [part for part in integrity.split() if part.startswith("sha512-")]
    if not strong:
        raise Refused("LOCK_WITHOUT_HASH", f"{file}: {path} has no sha512 integrity", _RENEW)
    return Entry(path, name, version, strong[0], str(value.get("license") or "")[:200])


def _fits(wanted: Any, here: str) -> bool:
    """npm's lists: plain names allow, names with ``!`` forbid."""
    if not isinstance(wanted, list):
        return True
    names = [str(name) for name in wanted]
    allowed = [name for name in names if not name.startswith("!")]
    return f"!{here}" not in names and (not allowed or here in allowed)


def _inside(target: Any, path: str, file: str) -> str:
    parts = PurePosixPath(str(target)).parts
    if not isinstance(target, str) or not parts or target.startswith("/") or ".." in parts:
        raise Refused("REQUIREMENT_DIRECT", f"{file}: {path} links outside of the tree", "link to a folder of the tree")
    return str(PurePosixPath(*parts))


def _from_registry(resolved: str) -> bool:
    # Most locks say where the tarball was; git and file dependencies are recognised by it, the host itself is not used.
    return not resolved or (urlsplit(resolved).scheme in ("https", "http") and resolved.partition("?")[0].endswith(".tgz"))


def fetch(entry: Entry, registry: str) -> bytes:
    """The tarball of a package, checked against the lock's integrity.

    Raises:
        Refused: PACKAGE_HASH, PACKAGE_NOT_FOUND.
        InfrastructureError: INDEX_UNREACHABLE.
    """
    basename = entry.name.rpartition("/")[2]
    url = f"{registry.rstrip('/')}/{quote(entry.name, safe='@/')}/-/{quote(basename)}-{quote(entry.version)}.tgz"
    try:
        with requests.get(url, timeout=_TIMEOUT_S, stream=True, headers={"Accept-Encoding": "identity"}) as answer:
            data = answer.raw.read(_MAX_TARBALL + 1)
    except (requests.RequestException, OSError) as error:
        why = f"the npm registry did not answer: {type(error).__name__}"
        raise InfrastructureError("INDEX_UNREACHABLE", why, "check npm's registry setting and the network") from error
    if answer.status_code in (404, 410):
        raise Refused("PACKAGE_NOT_FOUND", f"the registry has no {entry.name} {entry.version}", "lock a published version")
    if answer.status_code != 200:
        why = f"the npm registry answered {answer.status_code} for {entry.name}"
        raise InfrastructureError("INDEX_UNREACHABLE", why, "check npm's registry setting and its credentials")
    actual = "sha512-" + base64.b64encode(hashlib.sha512(data).digest()).decode()
    if actual != entry.integrity:
        why = f"{entry.name} {entry.version} is not the one that the lock names"
        raise Refused("PACKAGE_HASH", why, "find out who changed the package, or lock it again")
    return data


def download(
    entries: Iterable[Entry], put: Callable[[bytes], object], heartbeat: Heartbeat, registry: Callable[[], str]
) -> tuple[NodePackage, ...]:
    """Fetch every tarball once, hand it to ``put``, and describe it for the environment's lock."""
    fetched: dict[str, str] = {}
    packages = []
    for entry in entries:
        heartbeat()
        if not entry.link and entry.integrity not in fetched:
            data = fetch(entry, registry())
            put(data)
            fetched[entry.integrity] = sha256_hex(data)
        packages.append(
            NodePackage(
                path=entry.path, name=entry.name, version=entry.version, integrity=entry.integrity, license=entry.license,
                link=entry.link, sha256=fetched.get(entry.integrity, sha256_hex(b"")),
            )
        )  # fmt: skip
    return tuple(packages)


@functools.cache
def configured_registry() -> str:
    """What npm itself would use: the operator's configuration, never that of a repository.

    Raises:
        InfrastructureError: INDEX_UNCONFIGURED.
    """
    explicit = next((value for name, value in os.environ.items() if name.lower() == "npm_config_registry" and value), "")
    if explicit:
        return explicit
    try:
        # Not in the working directory: a cloned repository may hold an .npmrc.
        asked = subprocess.run(
            ["npm", "config", "get", "registry"], cwd="/", capture_output=True, text=True, timeout=_TIMEOUT_S, check=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        why = "npm is not installed, so its registry is not known"
        raise InfrastructureError("INDEX_UNCONFIGURED", why, "set npm_config_registry to the registry's URL") from error
    return asked.stdout.strip()


def install(packages: Iterable[NodePackage], read: Callable[[str], bytes], folder: Path, work: str) -> None:
    """Unpack packages into ``folder``, each at its place; the same lock gives the same bytes, names, modes and times.

    Args:
        read: a tarball by its sha256.
        work: where the tree lies in the sandbox, for links to workspaces.

    Raises:
        Refused: PACKAGE_INVALID.
    """
    left = MAX_UNPACKED
    for package in sorted(packages, key=lambda one: one.path):
        target = folder / package.path
        target.parent.mkdir(parents=True, exist_ok=True)
        if package.link:
            os.symlink(f"{work}/{package.link}", target)
            continue
        left = _unpack(package, read(package.sha256), target, left)
        _link_commands(target, package)
    _settle(folder)


def _unpack(package: NodePackage, data: bytes, target: Path, left: int) -> int:
    target.mkdir(exist_ok=True)
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:gz") as archive:
            for member, relative in _members(package, archive):
                left -= member.size
                if left < 0:
                    raise _invalid(package, f"the environment exceeds {MAX_UNPACKED} bytes")
                source = archive.extractfile(member)
                assert source is not None  # it is a regular file
                place = target / relative
                place.parent.mkdir(parents=True, exist_ok=True)
                if place.is_dir():
                    raise _invalid(package, f"{relative} is a file and a folder")
                place.write_bytes(source.read())
                place.chmod(0o755 if member.mode & 0o100 else 0o644)
    except (tarfile.TarError, gzip.BadGzipFile, EOFError, OSError) as error:
        raise _invalid(package, str(error)) from error
    return left


def _members(package: NodePackage, archive: tarfile.TarFile) -> Iterator[tuple[tarfile.TarInfo, PurePosixPath]]:
    for member in archive:
        parts = PurePosixPath(member.name).parts
        if member.isdir():
            continue
        if not member.isreg() or member.name.startswith("/") or ".." in parts or "\0" in member.name or len(parts) < 2:
            raise _invalid(package, f"{member.name[:200]!r} is a link, a device or outside of the package")
        yield member, PurePosixPath(*parts[1:])


def _link_commands(target: Path, package: NodePackage) -> None:
    """``node_modules/.bin``: commands that tests start by name."""
    try:
        manifest = json.loads((target / "package.json").read_bytes())
    except (OSError, ValueError):
        return
    declared = manifest.get("bin") if isinstance(manifest, dict) else None
    commands = {package.name.rpartition("/")[2]: declared} if isinstance(declared, str) else declared
    holder = Path(str(target)[: str(target).rindex("node_modules") + len("node_modules")])
    for name, file in sorted(commands.items()) if isinstance(commands, dict) else ():
        script = target / PurePosixPath(str(file))
        if not _NAME.fullmatch(str(name)) or "/" in str(name) or ".." in Path(str(file)).parts or not script.is_file():
            continue
        script.chmod(0o755)
        link = holder / ".bin" / str(name)
        link.parent.mkdir(exist_ok=True)
        if not link.is_symlink():
            os.symlink(os.path.relpath(script, link.parent), link)


def _settle(folder: Path) -> None:
    for path, _, files in os.walk(folder, topdown=False):
        for name in files:
            os.utime(os.path.join(path, name), (_TIME, _TIME), follow_symlinks=False)
        os.chmod(path, 0o755)  # noqa: S103  the sandbox reads it under another uid
        os.utime(path, (_TIME, _TIME))


def _invalid(package: NodePackage, why: str) -> Gen4Error:
    return Refused("PACKAGE_INVALID", f"{package.name} {package.version}: {why}", "lock another version of the package")


def _object(data: bytes, file: str) -> dict[str, Any]:
    try:
        value = strict_json(data)
    except StrictJsonError as error:
        raise InputError("METADATA_INVALID", f"{file}: {error}", f"correct {file}") from error
    if not isinstance(value, dict):
        raise InputError("METADATA_INVALID", f"{file} is no JSON object", f"correct {file}")
    return value

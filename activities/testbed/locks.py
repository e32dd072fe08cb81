"""Locks from other processes: an executor believes no path or name in them before it makes an environment (threats 1.4)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import PurePosixPath

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from pydantic import ValidationError

from activities.record.blobs import BlobStore
from schemas.error import Refused
from schemas.model import Digest
from schemas.testing import EnvironmentLock, NodeEnvironmentLock, OwnDistribution, read_lock

_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?")
_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9.!+_-]*")
_HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")
_MODULES = "node_modules"


def checked_lock(blobs: BlobStore, digest: Digest, base_digest: Digest) -> EnvironmentLock:
    """The lock that ``digest`` names, if an environment may be made of it here.

    Raises:
        Refused: LOCK_INVALID, BASE_UNKNOWN for a lock of another base.
    """
    try:
        lock = read_lock(blobs.get(digest.removeprefix("sha256:")))
    except ValidationError as error:
        raise _invalid(f"it is no env/1 or env/2: {error.errors()[0]['msg']}") from error
    if lock.base_digest != base_digest:
        raise Refused("BASE_UNKNOWN", f"the environment is for base {lock.base_digest}", f"use {base_digest}")
    if lock.project is not None:
        _check_project(lock.project)
    if isinstance(lock, NodeEnvironmentLock):
        _check_packages(lock)
    return lock


def require_pinned(lock: EnvironmentLock, pinned: Sequence[str]) -> None:
    """Refuse a lock of tools that has anything but one wheel for each requirement line of ours, by a hash that the line names.

    Raises:
        Refused: LOCK_INVALID.
    """
    allowed = {canonicalize_name(Requirement(line.partition(" --hash=")[0]).name): set(_HASH.findall(line)) for line in pinned}
    found = [(canonicalize_name(wheel.name), wheel.sha256) for wheel in lock.wheels]
    if {name for name, _ in found} != allowed.keys() or len(found) != len(allowed):
        raise _invalid("it has other tools than those that are pinned")
    for name, sha256 in found:
        if sha256 not in allowed[name]:
            raise _invalid(f"the wheel of {name} is none of those that are pinned")


def _check_project(project: OwnDistribution) -> None:
    if not _NAME.fullmatch(project.name) or not _VERSION.fullmatch(project.version) or ".." in project.version:
        raise _invalid(f"{project.name[:80]!a} {project.version[:80]!a} cannot name a folder")


def _check_packages(lock: NodeEnvironmentLock) -> None:
    links = {package.path for package in lock.packages if package.link}
    for package in lock.packages:
        path = PurePosixPath(package.path)
        if not _plain(package.path) or path.parts[0] != _MODULES or any(part.startswith(".") for part in path.parts):
            raise _invalid(f"{package.path[:200]!a} is no place of a package")
        if any(str(parent) in links for parent in path.parents):
            raise _invalid(f"{package.path[:200]!a} lies behind a link")
        if package.link and not _plain(package.link):
            raise _invalid(f"{package.link[:200]!a} leads out of the tree")


def _plain(path: str) -> bool:
    return bool(path) and not path.startswith("/") and "\0" not in path and not {"", ".", ".."} & set(path.split("/"))


def _invalid(why: str) -> Refused:
    return Refused("LOCK_INVALID", f"the lock of the environment is refused: {why}", "prepare the environment again")

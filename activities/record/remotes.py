"""Which repositories and refs may be named at all, decided before git sees them (threats 3.3)."""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from activities.record.git import Git, GitFailed
from schemas.error import InputError, Refused

Protocol = Literal["file", "https", "ssh"]

_HOST = r"[A-Za-z0-9](?:[A-Za-z0-9.-]{0,252}[A-Za-z0-9])?"
_PATH = r"/[A-Za-z0-9._~+@=,%:-]+(?:/[A-Za-z0-9._~+@=,%:-]+)*/?"
_HTTPS = re.compile(rf"https://{_HOST}(?::[0-9]{{1,5}})?{_PATH}\Z")
_SSH = re.compile(rf"ssh://(?:[A-Za-z0-9_][A-Za-z0-9._-]{{0,63}}@)?{_HOST}(?::[0-9]{{1,5}})?{_PATH}\Z")
_BAD_IN_REF = re.compile(r"[\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{|//")


@dataclass(frozen=True)
class Remote:
    """``address`` is what git is given: a URL, or the git directory of a local repository."""

    protocol: Protocol
    address: str
    local: LocalRepository | None = None


@dataclass(frozen=True)
class LocalRepository:
    """A repository on this machine, found by reading files only. ``common``: where refs and configuration lie."""

    path: Path
    git_directory: Path
    common: Path


def parse_remote(repository: str, allow: Collection[str]) -> Remote:
    """Raises:
    InputError: REPOSITORY_INVALID, REPOSITORY_NOT_FOUND.
    Refused: PROTOCOL_REFUSED for a transport that ``allow`` does not name, REPOSITORY_OWNER for another uid's.
    """
    if repository.startswith("/"):
        _allowed("file", allow)
        local = find_local(repository)
        return Remote("file", str(local.git_directory), local)
    if _HTTPS.match(repository):
        _allowed("https", allow)
        return Remote("https", _no_dots(repository))
    if _SSH.match(repository):
        _allowed("ssh", allow)
        return Remote("ssh", _no_dots(repository))
    raise InputError(
        "REPOSITORY_INVALID",
        "the repository is neither an absolute path nor a plain https:// or ssh:// URL",
        "send /absolute/path, https://host/path or ssh://user@host/path, without password, query or fragment",
    )


def find_local(repository: str) -> LocalRepository:
    """The git directory of a local path: a bare repository, a clone or a linked work tree.

    Raises:
        InputError: REPOSITORY_INVALID, REPOSITORY_NOT_FOUND.
        Refused: REPOSITORY_OWNER when it, or its git directory, is another uid's.
    """
    if any(ord(char) < 0x20 or ord(char) == 0x7F for char in repository):
        raise InputError("REPOSITORY_INVALID", "the path contains control characters", "rename the folder")
    try:
        path = Path(repository).resolve(strict=True)
        git_directory = _git_directory(path)
        common = _common(git_directory)
        for folder in (path, git_directory, common):
            _own(folder)
    except (OSError, ValueError) as error:
        raise InputError("REPOSITORY_NOT_FOUND", f"no repository can be read at this path: {error}", "check the path") from error
    return LocalRepository(path, git_directory, common)


def checked_out_refs(git: Git, local: LocalRepository) -> frozenset[str]:
    """Branches that some work tree of the repository has checked out or is rebasing; read from files, no git runs there."""
    places = _folders(local.common / "worktrees")
    if not _is_bare(git, local.common):
        places.append(local.common)
    names = ("HEAD", "rebase-merge/head-name", "rebase-apply/head-name")
    return frozenset(ref for place in places for name in names if (ref := _symbolic(place / name)) is not None)


def is_symbolic(local: LocalRepository, ref: str) -> bool:
    """Whether writing the ref would write somewhere else: another ref, or a file outside."""
    place = local.common / ref
    if any(part.is_symlink() for part in (place, *place.parents) if part.is_relative_to(local.common / "refs")):
        return True
    try:
        return place.read_bytes().startswith(b"ref:")
    except OSError:
        return False  # absent, or packed: packed refs are never symbolic


def check_ref(ref: str) -> str:
    """``ref`` if git would accept it as a name (git-check-ref-format), and it cannot be taken for an option.

    Raises:
        InputError: REF_INVALID.
    """
    parts = ref.split("/")
    wrong = (
        not ref or len(ref) > 250 or ref[0] in "-/" or ref[-1] in "./" or ref == "@" or not ref.isprintable()
        or _BAD_IN_REF.search(ref) is not None
        or any(part.startswith(".") or part.endswith(".lock") for part in parts)
    )  # fmt: skip
    if wrong:
        raise InputError("REF_INVALID", f"{ref[:80]!a} does not name a branch, tag or commit", "send a branch name or commit id")
    return ref


def _allowed(protocol: Protocol, allow: Collection[str]) -> None:
    if protocol not in allow:
        remedy = f"use one of: {', '.join(sorted(allow))}"
        raise Refused("PROTOCOL_REFUSED", f"repositories by {protocol} are not allowed here", remedy)


def _no_dots(url: str) -> str:
    if any(part in {".", ".."} or part.startswith("-") for part in url.split("/")[3:]):
        raise InputError("REPOSITORY_INVALID", "a part of the URL's path is '.', '..' or starts with '-'", "send the plain URL")
    return url


def _git_directory(path: Path) -> Path:
    marker = path / ".git"
    if marker.is_file():
        word, _, target = marker.read_text("utf-8").partition(":")
        if word != "gitdir" or not target.strip():
            raise ValueError(f"{marker} does not name a git directory")
        found = (path / target.strip()).resolve(strict=True)
    elif marker.is_dir():
        found = marker.resolve(strict=True)
    else:
        found = path
    if not (found / "HEAD").is_file() and not (found / "HEAD").is_symlink():
        raise ValueError(f"{path} is not a git repository")
    # git itself would look one folder deeper first, and so be led elsewhere.
    if os.path.lexists(found / ".git"):
        raise ValueError(f"{found} has another repository inside it")
    return found


def _common(git_directory: Path) -> Path:
    pointer = git_directory / "commondir"
    common = (git_directory / pointer.read_text("utf-8").strip()).resolve(strict=True) if pointer.is_file() else git_directory
    if not (common / "objects").is_dir() or not (common / "config").is_file():
        raise ValueError(f"{common} is not a git repository")
    return common


def _own(folder: Path) -> None:
    owner = folder.stat().st_uid
    if owner != os.geteuid():
        raise Refused(
            "REPOSITORY_OWNER",
            f"{folder} belongs to uid {owner}, the fabric runs as uid {os.geteuid()}",
            "clone it as the user of the fabric and name the clone",
        )


def _is_bare(git: Git, common: Path) -> bool:
    def value(name: str, file: Path) -> str:
        try:
            return git.run("config", "--file", str(file), "--type=bool", "--get", name).decode().strip()
        except GitFailed:
            return ""

    files = [common / "config"]
    if (common / "config.worktree").is_file():
        files.append(common / "config.worktree")
    has_tree = any(_has(git, "core.worktree", file) for file in files)
    return value("core.bare", files[0]) == "true" and value("core.bare", files[-1]) != "false" and not has_tree


def _has(git: Git, name: str, file: Path) -> bool:
    try:
        return bool(git.run("config", "--file", str(file), "--get", name))
    except GitFailed:
        return False


def _folders(parent: Path) -> list[Path]:
    return sorted(place for place in parent.iterdir() if place.is_dir()) if parent.is_dir() else []


def _symbolic(place: Path) -> str | None:
    try:
        if place.is_symlink():
            return os.readlink(place)
        text = place.read_text("utf-8", "surrogateescape").strip()
    except OSError:
        return None
    if text.startswith("ref:"):
        return text.removeprefix("ref:").strip()
    return text if text.startswith("refs/") else None

"""Git trees read by us: parsed from the raw objects, every object hashed again, links kept only inside (threats 3.1)."""

from __future__ import annotations

import hashlib
import os
import posixpath
import stat
import tarfile
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import BinaryIO, Literal

from activities.record.git import object_id
from activities.record.readers import CatFile
from schemas.error import InputError, Refused

EPOCH_MTIME = 315_619_200
"""1980-01-02: the first day that a zip archive can hold in every time zone."""
_LINK_LIMIT = 4096
_DEPTH_LIMIT = 128
_HOPS_LIMIT = 40

FOLDER = "040000"
EntryType = Literal["blob", "commit"]
Named = tuple[str, str]
"""Mode and id."""


@dataclass(frozen=True)
class TreeEntry:
    """A file, link or gitlink of a tree. ``path`` decodes by UTF-8 with surrogateescape, so that odd bytes survive."""

    mode: str
    """``100644``, ``100755``, ``120000`` (link) or ``160000`` (gitlink)."""
    type: EntryType
    oid: str
    size: int
    """Bytes of the blob; 0 for a gitlink."""
    path: str

    @property
    def is_link(self) -> bool:
        return self.mode == "120000"


def list_tree(objects: CatFile, tree: str) -> list[tuple[str, str, str]]:
    """Path, mode and id of all files, links and gitlinks of a tree, sorted by the bytes of their paths.

    Raises:
        Refused: TREE_UNSAFE for names that no folder can hold (``..``, ``.git``, duplicates) or trees nested too deep.
        InfrastructureError: OBJECT_MISSING, OBJECT_CORRUPT.
    """
    found: list[tuple[str, str, str]] = []
    pending = [("", object_id(tree), 0)]
    while pending:
        folder, oid, depth = pending.pop()
        for name, (mode, child) in read_folder(objects, oid, depth).items():
            if mode == FOLDER:
                pending.append((f"{folder}{name}/", child, depth + 1))
            else:
                found.append((f"{folder}{name}", mode, child))
    return sorted(found, key=lambda entry: os.fsencode(entry[0]))


def read_tree(objects: CatFile, tree: str) -> list[TreeEntry]:
    """The same with sizes."""
    found = list_tree(objects, tree)
    sizes = objects.sizes({oid for _, mode, oid in found if mode != "160000"})
    return [TreeEntry(mode, _type(mode), oid, sizes.get(oid, 0), path) for path, mode, oid in found]


def compare_trees(objects: CatFile, base: str, result: str) -> Iterator[tuple[str, Named | None, Named | None]]:
    """Paths of files, links and gitlinks that differ, with mode and id on either side. Equal folders are not read.

    Raises: as :func:`list_tree`.
    """
    pending: list[tuple[str, str | None, str | None, int]] = [("", object_id(base), object_id(result), 0)]
    while pending:
        folder, one, other, depth = pending.pop()
        if one == other:
            continue
        old, new = (read_folder(objects, oid, depth) if oid is not None else {} for oid in (one, other))
        for name in old.keys() | new.keys():
            before, after = old.get(name), new.get(name)
            if before == after:
                continue
            folders = _folder_id(before), _folder_id(after)
            if any(folders):
                pending.append((f"{folder}{name}/", *folders, depth + 1))
            if (before and not folders[0]) or (after and not folders[1]):
                yield f"{folder}{name}", None if folders[0] else before, None if folders[1] else after


def _folder_id(entry: Named | None) -> str | None:
    return entry[1] if entry is not None and entry[0] == FOLDER else None


def find_files(objects: CatFile, tree: str, paths: Iterable[str]) -> dict[str, str]:
    """Ids of those of ``paths`` that are regular files of the tree. Raises: as :func:`list_tree`."""
    known: dict[str, dict[str, Named]] = {}

    def child(oid: str, name: str, depth: int) -> Named:
        if oid not in known:
            known[oid] = read_folder(objects, oid, depth)
        return known[oid].get(name, ("", ""))

    found: dict[str, str] = {}
    for path in paths:
        entry = (FOLDER, object_id(tree))
        for depth, name in enumerate(check_path(path).split("/")):
            entry = child(entry[1], name, depth) if entry[0] == FOLDER else ("", "")
        if entry[0].startswith("100"):
            found[path] = entry[1]
    return found


def read_folder(objects: CatFile, oid: str, depth: int = 0) -> dict[str, Named]:
    """Mode and id by name of one folder, ``depth`` folders below the root. Raises: as :func:`list_tree`."""
    if depth > _DEPTH_LIMIT:
        raise Refused("TREE_UNSAFE", f"the tree is nested deeper than {_DEPTH_LIMIT} folders")
    kind, data = objects.read(oid)
    if kind != "tree":
        raise InputError("OBJECT_ID", f"{oid} is a {kind}, not a tree", "send the id of a tree")
    return {name: (mode, child) for mode, name, child in _parse_tree(data)}


def _type(mode: str) -> EntryType:
    return "commit" if mode == "160000" else "blob"


def write_tar(objects: CatFile, entries: Iterable[TreeEntry], out: BinaryIO, mtime: int) -> tuple[str, ...]:
    """Write files and links as a deterministic tar (GNU format, uid 0, one time for all); return what was left out.

    Gitlinks, and links that lead outside the tree, are left out. Blobs are streamed, and hashed while they pass.
    """
    listed = list(entries)
    omitted: list[str] = []
    with tarfile.open(
        fileobj=out, mode="w|", format=tarfile.GNU_FORMAT, encoding="utf-8", errors="surrogateescape"
    ) as archive:
        links = _links(objects, listed)
        folders: set[str] = set()
        for entry in listed:
            if entry.type == "commit" or (entry.is_link and not stays_inside(entry.path, links)):
                omitted.append(entry.path)
                continue
            _add_folders(archive, entry.path, folders, mtime)
            info = _info(entry.path, mtime)
            if entry.is_link:
                info.type, info.linkname, info.mode = tarfile.SYMTYPE, links[entry.path] or "", 0o777
                archive.addfile(info)
                continue
            info.size, info.mode = entry.size, 0o755 if entry.mode == "100755" else 0o644
            reader = objects.open(entry.oid)
            archive.addfile(info, reader)
            reader.close()
    return tuple(omitted)


def stays_inside(path: str, links: Mapping[str, str | None]) -> bool:
    """Whether the link at ``path``, followed through all other links of the tree, never leaves the tree.

    Args:
        links: target of each link of the tree; None for one that cannot be a path.
    """
    waiting = path.split("/")[::-1]
    place: list[str] = []
    hops = 0
    while waiting:
        part = waiting.pop()
        if part in {"", "."}:
            continue
        if part == "..":
            if not place:
                return False
            place.pop()
            continue
        place.append(part)
        here = "/".join(place)
        if here in links:
            target = links[here]
            hops += 1
            if target is None or target.startswith("/") or hops > _HOPS_LIMIT:
                return False
            place.pop()
            waiting.extend(target.split("/")[::-1])
    return True


def check_path(path: str) -> str:
    """``path`` if a tree of ours may hold it: relative, normal, and no part that some file system takes for ``.git``.

    Raises:
        Refused: TREE_UNSAFE.
    """
    if not path or "\0" in path or any(_is_unsafe(part) for part in path.split("/")):
        raise Refused("TREE_UNSAFE", f"the path {path[:200]!a} cannot be in a tree", "use relative paths without '..' and '.git'")
    return path


def git_object_id(kind: str, data: bytes) -> str:
    """SHA-1 id that git gives to an object."""
    return hashlib.sha1(f"{kind} {len(data)}\0".encode() + data, usedforsecurity=False).hexdigest()


def _parse_tree(data: bytes) -> Iterator[tuple[str, str, str]]:
    names: set[str] = set()
    place = 0
    while place < len(data):
        space, end = data.find(b" ", place), data.find(b"\0", place)
        if not place < space < end or len(data) < end + 21:
            raise Refused("TREE_UNSAFE", "a tree object is malformed", "repair the repository with git fsck")
        name = os.fsdecode(data[space + 1 : end])
        if _is_unsafe(name) or "/" in name or name in names:
            raise Refused("TREE_UNSAFE", f"a tree holds the name {name[:200]!a}", "remove it from the repository")
        names.add(name)
        yield _canonical_mode(data[place:space]), name, data[end + 1 : end + 21].hex()
        place = end + 21


def _canonical_mode(digits: bytes) -> str:
    # As git reads them: old repositories hold 100664 and zero-padded modes.
    try:
        mode = int(digits, 8)
    except ValueError as error:
        raise Refused("TREE_UNSAFE", "a tree object is malformed", "repair the repository with git fsck") from error
    if stat.S_ISREG(mode):
        return "100755" if mode & 0o100 else "100644"
    if stat.S_ISLNK(mode):
        return "120000"
    return FOLDER if stat.S_ISDIR(mode) else "160000"


def _is_unsafe(part: str) -> bool:
    if part in {"", ".", ".."}:
        return True
    if not part.isascii():
        part = unicodedata.normalize("NFKC", "".join(char for char in part if unicodedata.category(char) != "Cf"))
    return part.casefold().rstrip(". ") in {".git", "git~1"}


def _links(objects: CatFile, entries: Iterable[TreeEntry]) -> dict[str, str | None]:
    def target(entry: TreeEntry) -> str | None:
        if not 0 < entry.size <= _LINK_LIMIT:
            return None
        data = objects.read(entry.oid)[1]
        return None if b"\0" in data else os.fsdecode(data)

    return {entry.path: target(entry) for entry in entries if entry.is_link}


def _add_folders(archive: tarfile.TarFile, path: str, known: set[str], mtime: int) -> None:
    folder = posixpath.dirname(path)
    if not folder or folder in known:
        return
    _add_folders(archive, folder, known, mtime)
    known.add(folder)
    info = _info(folder, mtime)
    info.type, info.mode = tarfile.DIRTYPE, 0o755
    archive.addfile(info)


def _info(path: str, mtime: int) -> tarfile.TarInfo:
    info = tarfile.TarInfo(path)
    info.mtime = mtime
    return info

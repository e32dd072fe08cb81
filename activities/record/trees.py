"""Git trees read by us: parsed from the raw objects, every object hashed again, links kept only inside (threats 3.1)."""

from __future__ import annotations

import hashlib
import io
import os
import posixpath
import stat
import subprocess
import tarfile
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, BinaryIO, Literal

from activities.record.git import Git, kill, object_id
from schemas.error import InfrastructureError, InputError, Refused

EPOCH_MTIME = 315_619_200
"""1980-01-02: the first day that a zip archive can hold in every time zone."""
_LINK_LIMIT = 4096
_DEPTH_LIMIT = 128
_HOPS_LIMIT = 40

EntryType = Literal["blob", "commit"]


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


class CatFile:
    """One ``git cat-file --batch`` process: ask for an object, read it, ask for the next."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None and process.stdout is not None
        self._questions: IO[bytes] = process.stdin
        self._answers: IO[bytes] = process.stdout

    def read(self, oid: str) -> tuple[str, bytes]:
        """Type and bytes of an object, hashed again.

        Raises:
            InfrastructureError: OBJECT_MISSING, OBJECT_CORRUPT.
        """
        blob = self.open(oid)
        data = blob.read()
        blob.close()
        return blob.type, data

    def open(self, oid: str) -> ObjectReader:
        """Start reading an object; read it to its end and close it before asking for another one."""
        self._questions.write(object_id(oid).encode() + b"\n")
        self._questions.flush()
        header = self._answers.readline().split()
        if len(header) != 3:
            raise InfrastructureError("OBJECT_MISSING", f"object {oid} is not in the store", "fetch the repository again")
        return ObjectReader(self._answers, oid, header[1].decode(), int(header[2]))


class ObjectReader(io.RawIOBase):
    """The bytes of one object; ``close`` checks that they are the ones that the id names."""

    def __init__(self, stream: IO[bytes], oid: str, kind: str, size: int) -> None:
        self._stream = stream
        self._oid = oid
        self.type = kind
        self.size = size
        self._left = size
        self._hash = hashlib.sha1(f"{kind} {size}\0".encode(), usedforsecurity=False)

    def read(self, count: int | None = -1) -> bytes:
        wanted = self._left if count is None or count < 0 else min(count, self._left)
        data = self._stream.read(wanted)
        if len(data) != wanted:
            raise InfrastructureError("OBJECT_MISSING", f"git ended inside object {self._oid}")
        self._left -= len(data)
        self._hash.update(data)
        return data

    def close(self) -> None:
        """Raises: InfrastructureError OBJECT_CORRUPT."""
        if self.closed:
            return
        super().close()
        if self._left:
            return  # abandoned: the process is about to be ended
        self._stream.read(1)
        if self._hash.hexdigest() != self._oid:
            raise InfrastructureError("OBJECT_CORRUPT", f"the bytes of object {self._oid} are not those", "fetch again")


@contextmanager
def cat_file(git: Git) -> Iterator[CatFile]:
    """Objects of the repository, as long as the block runs."""
    with git.start("cat-file", "--batch", stderr=subprocess.DEVNULL) as process:
        try:
            yield CatFile(process)
        finally:
            kill(process)


def read_tree(git: Git, tree: str) -> list[TreeEntry]:
    """All files, links and gitlinks of a tree, sorted by the bytes of their paths.

    Raises:
        Refused: TREE_UNSAFE for names that no folder can hold (``..``, ``.git``, duplicates) or trees nested too deep.
        InfrastructureError: OBJECT_MISSING, OBJECT_CORRUPT.
    """
    found: list[tuple[str, str, str]] = []
    with cat_file(git) as objects:
        pending = [("", object_id(tree), 0)]
        while pending:
            folder, oid, depth = pending.pop()
            if depth > _DEPTH_LIMIT:
                raise Refused("TREE_UNSAFE", f"the tree is nested deeper than {_DEPTH_LIMIT} folders")
            kind, data = objects.read(oid)
            if kind != "tree":
                raise InputError("OBJECT_ID", f"{oid} is a {kind}, not a tree", "send the id of a tree")
            for mode, name, child in _parse_tree(data):
                if mode == "040000":
                    pending.append((f"{folder}{name}/", child, depth + 1))
                else:
                    found.append((f"{folder}{name}", mode, child))
    sizes = _sizes(git, {oid for _, mode, oid in found if mode != "160000"})
    entries = [TreeEntry(mode, _type(mode), oid, sizes.get(oid, 0), path) for path, mode, oid in found]
    return sorted(entries, key=lambda entry: os.fsencode(entry.path))


def _type(mode: str) -> EntryType:
    return "commit" if mode == "160000" else "blob"


def write_tar(git: Git, entries: Iterable[TreeEntry], out: BinaryIO, mtime: int) -> tuple[str, ...]:
    """Write files and links as a deterministic tar (GNU format, uid 0, one time for all); return what was left out.

    Gitlinks, and links that lead outside the tree, are left out. Blobs are streamed, and hashed while they pass.
    """
    listed = list(entries)
    omitted: list[str] = []
    with cat_file(git) as objects, tarfile.open(
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
    return "040000" if stat.S_ISDIR(mode) else "160000"


def _is_unsafe(part: str) -> bool:
    if part in {"", ".", ".."}:
        return True
    visible = "".join(char for char in part if unicodedata.category(char) != "Cf")
    plain = unicodedata.normalize("NFKC", visible).casefold().rstrip(". ")
    return plain in {".git", "git~1"}


def _sizes(git: Git, oids: set[str]) -> dict[str, int]:
    asked = sorted(oids)
    question = "".join(f"{oid}\n" for oid in asked).encode()
    answer = git.run("cat-file", "--batch-check=%(objectname) %(objectsize)", stdin=question)
    sizes: dict[str, int] = {}
    for line in answer.decode().splitlines():
        oid, _, size = line.partition(" ")
        if not size.isdecimal():
            raise InfrastructureError("OBJECT_MISSING", f"object {oid} is not in the store", "fetch the repository again")
        sizes[oid] = int(size)
    return sizes


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

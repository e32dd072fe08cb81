"""Trees in one piece, from the object store of one process to that of another."""

from __future__ import annotations

import contextlib
import hashlib
import io
import shutil
import subprocess
import tempfile
import threading
import zlib
from collections.abc import Iterable
from typing import IO

from activities.record.git import Git, GitFailed, kill, object_id
from schemas.error import InfrastructureError, Refused

_TIMEOUT_S = 600.0
_HEADER = 12
_LOOSE_UP_TO = 200
"""Objects of a pack that is taken apart, as git does it when it fetches: thousands of packs would slow every read."""
_LARGEST = 2 * 1024**3
_KINDS = {"tree": 2, "blob": 3}
_MESSAGE = 65_536
_FULL = b"No space left on device"
"""How git, which speaks no other language here, says that the disk is full: nothing is wrong with what was sent then."""


def write_pack(git: Git, tree: str, out: IO[bytes], known: Iterable[str] = ()) -> None:
    """All objects that ``tree`` is made of and the trees ``known`` are not; of those, only what is here counts.

    Raises:
        InfrastructureError: OBJECT_MISSING.
    """
    wanted = "".join([f"{object_id(tree)}\n", *(f"^{oid}\n" for oid in _trees(git, known))])
    options = ("--revs", "--stdout", "-q", "--window=0", "--compression=1")
    with git.start("pack-objects", *options, stderr=subprocess.DEVNULL) as process:
        assert process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write(wanted.encode())
            process.stdin.close()
            shutil.copyfileobj(process.stdout, out, 1 << 20)
            status = process.wait(_TIMEOUT_S)
        finally:
            kill(process)
    if status != 0:
        raise InfrastructureError("OBJECT_MISSING", f"tree {tree} is not whole in the store", "fetch the repository again")


def read_pack(git: Git, pack: IO[bytes]) -> None:
    """Take all objects of a pack. git names each by its own hash of it, so nobody can pass one off as another.

    Raises:
        Refused: OBJECTS_MALFORMED for bytes that are no pack.
        InfrastructureError: STORE_FULL.
    """
    head = pack.read(_HEADER)
    pack.seek(0)
    few = int.from_bytes(head[8:]) <= _LOOSE_UP_TO
    command = ("unpack-objects", "-q") if few else ("index-pack", "--stdin")
    limit = f"--max-input-size={_LARGEST}"
    with tempfile.TemporaryFile() as said, git.start(*command, limit, stderr=said.fileno()) as process:
        assert process.stdin is not None and process.stdout is not None
        answer: list[bytes] = []
        reader = threading.Thread(target=lambda: answer.append(process.stdout.read()), daemon=True)  # type: ignore[union-attr]
        reader.start()
        try:
            shutil.copyfileobj(pack, process.stdin, 1 << 20)
            process.stdin.close()
            status = process.wait(_TIMEOUT_S)
        except BrokenPipeError:
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()  # what is buffered still goes nowhere
            status = process.wait(_TIMEOUT_S)
        finally:
            kill(process)
            reader.join()
        said.seek(0)
        full = _FULL in said.read(_MESSAGE)
    if status != 0:
        raise _full() if full else Refused("OBJECTS_MALFORMED", "what was sent is no pack of git objects", "start again")


def write_objects(git: Git, objects: Iterable[tuple[str, bytes]]) -> None:
    """Store objects of our own making, by kind and bytes. Raises: InfrastructureError STORE_FULL."""
    parts = [_packed(kind, data) for kind, data in objects]
    pack = b"PACK" + (2).to_bytes(4) + len(parts).to_bytes(4) + b"".join(parts)
    read_pack(git, io.BytesIO(pack + hashlib.sha1(pack, usedforsecurity=False).digest()))


def _packed(kind: str, data: bytes) -> bytes:
    """Four bits of the size beside the kind, then seven in each byte, the lowest first; a high bit says that more follow."""
    head, rest = [_KINDS[kind] << 4 | len(data) & 15], len(data) >> 4
    while rest:
        head[-1] |= 128
        head.append(rest & 127)
        rest >>= 7
    return bytes(head) + zlib.compress(data, 1)


def _trees(git: Git, oids: Iterable[str]) -> list[str]:
    question = "".join(f"{object_id(oid)}\n" for oid in oids).encode()
    answer = git.run("cat-file", "--batch-check=%(objectname) %(objecttype)", stdin=question) if question else b""
    return [oid for oid, _, kind in (line.partition(" ") for line in answer.decode().splitlines()) if kind == "tree"]


def has_tree(git: Git, tree: str) -> bool:
    """Whether the tree and everything below it are here."""
    try:
        git.run("rev-list", "--objects", "--quiet", object_id(tree))
    except GitFailed:
        return False
    return True


def write_object(git: Git, kind: str, data: bytes) -> str:
    """The id under which one object is now in the store. Raises Refused OBJECTS_MALFORMED, InfrastructureError STORE_FULL."""
    try:
        return git.run("hash-object", "-w", "-t", kind, "--stdin", stdin=data).decode().strip()
    except GitFailed as error:
        if _FULL.decode() in error.detail:
            raise _full() from error
        raise Refused("OBJECTS_MALFORMED", f"what was sent is no {kind}: {error.detail}", "start again") from error


def _full() -> InfrastructureError:
    return InfrastructureError("STORE_FULL", "there is no room for git objects", "free disk space; it is tried again")

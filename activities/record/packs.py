"""Trees in one piece, from the object store of one process to that of another."""

from __future__ import annotations

import shutil
import subprocess
import threading
from typing import IO

from activities.record.git import Git, GitFailed, kill, object_id
from schemas.error import InfrastructureError, Refused

_TIMEOUT_S = 600.0


def write_pack(git: Git, tree: str, out: IO[bytes]) -> None:
    """All objects that ``tree`` is made of. Raises InfrastructureError OBJECT_MISSING."""
    with git.start("pack-objects", "--revs", "--stdout", "-q", "--window=0") as process:
        assert process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write(object_id(tree).encode() + b"\n")
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
    """
    with git.start("index-pack", "--stdin", stderr=subprocess.DEVNULL) as process:
        assert process.stdin is not None and process.stdout is not None
        answer: list[bytes] = []
        reader = threading.Thread(target=lambda: answer.append(process.stdout.read()), daemon=True)  # type: ignore[union-attr]
        reader.start()
        try:
            shutil.copyfileobj(pack, process.stdin, 1 << 20)
            process.stdin.close()
            status = process.wait(_TIMEOUT_S)
        except BrokenPipeError:
            status = process.wait(_TIMEOUT_S)
        finally:
            kill(process)
            reader.join()
    if status != 0:
        raise Refused("OBJECTS_MALFORMED", "what was sent is no pack of git objects", "start again")


def has_tree(git: Git, tree: str) -> bool:
    """Whether the tree and everything below it are here."""
    try:
        git.run("rev-list", "--objects", "--quiet", object_id(tree))
    except GitFailed:
        return False
    return True


def write_object(git: Git, kind: str, data: bytes) -> str:
    """The id under which one object is now in the store. Raises Refused OBJECTS_MALFORMED."""
    try:
        return git.run("hash-object", "-w", "-t", kind, "--stdin", stdin=data).decode().strip()
    except GitFailed as error:
        raise Refused("OBJECTS_MALFORMED", f"what was sent is no {kind}: {error.detail}", "start again") from error

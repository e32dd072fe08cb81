"""Run a command as an ordinary user, started by root: ``ordinary.py '{"uid", "groups", "expose": [path…]}' COMMAND ARG…``

With ``"home"`` in the order the user also has an account, which only the command sees.

A clone or an interpreter below root's home cannot be entered by others. In a mount namespace of its own this program
covers the first closed folder above each exposed path with an open one and binds the path back where it was.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
import tempfile
from pathlib import Path

NEW_NAMESPACE_MOUNT, BIND, RECURSIVE, PRIVATE = 0x00020000, 4096, 16384, 1 << 18
libc = ctypes.CDLL(None, use_errno=True)


def mount(source: str, target: str, kind: bytes | None, flags: int, data: bytes | None = None) -> None:
    if libc.mount(source.encode(), target.encode(), kind, ctypes.c_ulong(flags), data):
        raise OSError(ctypes.get_errno(), f"mount {source} on {target}")


def closed_above(path: Path) -> Path | None:
    for folder in reversed(path.parents):
        if not folder.stat().st_mode & 0o001:
            return folder
    return None


def expose(paths: list[Path]) -> None:
    if libc.unshare(NEW_NAMESPACE_MOUNT):
        raise OSError(ctypes.get_errno(), "unshare")
    mount("none", "/", None, RECURSIVE | PRIVATE)
    needed = [(path, closed_above(path)) for path in paths]
    opened = {path: os.open(path, os.O_PATH) for path, closed in needed if closed}
    for closed in sorted({closed for _, closed in needed if closed}):
        mount("tmpfs", str(closed), b"tmpfs", 0, b"mode=0755")
    for path, descriptor in opened.items():
        path.mkdir(parents=True, exist_ok=True)
        mount(f"/proc/self/fd/{descriptor}", str(path), None, BIND | RECURSIVE)
        os.close(descriptor)


def give_account(uid: int, home: str) -> None:
    """Bind a password database with one more line over the machine's."""
    with tempfile.NamedTemporaryFile("w") as file:
        file.write(Path("/etc/passwd").read_text() + f"ordinary:x:{uid}:{uid}::{home}:/bin/sh\n")
        file.flush()
        os.chmod(file.name, 0o644)
        mount(file.name, "/etc/passwd", None, BIND)


def main() -> None:
    order = json.loads(sys.argv[1])
    os.umask(0o022)
    expose([Path(path) for path in order["expose"]])
    if "home" in order:
        give_account(order["uid"], order["home"])
    os.setgroups(order["groups"])
    os.setresgid(order["uid"], order["uid"], order["uid"])
    os.setresuid(order["uid"], order["uid"], order["uid"])
    os.execv(sys.argv[2], sys.argv[2:])


if __name__ == "__main__":
    main()

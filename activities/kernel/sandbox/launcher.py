"""Runs between the worker and bubblewrap: give up identity and keys first (threats 2.1). Standard library only.

``launcher.py {"parent": pid, "uid": n or null, "folders": {name: path}, "cpus": [n, …]} bwrap ARG…``

As root it shows the needed folders, wherever they lie, below ``STAGE`` in a mount namespace of its own and becomes the
uid; as an ordinary user it stays itself. In both cases it joins a new session keyring.
"""

from __future__ import annotations

import ctypes
import json
import os
import platform
import resource
import signal
import sys

STAGE = "/tmp"
"""Only in the launcher's own mount namespace, where a small tmpfs covers it."""

NEW_NAMESPACE_MOUNT = 0x00020000
READ_ONLY, NO_SUID, NO_DEV, REMOUNT, BIND, RECURSIVE, PRIVATE = 1, 2, 4, 32, 4096, 16384, 1 << 18
KEYCTL = {"x86_64": 250, "aarch64": 219}
JOIN_SESSION_KEYRING = 1
DEATH_SIGNAL = 1
ENOSYS = 38

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")


def _mount(source: str, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    arguments = [value.encode() if value is not None else None for value in (source, target, kind)]
    options = data.encode() if data else None
    _check(_libc.mount(*arguments, ctypes.c_ulong(flags), options), f"mount {target}")


def _stage(folders: dict[str, str]) -> None:
    _check(_libc.unshare(NEW_NAMESPACE_MOUNT), "unshare")
    _mount("none", "/", None, RECURSIVE | PRIVATE)
    opened = {name: os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC) for name, path in folders.items()}
    _mount("tmpfs", STAGE, "tmpfs", NO_SUID | NO_DEV, "mode=0755,size=64k")
    for name, descriptor in opened.items():
        target = f"{STAGE}/{name}"
        os.mkdir(target, 0o755)
        _mount(f"/proc/self/fd/{descriptor}", target, None, BIND)
        _mount("none", target, None, REMOUNT | BIND | READ_ONLY | NO_SUID | NO_DEV)
        os.close(descriptor)


def _become(uid: int) -> None:
    for descriptor in (0, 1, 2):
        os.fchown(descriptor, uid, uid)  # so that /dev/stdout can be opened inside
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)


def _join_new_keyring() -> None:
    result = _libc.syscall(ctypes.c_long(KEYCTL[platform.machine()]), ctypes.c_long(JOIN_SESSION_KEYRING), None)
    if result < 0 and ctypes.get_errno() != ENOSYS:
        _check(result, "keyctl")


def main() -> None:
    order = json.loads(sys.argv[1])
    os.umask(0o022)
    resource.setrlimit(resource.RLIMIT_CORE, (1, 1))  # 1 also silences a core_pattern that pipes to a program
    resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
    with open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")
    os.sched_setaffinity(0, order["cpus"])
    if order["uid"] is not None:
        _stage(order["folders"])
        _become(order["uid"])
    _join_new_keyring()
    os.chdir("/")
    _check(_libc.prctl(DEATH_SIGNAL, signal.SIGKILL), "prctl")  # a change of identity has cleared it
    if os.getppid() != order["parent"]:
        sys.exit(1)
    os.execv(sys.argv[2], sys.argv[2:])


if __name__ == "__main__":
    main()

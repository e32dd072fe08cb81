"""The one list of system calls for both backends: a BPF program for bubblewrap, a JSON profile for Docker.

A profile given to Docker replaces Docker's own, so ours has to be deny-by-default as well: it allows what ``syscalls.py``
lists and, for a few calls, only some arguments. What the two backends refuse is the same by construction:

* keyrings, io_uring, bpf, ptrace and ``process_vm_*``, mounting, namespaces (``setns``, ``unshare``, ``clone`` with
  namespace flags), modules, kexec, perf, userfaultfd, clocks, and sockets of other families than UNIX, IPv4, IPv6 and
  netlink (hence AF_VSOCK, AF_ALG, AF_PACKET): EPERM;
* ``clone3``, whose flags a filter cannot see, and calls newer than this list: ENOSYS, so that libc falls back;
* calls of a foreign ABI (32 bit, x32): EPERM and ENOSYS.
"""

from __future__ import annotations

import errno
import platform
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from schemas.error import InfrastructureError

from . import syscalls

NAMESPACE_FLAGS = 0x7E020000
"""CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET."""

SOCKET_FAMILIES = (1, 2, 10, 16)
"""AF_UNIX, AF_INET, AF_INET6, AF_NETLINK (libc lists interfaces through it)."""

PERSONALITIES = (0x0, 0x8, 0x20000, 0x20008, 0xFFFFFFFF)
"""Linux, 32 bit uname and "tell me": none switches address randomisation off or execution of data on."""

ALLOW = 0x7FFF0000
X32_BIT = 0x40000000
NEWEST = 462
"""Calls above this number did not exist when the list was made."""


def deny(code: int) -> int:
    """The seccomp return value that makes a call fail with ``code``."""
    return 0x00050000 | code


@dataclass(frozen=True)
class Rule:
    """``name`` is allowed iff argument ``index`` (its low 32 bits), masked, is one of ``values``; else EPERM."""

    name: str
    index: int
    values: tuple[int, ...]
    mask: int = 0xFFFFFFFF


RULES = (
    Rule("clone", 0, (0,), mask=NAMESPACE_FLAGS),
    Rule("socket", 0, SOCKET_FAMILIES),
    Rule("socketpair", 0, SOCKET_FAMILIES),
    Rule("personality", 0, PERSONALITIES),
)


@dataclass(frozen=True)
class Architecture:
    machine: str
    audit: int
    docker: str
    allowed: Mapping[str, int]
    ruled: Mapping[str, int]
    clone3: int = 435


ARCHITECTURES = {
    "x86_64": Architecture(
        "x86_64",
        0xC000003E,
        "SCMP_ARCH_X86_64",
        syscalls.X86_64,
        {"clone": 56, "socket": 41, "socketpair": 53, "personality": 135},
    ),
    "aarch64": Architecture(
        "aarch64",
        0xC00000B7,
        "SCMP_ARCH_AARCH64",
        syscalls.AARCH64,
        {"clone": 220, "socket": 198, "socketpair": 199, "personality": 92},
    ),
}


def native() -> Architecture:
    """This machine's row. Raises InfrastructureError(SANDBOX_UNAVAILABLE) on a machine without one."""
    found = ARCHITECTURES.get(platform.machine())
    if found is None:
        raise InfrastructureError(
            "SANDBOX_UNAVAILABLE",
            f"no system call filter for {platform.machine()}",
            "use an x86_64 or aarch64 machine",
        )
    return found


# Classic BPF: (code, jump if true, jump if false, operand).
Instruction = tuple[int, int, int, int]
_LOAD, _AND, _EQUAL, _GREATER, _AT_LEAST, _RETURN = 0x20, 0x54, 0x15, 0x25, 0x35, 0x06
_NUMBER, _ARCH, _ARGS = 0, 4, 16


def program(arch: Architecture) -> list[Instruction]:
    """The filter as instructions. Every block ends in a return or falls through to the next one, so no jump is long."""
    code: list[Instruction] = [
        (_LOAD, 0, 0, _ARCH),
        (_EQUAL, 1, 0, arch.audit),
        (_RETURN, 0, 0, deny(errno.EPERM)),
        (_LOAD, 0, 0, _NUMBER),
    ]
    for rule in RULES:
        code += _block(arch.ruled[rule.name], rule)
    code += [(_EQUAL, 0, 1, arch.clone3), (_RETURN, 0, 0, deny(errno.ENOSYS))]
    for low, high in ranges(arch.allowed.values()):
        code += [(_AT_LEAST, 0, 2, low), (_GREATER, 1, 0, high), (_RETURN, 0, 0, ALLOW)]
    code += [
        (_GREATER, 0, 1, NEWEST),  # includes the x32 ABI, whose numbers carry X32_BIT
        (_RETURN, 0, 0, deny(errno.ENOSYS)),
        (_RETURN, 0, 0, deny(errno.EPERM)),
    ]
    return code


def _block(number: int, rule: Rule) -> list[Instruction]:
    tests: list[Instruction] = [(_LOAD, 0, 0, _ARGS + 8 * rule.index), (_AND, 0, 0, rule.mask)]
    for value in rule.values:
        tests += [(_EQUAL, 0, 1, value), (_RETURN, 0, 0, ALLOW)]
    tests.append((_RETURN, 0, 0, deny(errno.EPERM)))
    return [(_EQUAL, 0, len(tests), number), *tests]


def ranges(numbers: Iterable[int]) -> list[tuple[int, int]]:
    """Numbers as inclusive ranges, ascending."""
    found: list[tuple[int, int]] = []
    for number in sorted(set(numbers)):
        if found and found[-1][1] + 1 == number:
            found[-1] = (found[-1][0], number)
        else:
            found.append((number, number))
    return found


def encode(code: Sequence[Instruction]) -> bytes:
    """``struct sock_filter[]``, as bubblewrap's ``--seccomp`` reads it."""
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in code)


def bpf(arch: Architecture | None = None) -> bytes:
    return encode(program(arch or native()))


def docker_profile(arch: Architecture | None = None) -> dict[str, Any]:
    """The same list as an OCI profile in Docker's notation."""
    arch = arch or native()
    entries: list[dict[str, Any]] = [{"names": sorted(arch.allowed), "action": "SCMP_ACT_ALLOW"}]
    for rule in RULES:
        entries += [
            {"names": [rule.name], "action": "SCMP_ACT_ALLOW", "args": [_argument(rule, value)]} for value in rule.values
        ]
    entries.append({"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": errno.ENOSYS})
    return {
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": errno.EPERM,
        "architectures": [arch.docker],
        "syscalls": entries,
    }


def _argument(rule: Rule, value: int) -> dict[str, int | str]:
    operation: Literal["SCMP_CMP_EQ", "SCMP_CMP_MASKED_EQ"]
    if rule.mask == 0xFFFFFFFF:
        operation = "SCMP_CMP_EQ"
        return {"index": rule.index, "value": value, "op": operation}
    operation = "SCMP_CMP_MASKED_EQ"
    return {"index": rule.index, "value": rule.mask, "valueTwo": value, "op": operation}

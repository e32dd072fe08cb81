"""The filter, interpreted: what it decides for every call, and that both backends get the same list."""

from __future__ import annotations

import errno
import json
import struct
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from activities.kernel.sandbox import seccomp, syscalls
from activities.kernel.sandbox.seccomp import ARCHITECTURES, Architecture

PERM, NOSYS = seccomp.deny(errno.EPERM), seccomp.deny(errno.ENOSYS)
NEVER = [
    "add_key", "bpf", "clock_settime", "delete_module", "finit_module", "init_module", "io_uring_enter",
    "io_uring_register", "io_uring_setup", "ioperm", "iopl", "kcmp", "kexec_file_load", "kexec_load", "keyctl", "mount",
    "move_mount", "name_to_handle_at", "open_by_handle_at", "open_tree", "perf_event_open", "pidfd_getfd", "pivot_root",
    "process_vm_readv", "process_vm_writev", "ptrace", "reboot", "request_key", "setns", "settimeofday", "swapon",
    "umount2", "unshare", "userfaultfd", "fsopen", "fsmount", "fsconfig", "fspick", "mount_setattr", "acct", "chroot",
    "quotactl", "syslog", "sethostname", "clone3",
]  # fmt: skip
"""What Docker's own profile refuses without capabilities, and what the threats name."""

machines = st.sampled_from(sorted(ARCHITECTURES.values(), key=lambda one: one.machine))
arguments = st.lists(st.integers(0, 2**64 - 1), min_size=6, max_size=6)


def decide(arch: Architecture, number: int, args: list[int], audit: int | None = None) -> int:
    """Run the encoded program as the kernel would, on one call's ``struct seccomp_data``."""
    data = struct.pack("=IIQ6Q", number, arch.audit if audit is None else audit, 0, *args)
    code = list(struct.iter_unpack("=HBBI", seccomp.bpf(arch)))
    accumulator = at = 0
    while True:
        operation, true, false, operand = code[at]
        at += 1
        if operation == 0x20:
            (accumulator,) = struct.unpack_from("=I", data, operand)
        elif operation == 0x54:
            accumulator &= operand
        elif operation == 0x06:
            return int(operand)
        else:
            held = {0x15: accumulator == operand, 0x25: accumulator > operand, 0x35: accumulator >= operand}[operation]
            at += true if held else false


@pytest.mark.parametrize("arch", ARCHITECTURES.values(), ids=ARCHITECTURES)
def test_every_listed_call_is_allowed_whatever_its_arguments(arch: Architecture) -> None:
    for number in arch.allowed.values():
        assert decide(arch, number, [2**64 - 1] * 6) == seccomp.ALLOW


@pytest.mark.parametrize("arch", ARCHITECTURES.values(), ids=ARCHITECTURES)
def test_every_other_number_is_refused(arch: Architecture) -> None:
    known = set(arch.allowed.values()) | set(arch.ruled.values()) | {arch.clone3}
    for number in set(range(seccomp.NEWEST + 1)) - known:
        assert decide(arch, number, [0] * 6) == PERM


@given(machines, st.integers(seccomp.NEWEST + 1, 2**32 - 1), arguments)
def test_calls_newer_than_the_list_do_not_exist(arch: Architecture, number: int, args: list[int]) -> None:
    assert decide(arch, number, args) == NOSYS


@given(machines, st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1), arguments)
def test_foreign_abis_are_refused(arch: Architecture, audit: int, number: int, args: list[int]) -> None:
    expected = decide(arch, number, args) if audit == arch.audit else PERM
    assert decide(arch, number, args, audit) == expected


@given(st.sampled_from(sorted(syscalls.X86_64.values())), arguments)
def test_the_x32_variant_of_an_allowed_call_does_not_exist(number: int, args: list[int]) -> None:
    assert decide(ARCHITECTURES["x86_64"], number | seccomp.X32_BIT, args) == NOSYS


@given(machines, arguments)
def test_clone_makes_no_namespace(arch: Architecture, args: list[int]) -> None:
    allowed = args[0] & seccomp.NAMESPACE_FLAGS == 0
    assert decide(arch, arch.ruled["clone"], args) == (seccomp.ALLOW if allowed else PERM)


@given(machines, st.sampled_from(["socket", "socketpair"]), st.integers(0, 60), st.integers(0, 2**32 - 1), arguments)
def test_sockets_of_four_families_only(arch: Architecture, name: str, family: int, high: int, args: list[int]) -> None:
    """The kernel looks at the low half only, so the high one must change nothing."""
    args[0] = high << 32 | family
    allowed = family in seccomp.SOCKET_FAMILIES
    assert decide(arch, arch.ruled[name], args) == (seccomp.ALLOW if allowed else PERM)


@given(machines, arguments)
def test_clone3_sends_libc_back_to_clone(arch: Architecture, args: list[int]) -> None:
    assert decide(arch, arch.clone3, args) == NOSYS


@pytest.mark.parametrize("arch", ARCHITECTURES.values(), ids=ARCHITECTURES)
@pytest.mark.parametrize("name", NEVER)
def test_dangerous_calls_are_on_no_list(arch: Architecture, name: str) -> None:
    assert name not in arch.allowed
    assert name in syscalls.FORBIDDEN
    listed = [entry for entry in seccomp.docker_profile(arch)["syscalls"] if entry["action"] == "SCMP_ACT_ALLOW"]
    assert all(name not in entry["names"] for entry in listed)


def test_the_two_lists_are_disjoint() -> None:
    for arch in ARCHITECTURES.values():
        assert not syscalls.FORBIDDEN & set(arch.allowed)
        assert len(set(arch.allowed.values())) == len(arch.allowed)


@pytest.mark.parametrize("arch", ARCHITECTURES.values(), ids=ARCHITECTURES)
def test_docker_gets_the_same_list(arch: Architecture) -> None:
    profile: dict[str, Any] = json.loads(json.dumps(seccomp.docker_profile(arch)))
    assert profile["defaultAction"] == "SCMP_ACT_ERRNO"
    plain = [entry for entry in profile["syscalls"] if "args" not in entry and entry["action"] == "SCMP_ACT_ALLOW"]
    assert [set(entry["names"]) for entry in plain] == [set(arch.allowed)]
    for rule in seccomp.RULES:
        values = [entry["args"][0] for entry in profile["syscalls"] if entry["names"] == [rule.name]]
        assert len(values) == len(rule.values)


@given(st.sets(st.integers(0, 500)))
def test_ranges_hold_exactly_the_numbers(numbers: set[int]) -> None:
    found = seccomp.ranges(numbers)
    assert {number for low, high in found for number in range(low, high + 1)} == numbers
    assert all(one[1] + 1 < other[0] for one, other in pairwise(found))

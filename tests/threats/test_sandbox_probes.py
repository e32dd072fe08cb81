"""Probes notice what they are there for: a real sandbox with one protection taken away is refused (rows 2.1, 2.4)."""

from __future__ import annotations

import dataclasses
import os
import shutil
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from activities.kernel.sandbox import bubblewrap, seccomp
from activities.kernel.sandbox.backends import choose_backend
from activities.kernel.sandbox.port import RootFilesystem
from schemas.error import Refused

ALLOW_ALL = struct.pack("=HBBI", 0x06, 0, 0, seccomp.ALLOW)
HOST_NETWORK = ("--unshare-user", "--unshare-ipc", "--unshare-pid", "--unshare-uts", "--unshare-cgroup")


@pytest.fixture
def unprobed(root: RootFilesystem, tmp_path: Path) -> RootFilesystem:
    """The same root filesystem beside which no result of a probe is kept."""
    (tmp_path / "root").symlink_to(root.path)
    return dataclasses.replace(root, path=tmp_path / "root")


def refusal(root: RootFilesystem) -> str:
    with pytest.raises(Refused) as caught:
        choose_backend(root, "bubblewrap")
    assert caught.value.code == "SANDBOX_UNAVAILABLE" and caught.value.remedy
    return caught.value.message


def test_the_hardened_sandbox_is_taken(unprobed: RootFilesystem) -> None:
    assert choose_backend(unprobed, "bubblewrap").name == "bubblewrap"


def test_without_the_filter_of_system_calls_it_is_refused(unprobed: RootFilesystem, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seccomp, "bpf", lambda arch=None: ALLOW_ALL)
    said = refusal(unprobed)
    for name in ("keyring", "ptrace", "io_uring"):
        assert f"{name} (" in said, said


@pytest.mark.parametrize("call", ["keyctl", "io_uring_setup"])
def test_one_call_too_many_is_noticed(unprobed: RootFilesystem, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    arch = seccomp.native()
    number = {"keyctl": {"x86_64": 250, "aarch64": 219}, "io_uring_setup": {"x86_64": 425, "aarch64": 425}}[call][arch.machine]
    wider = dataclasses.replace(arch, allowed={**arch.allowed, call: number})
    monkeypatch.setattr(seccomp, "native", lambda: wider)
    assert ("keyring (" if call == "keyctl" else "io_uring (") in refusal(unprobed)


def test_with_the_network_of_the_host_it_is_refused(unprobed: RootFilesystem, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = tuple(word for word in bubblewrap.HARDENING if word not in ("--unshare-all", "--unshare-user"))
    monkeypatch.setattr(bubblewrap, "HARDENING", (*HOST_NETWORK, *kept))
    assert "network (" in refusal(unprobed)


LEAKY = """#!/bin/sh
left=$#
while [ $left -gt 0 ]; do
    word=$1; shift; left=$((left - 1))
    if [ "$word" = -- ] && [ -z "$told" ]; then told=1; set -- "$@" --ro-bind /proc /proc; fi
    set -- "$@" "$word"
done
exec {bwrap} "$@"
"""
"""A program of the same name and version that shows the host's /proc."""


@pytest.fixture
def leaky(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    real = shutil.which("bwrap")
    assert real is not None
    with tempfile.TemporaryDirectory(prefix="gen4-leaky-", dir="/var/tmp") as folder:  # the launcher covers /tmp
        program = Path(folder) / "bwrap"
        program.write_text(LEAKY.format(bwrap=real))
        program.chmod(0o755)
        Path(folder).chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
        yield


@pytest.mark.usefixtures("leaky")
def test_with_the_processes_of_the_host_it_is_refused(unprobed: RootFilesystem) -> None:
    assert "host_proc (" in refusal(unprobed)

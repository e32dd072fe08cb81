"""Where control groups may be made, from files as the kernel writes them; and real groups where this machine allows them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from activities.kernel.sandbox import cgroup
from activities.kernel.sandbox.bubblewrap import BubblewrapBackend
from schemas.testing import Limits

CONTROLLERS = "cpuset cpu io memory pids"


def proc(tmp_path: Path, groups: str, mounts: str) -> Path:
    folder = tmp_path / "proc"
    folder.mkdir()
    (folder / "cgroup").write_text(groups)
    (folder / "mountinfo").write_text(mounts)
    return folder


def unified(folder: Path, handed_down: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cgroup.controllers").write_text(CONTROLLERS)
    (folder / "cgroup.subtree_control").write_text(handed_down)
    (folder / "cgroup.procs").write_text("")
    return folder


def test_version_1_uses_the_own_group_of_each_controller(tmp_path: Path) -> None:
    for name in ("memory/own", "pids", "cpu,cpuacct"):
        (tmp_path / name).mkdir(parents=True)
    mounts = "".join(
        f"30 20 0:26 / {tmp_path}/{name} rw - cgroup cgroup rw,{name}\n" for name in ("memory", "pids", "cpu,cpuacct")
    )
    parents = cgroup.find_parents(proc(tmp_path, "3:memory:/own\n2:pids:/gone\n1:cpu,cpuacct:/\n0::/x\n", mounts))
    assert parents.v1 == {"memory": tmp_path / "memory/own", "pids": tmp_path / "pids", "cpu": tmp_path / "cpu,cpuacct"}
    assert parents.v2 is None


def test_version_2_takes_the_nearest_group_that_hands_controllers_down(tmp_path: Path) -> None:
    mount = unified(tmp_path / "cg", "memory pids cpu")
    unified(mount / "user.slice", "memory pids cpu")
    own = unified(mount / "user.slice/session.scope", "")
    (own / "cgroup.subtree_control").unlink()
    (own / "cgroup.subtree_control").mkdir()  # as for a group with processes: handing down fails
    mounts = f"30 20 0:26 / {mount} rw - cgroup2 cgroup2 rw\n"
    found = cgroup.find_parents(proc(tmp_path, "0::/user.slice/session.scope\n", mounts))
    assert found.v2 == mount / "user.slice"
    assert found.v2_controllers == {"memory", "pids", "cpu"}


def test_no_control_groups_is_no_error(tmp_path: Path) -> None:
    assert cgroup.find_parents(proc(tmp_path, "0::/\n", "1 0 8:1 / / rw - ext4 /dev/sda rw\n")).controllers() == frozenset()


def test_a_version_2_group_gets_every_limit(tmp_path: Path) -> None:
    parents = cgroup.Parents({}, tmp_path, frozenset(cgroup.CONTROLLERS))
    group = cgroup.Group(parents, Limits(memory_mb=64, pids=10, cpus=0.5))
    (folder,) = tmp_path.glob(cgroup.PREFIX + "*")
    written = {path.name: path.read_text() for path in folder.iterdir()}
    assert written == {
        "memory.max": str(64 << 20), "memory.oom.group": "1", "pids.max": "11", "cpu.max": "50000 100000",
    }  # fmt: skip
    assert not group.out_of_memory()
    (folder / "memory.events").write_text("low 0\noom 1\noom_kill 1\n")
    assert group.out_of_memory()


@pytest.mark.parametrize("text", ["", "oom_kill_disable 0\nunder_oom 0\noom_kill 0\n"])
def test_no_kill_is_no_overrun(tmp_path: Path, text: str) -> None:
    (tmp_path / "memory.oom_control").write_text(text)
    assert not cgroup.OutOfMemory(tmp_path).happened()
    assert not cgroup.OutOfMemory(None).happened()


def test_empty_leftovers_are_removed_and_others_stay(tmp_path: Path) -> None:
    parents = cgroup.Parents({"memory": tmp_path})
    (tmp_path / f"{cgroup.PREFIX}old").mkdir()
    (tmp_path / f"{cgroup.PREFIX}busy").mkdir()
    (tmp_path / f"{cgroup.PREFIX}busy/child").mkdir()
    (tmp_path / "foreign").mkdir()
    assert cgroup.reap(parents, 3600) == 0
    assert cgroup.reap(parents, 0) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["foreign", f"{cgroup.PREFIX}busy"]


def test_real_groups_are_made_and_removed() -> None:
    parents = cgroup.find_parents()
    before = {folder: set(os.listdir(folder)) for folder in parents.folders()}
    group = cgroup.Group(parents, Limits())
    assert all(set(os.listdir(folder)) > names for folder, names in before.items())
    group.remove()
    assert not [name for folder in parents.folders() for name in set(os.listdir(folder)) - before[folder]
                if not name.startswith(cgroup.PREFIX)]  # fmt: skip


def test_a_worker_that_begins_leaves_the_group_of_a_sandbox_that_is_starting() -> None:
    backend = BubblewrapBackend()
    group = cgroup.Group(cgroup.find_parents(), Limits())
    backend.reap(older_than_s=0)
    assert all(folder.is_dir() for folder in group._all())
    group.remove()

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from activities.record.home import Home
from schemas.error import InputError


def test_folders_are_private(tmp_path: Path) -> None:
    home = Home.open(tmp_path / "a" / "state")
    for folder in (home.root, home.keys, home.blobs, home.environments, home.roots, home.bundles, home.logs, home.run):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert Home.open(home.root) == home
    assert not home.store.exists() and not home.objects.exists()


def refused(root: Path) -> str:
    with pytest.raises(InputError) as caught:
        Home.open(root)
    assert caught.value.code == "HOME_UNSAFE"
    assert caught.value.remedy
    return caught.value.message


def test_relative_path_is_refused() -> None:
    assert "absolute" in refused(Path("state"))


def test_symlink_is_refused(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / "state").symlink_to(tmp_path / "real")
    assert "symlink" in refused(tmp_path / "state")


def test_file_in_place_of_folder_is_refused(tmp_path: Path) -> None:
    Home.open(tmp_path / "state")
    (tmp_path / "state" / "keys").rmdir()
    (tmp_path / "state" / "keys").symlink_to("/etc")
    assert "symlink" in refused(tmp_path / "state")


@pytest.mark.parametrize("mode", [0o720, 0o702, 0o777])
def test_folder_that_others_may_write_is_refused(tmp_path: Path, mode: int) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state").chmod(mode)
    assert "written by others" in refused(tmp_path / "state")


def test_folder_of_another_uid_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Home.open(tmp_path / "state")
    other = os.geteuid() + 1
    monkeypatch.setattr(os, "geteuid", lambda: other)
    assert "belongs to uid" in refused(tmp_path / "state")


@pytest.mark.parametrize("marker", ["folder", "file"])
def test_folder_inside_a_work_tree_is_refused(tmp_path: Path, marker: str) -> None:
    git = tmp_path / "clone" / ".git"
    git.parent.mkdir()
    if marker == "folder":
        git.mkdir()
    else:
        git.write_text("gitdir: elsewhere\n")
    assert "work tree" in refused(tmp_path / "clone" / "deep" / ".gen4")
    assert not (tmp_path / "clone" / "deep").exists()


def test_folder_that_leads_into_a_work_tree_is_refused(tmp_path: Path) -> None:
    (tmp_path / "clone" / ".git").mkdir(parents=True)
    (tmp_path / "clone" / "inner").mkdir()
    (tmp_path / "short").symlink_to(tmp_path / "clone" / "inner")
    assert "work tree" in refused(tmp_path / "short" / "state")


def test_folder_that_others_may_read_is_closed(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir(mode=0o755)
    Home.open(tmp_path / "state")
    assert stat.S_IMODE((tmp_path / "state").stat().st_mode) == 0o700


def test_a_folder_that_cannot_be_made_is_refused() -> None:
    assert "cannot be made" in refused(Path("/proc/1/state"))

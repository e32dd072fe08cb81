"""Wheels are unpacked as data; one that would leave its folder is refused."""

from __future__ import annotations

import io
import stat
import zipfile
from pathlib import Path

import pytest

from activities.testbed import wheels
from schemas.error import Refused

from .index import wheel


def archive(*members: tuple[str, bytes, int]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as zipped:
        for name, data, mode in members:
            info = zipfile.ZipInfo(name)
            info.external_attr = mode << 16
            zipped.writestr(info, data)
    return out.getvalue()


@pytest.mark.parametrize("name", ["../a.py", "/a.py", "a/../../b.py", "a\\..\\b.py"])
def test_names_outside_the_folder_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(Refused, match="WHEEL_INVALID"):
        wheels.install([("a-1-py3-none-any.whl", archive((name, b"", stat.S_IFREG | 0o644)))], tmp_path / "env")
    assert not list(tmp_path.glob("*.py"))


def test_links_are_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="WHEEL_INVALID"):
        wheels.install([("a-1-py3-none-any.whl", archive(("a", b"/etc/passwd", stat.S_IFLNK | 0o777)))], tmp_path / "env")


def test_a_folder_where_another_wheel_has_a_file_is_refused(tmp_path: Path) -> None:
    pair = [("a-1-py3-none-any.whl", archive(("x/y.py", b"", 0))), ("b-1-py3-none-any.whl", archive(("x", b"", 0)))]
    with pytest.raises(Refused, match="WHEEL_INVALID"):
        wheels.install(pair, tmp_path / "env")


def test_data_folders_go_where_they_belong(tmp_path: Path) -> None:
    data = archive(
        ("a-1.data/purelib/a.py", b"1", 0),
        ("a-1.data/platlib/b/c.py", b"2", 0),
        ("a-1.data/scripts/tool", b"#!python", 0),
        ("a-1.data/headers/a.h", b"", 0),
        ("a-1.data/data/share/x", b"3", 0o100755),
    )
    folder = tmp_path / "env"
    wheels.install([("a-1-py3-none-any.whl", data)], folder)
    found = {str(path.relative_to(folder)): stat.S_IMODE(path.stat().st_mode) for path in folder.rglob("*") if path.is_file()}
    assert found == {"a.py": 0o644, "b/c.py": 0o644, "bin/tool": 0o755, "share/x": 0o755}


def test_a_wheel_is_described_by_its_own_metadata() -> None:
    name, data = wheel("gen4thing", "1.5", {"gen4thing.py": ""}, ("six",))
    described = wheels.describe(name, data)
    assert (described.name, described.version, described.license) == ("gen4thing", "1.5", "")


@pytest.mark.parametrize("name", ["not-a-wheel.zip", "a-1-py3-none-any.whl"])
def test_what_is_no_wheel_is_refused(name: str) -> None:
    with pytest.raises(Refused, match="WHEEL_INVALID"):
        wheels.describe(name, b"nothing")

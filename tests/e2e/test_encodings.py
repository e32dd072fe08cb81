"""Sources that are not UTF-8, and with lines that end as on Windows, from a change to a bundle that others verify."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.e2e.harness import Fabric, Finished, git

LATIN_1 = """# -*- coding: iso-8859-1 -*-
# Fran\u00e7ois \u00e9crit: le caf\u00e9 co\u00fbte 3 francs
def label(name):
    return "caf\u00e9: " + name + "\u00a7"  # \u00e0 changer


def price():
    return len("\u00e9t\u00e9")
"""
WINDOWS = 'def join(lines):\r\n    """Caf\u00e9."""\r\n    return "-".join(lines)\r\n'
TESTS = """from shop.dos import join
from shop.labels import label, price


def test_label():
    assert label("noir") == "caf\\u00e9: noir"


def test_price():
    assert price() == 3


def test_join():
    assert join(["a", "b"]) == "a+b"
"""
MENDED = LATIN_1.replace(' + "\u00a7"  # \u00e0 changer', "  # chang\u00e9").encode("iso-8859-1")


@pytest.fixture(scope="module")
def shop(fabric: Fabric) -> Path:
    """main with two bugs, mend with both mended."""
    path = fabric.repository("paroles", {"shop/__init__.py": "", "tests/test_shop.py": TESTS, "requirements.txt": "pytest\n"})
    (path / "shop" / "labels.py").write_bytes(LATIN_1.encode("iso-8859-1"))
    (path / "shop" / "dos.py").write_bytes(WINDOWS.encode())
    git(path, "add", "-A")
    git(path, "commit", "-q", "-m", "sources")
    git(path, "checkout", "-q", "-b", "mend")
    (path / "shop" / "labels.py").write_bytes(MENDED)
    (path / "shop" / "dos.py").write_bytes(WINDOWS.replace('"-"', '"+"').encode())
    git(path, "commit", "-q", "-am", "mend")
    return path


def compiled(fabric: Fabric, shop: Path, out: Path, *change: str) -> Finished:
    return fabric.gen4("compile", "-r", str(shop), "--base", "main", *change, "--out", str(out), "--json")


def test_a_latin_1_module_and_one_of_windows_are_mended_however_the_change_comes(
    fabric: Fabric, shop: Path, tmp_path: Path
) -> None:
    argv = ["git", "-C", str(shop), "diff", "main", "mend"]
    diff = subprocess.run(argv, stdout=subprocess.PIPE, check=True).stdout
    (tmp_path / "mend.diff").write_bytes(diff)
    ways = {"head": ("--head", "mend"), "file": ("--patch", str(tmp_path / "mend.diff"))}
    for way, change in ways.items():
        out = tmp_path / way
        done = compiled(fabric, shop, out, *change)
        assert done.code == 0, done.err
        assert done.json["fix"] == "complete"
        assert fabric.gen4("verify", str(out), "-r", str(shop), "--require-all").code == 0
    patch = (tmp_path / "head" / "diff.patch").read_bytes()
    assert b"  # chang\xe9\n" in patch and b'return "+".join(lines)\r\n' in patch
    assert {(tmp_path / way / "diff.patch").read_bytes() for way in ways} == {patch}
    assert "probe" in (tmp_path / "head" / "stamp.json").read_text()


def test_what_python_reads_otherwise_than_people_is_refused_and_shown(fabric: Fabric, shop: Path, tmp_path: Path) -> None:
    git(shop, "checkout", "-q", "-b", "hidden", "mend")
    hidden = MENDED.replace(b"iso-8859-1", b"utf-7").replace(b"return len", b"return 3 or len")
    (shop / "shop" / "labels.py").write_bytes(hidden)
    (shop / "shop" / "dos.py").chmod(0o755)
    git(shop, "commit", "-q", "-am", "hide")
    out = tmp_path / "refused"
    files = ("--summary", str(tmp_path / "summary.md"), "--sarif", str(tmp_path / "s.json"), "--junit", str(tmp_path / "j.xml"))
    done = compiled(fabric, shop, out, "--head", "hidden", *files)
    assert done.code == 1, done.err
    assert {"patch.encoding", "patch.modes"} <= set(done.json["rejection"]["codes"]), done.json
    report = (out / "rejection.md").read_text()
    assert "utf" in report and "shop/labels" in report
    assert "encoding" in (tmp_path / "summary.md").read_text()

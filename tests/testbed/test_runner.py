"""The runner by itself, under this Python: what it refuses, what it imports, what does not need a sandbox to be seen."""

from __future__ import annotations

import ast
import io
import os
import stat
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest

from activities.testbed.harness import RUNNER_FOLDER, harness_version
from activities.testbed.runner.main import MODES
from activities.testbed.runner.unpack import unpack

from .conftest import speak


def tar(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for member, data in members:
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return out.getvalue()


def entry(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", mode: int = 0o644) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname, member.mode = kind, link, mode
    return member


def job(work: Path, **more: Any) -> dict[str, Any]:
    common = {"work": str(work), "environment": "/nonexistent", "python_path": ["."], "env": {}, "pytest_args": []}
    return {**common, "test_ms": 5_000, "wall_ms": 30_000, **more}


def test_modes_are_files_and_no_file_imports_anything_but_the_standard_library() -> None:
    files = sorted(RUNNER_FOLDER.glob("*.py"))
    assert {path.stem for path in files} >= MODES
    for path in files:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module or ""]
            for name in names:
                top = name.partition(".")[0]
                typing_only = path.name == "main.py" and top == "activities"
                assert top in sys.stdlib_module_names or top in ("pytest", "_pytest", "pluggy") or typing_only, (
                    f"{path.name}: {name}"
                )


def test_another_runner_is_another_harness() -> None:
    assert len(harness_version()) == 64


def test_files_folders_links_and_modes_are_written(tmp_path: Path) -> None:
    data = tar(
        (entry("a/run.sh", mode=0o755), b"#!"),
        (entry("link", tarfile.SYMTYPE, "a/run.sh"), b""),
        (entry("empty", tarfile.DIRTYPE), b""),
        (entry("ü b"), b"x"),
    )
    stream = io.BytesIO(data + b"rest")
    unpack(stream, len(data), str(tmp_path))
    assert stream.read() == b"rest"
    assert stat.S_IMODE((tmp_path / "a/run.sh").stat().st_mode) == 0o755
    assert (
        os.readlink(tmp_path / "link") == "a/run.sh" and (tmp_path / "empty").is_dir() and (tmp_path / "ü b").read_bytes() == b"x"
    )


@pytest.mark.parametrize(
    "member",
    [
        entry("../x"),
        entry("/x"),
        entry("a/../../x"),
        entry("f", tarfile.FIFOTYPE),
        entry("h", tarfile.LNKTYPE, "a"),
        entry("d", tarfile.CHRTYPE),
    ],
)
def test_names_outside_and_other_kinds_are_refused(tmp_path: Path, member: tarfile.TarInfo) -> None:
    data = tar((member, b""))
    with pytest.raises(ValueError, match=r"outside the folder|not a file"):
        unpack(io.BytesIO(data), len(data), str(tmp_path / "work"))


def test_nothing_is_written_through_a_link(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    data = tar((entry("a", tarfile.SYMTYPE, str(outside)), b""), (entry("a/b"), b"x"))
    with pytest.raises(OSError):
        unpack(io.BytesIO(data), len(data), str(tmp_path / "work"))
    assert not list(outside.iterdir())


def test_an_unknown_mode_says_nothing() -> None:
    spoken = speak("shell", {"work": "/nonexistent"})
    assert spoken.lines == [] and spoken.exit_code != 0 and "unknown mode" in spoken.stderr


def test_the_base_describes_itself(tmp_path: Path) -> None:
    spoken = speak("facts", {"work": str(tmp_path)})
    assert spoken.end["markers"]["python_version"] == f"{sys.version_info.major}.{sys.version_info.minor}"


def test_an_environment_without_pytest_is_named(tmp_path: Path) -> None:
    spoken = speak("tests", job(tmp_path))
    assert spoken.end["codes"] == ["PYTEST_MISSING"]


def test_a_suite_in_ruins_is_given_up(tmp_path: Path) -> None:
    (tmp_path / "test_a.py").write_text(
        "import os, pytest\n@pytest.mark.parametrize('x', range(40))\ndef test_a(x): os._exit(1)\n"
    )
    bare = {"env": {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}, "pytest_args": ["-p", "xdist.plugin"]}
    spoken = speak("tests", job(tmp_path, environment=str(Path(pytest.__file__).parents[1]), wall_ms=100_000, **bare))
    assert spoken.end["codes"] == ["CRASH_LIMIT"] and 20 < len(spoken.outcomes) < 40

"""Bytecode of environments: made once by the base's Python, the same each time, never taken for that of another source."""

from __future__ import annotations

import io
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from activities.kernel.sandbox.port import RootFilesystem, SandboxBackend
from activities.testbed import wheels
from activities.testbed.building import Builder
from activities.testbed.bytecode import Bytecode
from activities.testbed.harness import RUNNER_FOLDER, harness_version, runner_files, sandbox_spec
from schemas.canonical import jcs
from schemas.error import Refused
from schemas.testing import Environment

from .conftest import LIMITS
from .index import wheel

FILLING = "# " + "x" * 5000 + "\n"
BROKEN = "def broken(:\n"
DEADLY = FILLING + "import os, signal\nos.kill(os.getppid(), signal.SIGKILL)\nos._exit(3)\n"


@pytest.fixture
def bytecode(tmp_path: Path, root: RootFilesystem, backend: SandboxBackend) -> Bytecode:
    """One that has made nothing yet."""
    return Bytecode(tmp_path / "kept", Builder(root, backend))


def names(archive: bytes | None) -> list[str]:
    with zipfile.ZipFile(io.BytesIO(archive or b"")) as found:
        return found.namelist()


def archive(**members: bytes) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as out:
        for name, data in members.items():
            out.writestr(name.replace("__", "/") + ".py", data)
    return made.getvalue()


def test_runs_import_the_bytecode_and_say_where_its_source_is(bed: Any, plain: Environment) -> None:
    source = """
import _pytest.python, os
def test_it_is_there(): assert os.path.isfile(_pytest.python.__cached__)
def test_it_is_never_compared_with_its_source():
    with open(_pytest.python.__cached__, "rb") as file: assert file.read(8)[4:] == b"\\1\\0\\0\\0"
def test_it_names_its_source():
    assert _pytest.python.pytest_pycollect_makemodule.__code__.co_filename == _pytest.python.__file__
    assert _pytest.python.__file__.startswith("/env/")
"""
    run, found = bed.run(bed.tree({"test_a.py": source}), plain)
    assert (run.status, set(found.values())) == ("passed", {"passed"})


def test_the_same_wheel_gives_the_same_bytes(bed: Any, plain: Environment, bytecode: Bytecode, tmp_path: Path) -> None:
    lock = bed.environments.lock(plain.environment_digest)
    one = next(one for one in lock.wheels if one.name == "pluggy")
    again = bytecode.of(one.filename, bed.blobs.get(one.sha256), lambda: None)
    with zipfile.ZipFile(io.BytesIO(again or b"")) as found:
        for name in found.namelist():
            module = bed.environments.path(plain.environment_digest) / name
            assert (module.parent / "__pycache__" / f"{module.stem}.cpython-311.pyc").read_bytes() == found.read(name)
    assert bytecode.of(one.filename, bed.blobs.get(one.sha256), lambda: pytest.fail("made twice")) == again


def test_what_does_not_compile_is_left_out_and_nothing_is_run(bytecode: Bytecode) -> None:
    nul = "a = '\0'\n"
    files = {"gen4a/__init__.py": DEADLY, "gen4a/template.py": BROKEN, "gen4a/nul.py": nul, "gen4a/tests/a.py": "a = 1\n"}
    made = bytecode.of(*wheel("gen4a", "1", files), lambda: None)
    assert names(made) == ["gen4a/__init__.py"]


def test_a_sandbox_for_a_few_lines_is_not_worth_it(bytecode: Bytecode) -> None:
    assert bytecode.of(*wheel("gen4small", "1", {"gen4small.py": "a = 1\n"}), lambda: None) is None


def test_a_later_wheel_takes_the_bytecode_of_what_it_replaces_away(tmp_path: Path) -> None:
    found = [wheel("gen4a", "1", {"shared.py": "a = 1\n"}), wheel("gen4b", "1", {"shared.py": BROKEN})]
    made = {found[0][0]: archive(shared=b"bytecode of gen4a"), found[1][0]: archive()}
    wheels.install(found, tmp_path / "env", bytecode=lambda filename, data: made[filename], python_version="3.11.2")
    assert (tmp_path / "env/shared.py").read_text() == BROKEN and not list(tmp_path.rglob("*.pyc"))


@pytest.mark.parametrize("name", ["other", "..__outside", "{tmp_path}__outside", "there__a"])
def test_bytecode_of_no_source_is_refused(tmp_path: Path, name: str) -> None:
    found = [wheel("gen4a", "1", {"shared.py": "a = 1\n", "there/a.py/b.py": ""})]
    (tmp_path / "outside.py").write_text("")
    with pytest.raises(Refused, match="WHEEL_INVALID"):
        name = name.format(tmp_path=str(tmp_path).replace("/", "__"))
        wheels.install(found, tmp_path / "env", bytecode=lambda *_: archive(**{name: b""}), python_version="3.11.2")


def test_sandboxes_start_with_a_compiled_runner(bed: Any, plain: Environment, root: RootFilesystem) -> None:
    started = sandbox_spec(root, mode="tests", limits=LIMITS).runner
    assert started.name == f"runner-{harness_version()}"
    assert {path.name: path.read_bytes() for path in started.iterdir() if path.is_file()} == {
        path.name: path.read_bytes() for path in runner_files()
    }
    assert {path.name.partition(".")[0] for path in (started / "__pycache__").iterdir()} == {
        path.stem for path in runner_files() if path.suffix == ".py"
    }


def test_a_runner_that_was_never_compiled_is_started_as_it_is(bed: Any, root: RootFilesystem, tmp_path: Path) -> None:
    elsewhere = replace(root, path=tmp_path / "root")
    assert sandbox_spec(elsewhere, mode="tests", limits=LIMITS).runner == RUNNER_FOLDER


def test_files_of_another_version_are_not_compiled_as_this_one(
    bytecode: Bytecode, root: RootFilesystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("activities.testbed.bytecode.harness_version", lambda: "0" * 64)
    elsewhere = replace(root, path=tmp_path / "root")
    bytecode.compile_runner(elsewhere, lambda: None)
    assert not list(tmp_path.rglob("runner-*"))


def test_an_environment_whose_lock_knows_no_bytecode_is_made_as_it_was(bed: Any, plain: Environment) -> None:
    lock = bed.environments.lock(plain.environment_digest).model_copy(update={"profile": wheels.PROFILE})
    digest = f"sha256:{bed.blobs.put(jcs(lock), 'application/json').sha256}"
    folder = bed.environments.path(digest)
    assert (folder / "_pytest/python.py").is_file() and not list(folder.rglob("*.pyc"))

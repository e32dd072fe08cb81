"""A cloned repository that somebody stands in when he runs ``gen4``: nothing of it is imported, read or believed (row 1.1)."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from activities.evidence.signing import load_signer
from activities.evidence.trusting import TRUST_FILE, ensure_trust
from activities.record.home import Home
from schemas.error import InfrastructureError, InputError
from tests.evidence.workshop import make_workshop
from workers.settings import read_settings
from workers.toolchain import cache_directory, locate

SCRIPT = Path(sys.executable).with_name("gen4")
SHADOWED = ("workers", "schemas", "activities", "policies", "workflows")
MODULES = ("sitecustomize", "usercustomize", "typer", "rich", "click", "pydantic", "pydantic_settings", "temporalio", "docker")
HIJACK = "open({mark!r}, 'a').write(__name__ + '\\n')\nraise SystemExit('hijacked')\n"


def trust_somebody(keys: Path) -> None:
    """A trust file that names a signer who signed nothing here."""
    now_s = int(time.time())
    ensure_trust(keys, load_signer(keys).trusted(now_s), (), now_s)


@dataclass(frozen=True)
class Hostile:
    """``clone``: the working directory; ``mark``: written by any code of it that runs."""

    clone: Path
    home: Path
    mark: Path

    def run(self, *argv: str, **variables: str) -> subprocess.CompletedProcess[str]:
        environment = {key: value for key, value in os.environ.items() if not key.startswith(("GEN4_", "PYTHON"))}
        environment |= {"GEN4_HOME": str(self.home), **variables}
        return subprocess.run(argv, cwd=self.clone, env=environment, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture
def hostile(tmp_path: Path) -> Iterator[Hostile]:
    clone, mark = tmp_path / "clone", tmp_path / "ran"
    for name in SHADOWED:
        (clone / name).mkdir(parents=True)
        (clone / name / "__init__.py").write_text(HIJACK.format(mark=str(mark)))
    for name in MODULES:
        (clone / f"{name}.py").write_text(HIJACK.format(mark=str(mark)))
    (clone / ".env").write_text(f"GEN4_HOME={clone}/.gen4\nGEN4_SANDBOX=nonsense\n")
    for folder in (clone / ".gen4" / "keys", clone / "keys"):
        folder.mkdir(parents=True)
        (folder / "approvers.json").write_text("[]")
        (folder / TRUST_FILE).write_text("{}")
    (clone / TRUST_FILE).write_text("{}")
    with tempfile.TemporaryDirectory(prefix="gen4-threats-") as home:
        yield Hostile(clone, Path(home) / "home", mark)


@pytest.mark.parametrize("start", [(str(SCRIPT),), (sys.executable, "-m", "cli.main")], ids=["script", "module"])
def test_no_module_of_the_working_directory_is_imported(hostile: Hostile, start: tuple[str, ...]) -> None:
    done = hostile.run(*start, "status", "--json")
    assert not hostile.mark.exists(), hostile.mark.read_text()
    assert (done.returncode, json.loads(done.stdout)) == (3, {"running": False}), done.stderr


def test_entry_points_of_workers_drop_the_working_directory(hostile: Hostile) -> None:
    shutil.rmtree(hostile.clone / "workers")  # a folder of the very name that is asked for is what -m means
    done = hostile.run(sys.executable, "-m", "workers.setup", "--help")
    assert done.returncode == 0 and not hostile.mark.exists(), done.stderr


def test_a_state_folder_in_the_working_directory_changes_nothing(hostile: Hostile) -> None:
    before = {path: path.read_bytes() for path in hostile.clone.rglob("*") if path.is_file()}
    for command, code in (("status", 3), ("doctor", None), ("down", 0)):
        done = hostile.run(str(SCRIPT), command)
        assert code in (None, done.returncode), done.stderr
    assert (hostile.home / "keys").is_dir()
    assert {path: path.read_bytes() for path in hostile.clone.rglob("*") if path.is_file()} == before


def test_settings_come_from_variables_only(monkeypatch: pytest.MonkeyPatch, hostile: Hostile) -> None:
    monkeypatch.chdir(hostile.clone)
    monkeypatch.setenv("GEN4_HOME", str(hostile.home))
    settings = read_settings()
    assert (settings.home, settings.sandbox) == (hostile.home, "auto")


@pytest.mark.parametrize("variable", ["GEN4_HOME", "GEN4_CACHE"])
def test_a_relative_state_folder_is_refused(monkeypatch: pytest.MonkeyPatch, hostile: Hostile, variable: str) -> None:
    monkeypatch.chdir(hostile.clone)
    monkeypatch.setenv(variable, ".gen4")
    with pytest.raises(InputError, match=variable):
        read_settings()
    if variable == "GEN4_CACHE":
        with pytest.raises(InputError, match="CACHE_UNSAFE"):
            cache_directory()


def test_a_relative_xdg_folder_is_not_one(monkeypatch: pytest.MonkeyPatch, hostile: Hostile) -> None:
    monkeypatch.chdir(hostile.clone)
    monkeypatch.delenv("GEN4_HOME", raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", ".")
    assert read_settings().home == Path.home() / ".local" / "state" / "gen4"


def test_a_state_folder_that_git_tracks_is_refused(hostile: Hostile) -> None:
    (hostile.clone / ".git").mkdir()
    done = hostile.run(str(SCRIPT), "status", GEN4_HOME=str(hostile.clone / ".gen4"))
    assert done.returncode == 2 and "HOME_UNSAFE" in done.stderr


def test_a_state_folder_that_others_read_is_closed(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="gen4-threats-") as name:
        (Path(name) / "home" / "keys").mkdir(parents=True, mode=0o755)
        (Path(name) / "home").chmod(0o755)
        home = Home.open(Path(name) / "home")
        assert {stat.S_IMODE(folder.stat().st_mode) for folder in (home.root, home.keys, home.run)} == {0o700}


def test_verify_believes_neither_the_bundle_nor_the_working_directory(hostile: Hostile) -> None:
    workshop = make_workshop()
    trust = workshop.trust.model_dump_json(exclude_none=True)
    for name, data in workshop.files.items():
        (hostile.clone / name).write_bytes(data)
    for place in (hostile.clone, hostile.clone / ".gen4" / "keys", hostile.clone / "keys"):
        (place / TRUST_FILE).write_text(trust)
    done = hostile.run(str(SCRIPT), "verify", ".")
    assert done.returncode == 2 and "TRUST_INVALID" in done.stderr  # there is no trust root in the home
    keys = Home.open(hostile.home).keys
    trust_somebody(keys)
    done = hostile.run(str(SCRIPT), "verify", ".")
    assert done.returncode == 1, done.stdout  # that of the home does not know the signer, and the file beside is one too many


def test_verify_takes_no_trust_from_a_home_that_others_may_write(hostile: Hostile) -> None:
    keys = Home.open(hostile.home).keys
    trust_somebody(keys)
    hostile.home.chmod(0o777)
    done = hostile.run(str(SCRIPT), "verify", ".")
    assert done.returncode == 2 and "HOME_UNSAFE" in done.stderr


def test_programs_are_not_found_in_the_working_directory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, hostile: Hostile
) -> None:
    program = hostile.clone / "opa"
    program.write_text(f"#!/bin/sh\necho ran >> {hostile.mark}\necho Version: 9.9.9\n")
    program.chmod(0o755)
    monkeypatch.chdir(hostile.clone)
    (tmp_path / "cache").mkdir(mode=0o700)
    for path in (".", "", "clone:.", ":/nonexistent"):
        with pytest.raises(InfrastructureError, match="TOOL_MISSING"):
            locate("opa", environ={"PATH": path, "GEN4_CACHE": str(tmp_path / "cache")}, make=False)
    assert not hostile.mark.exists()


@pytest.mark.parametrize("kind", ["fifo", "endless", "folder"])
def test_a_stamp_that_is_no_file_stops_nothing(hostile: Hostile, kind: str) -> None:
    """With a repository the stamp is read for its base commit before anything is checked."""
    bundle = hostile.clone / "bundle"
    bundle.mkdir()
    stamp = bundle / "stamp.json"
    if kind == "fifo":
        os.mkfifo(stamp)
    elif kind == "endless":
        stamp.symlink_to("/dev/zero")
    else:
        stamp.mkdir()
    keys = Home.open(hostile.home).keys
    trust_somebody(keys)
    done = hostile.run(str(SCRIPT), "verify", str(bundle), "--repository", str(hostile.clone))
    assert done.returncode == 1 and "MEMBER" in done.stdout, done.stderr

"""Where a program is found, in which order, and what is refused. The programs here are small but really run."""

from __future__ import annotations

import json
import os
import shutil
import socket
import threading
from collections.abc import Mapping
from pathlib import Path

import pytest

from schemas.error import InfrastructureError, InputError
from workers import toolchain
from workers.toolchain import RECIPES, Recipe, Tool, cache_directory, locate, sha256_of

RECIPE = Recipe(
    name="mill", setting="GEN4_MILL", version_argv=("--version",), version=r"mill (\S+)", compared=r"^(\d+\.\d+\.\d+)",
    minimum=(1, 2, 0), package="example.test/owner/mill", version_variable="main.version",
    capability_argv=("help",), capabilities=("--grind",),
)  # fmt: skip
PROGRAM = """package main

import (
	"fmt"
	"os"
)

var version = "0.0.0"

func main() {
	if os.Args[1] == "help" {
		fmt.Println("--grind")
		return
	}
	fmt.Println("mill " + version)
}
"""


class Machine:
    """A machine with a PATH, a cache and the module of one program."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.bin, self.cache, self.modules = (folder, folder / "bin", folder / "cache", folder / "modules")
        self.bin.mkdir()
        go = shutil.which("go")
        assert go is not None
        self.environ = {
            "PATH": f"{self.bin}:/usr/bin:/bin", "HOME": os.environ["HOME"], "GEN4_CACHE": str(self.cache),
            "GOFLAGS": "-mod=mod", "GOPROXY": "off", "GOTOOLCHAIN": "local",
        }  # fmt: skip
        (self.bin / "go").symlink_to(Path(go).resolve())
        self.said: list[str] = []

    def module(self, program: str = PROGRAM, version: str = "1.3.4") -> None:
        source = self.modules / "mill" / "source"
        source.mkdir(parents=True, exist_ok=True)
        (source / "main.go").write_text(program)
        (source / "go.mod").write_text("module example.test/owner/mill\n\ngo 1.21\n")
        (self.modules / "mill" / "go.mod").write_text(
            f"module example.test/toolchain\n\ngo 1.21\n\nrequire example.test/owner/mill v{version}\n\n"
            "replace example.test/owner/mill => ./source\n"
        )

    def program(self, version: str, folder: Path | None = None, help_text: str = "--grind") -> Path:
        path = (folder or self.bin) / "mill"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f'#!/bin/sh\n[ "$1" = help ] && echo "{help_text}" && exit\necho "mill {version}"\n')
        path.chmod(0o755)
        return path

    def find(self, make: bool = True, recipe: Recipe = RECIPE, **environ: str) -> Tool:
        settings: Mapping[str, str] = {**self.environ, **environ}
        return locate("mill", environ=settings, make=make, say=self.said.append, recipes={"mill": recipe}, modules=self.modules)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_an_explicit_setting_wins_over_path(machine: Machine) -> None:
    machine.program("1.2.5")
    named = machine.program("1.9.0", machine.folder / "elsewhere")
    tool = machine.find(GEN4_MILL=str(named))
    assert (tool.path, tool.version, tool.source, tool.sha256) == (named, "1.9.0", "setting", sha256_of(named))


@pytest.mark.parametrize(
    ("version", "help_text", "says"),
    [("1.1.9", "--grind", "at least 1.2.0"), ("unreadable", "--grind", "at least 1.2.0"), ("1.2.0", "nothing", "has no --grind")],
)
def test_an_unfit_setting_is_refused_and_nothing_else_is_tried(machine: Machine, version: str, help_text: str, says: str) -> None:
    machine.program("1.2.5")
    named = machine.program(version, machine.folder / "elsewhere", help_text)
    with pytest.raises(InputError, match=says) as refused:
        machine.find(GEN4_MILL=str(named))
    assert refused.value.code == "TOOL_REFUSED" and "GEN4_MILL" in refused.value.remedy


@pytest.mark.parametrize("value", ["mill", "./mill", "/nowhere/mill", "/"])
def test_a_setting_that_names_no_program_is_refused(machine: Machine, value: str) -> None:
    machine.program("1.2.5")
    with pytest.raises(InputError, match="TOOL_REFUSED"):
        machine.find(GEN4_MILL=value)


def test_path_comes_before_the_cache(machine: Machine) -> None:
    machine.module()
    assert machine.find().source == "build"
    found = machine.program("1.2.5")
    assert (machine.find().path, machine.find().source) == (found, "path")


def test_an_old_program_on_path_is_passed_over(machine: Machine) -> None:
    machine.program("1.0.0")
    machine.module()
    tool = machine.find()
    assert (tool.source, tool.version, tool.path) == ("build", "1.3.4", machine.cache / "toolchain" / "mill" / "mill")


def test_a_build_is_reused_while_its_digest_agrees(machine: Machine) -> None:
    machine.module()
    built = machine.find()
    assert machine.find() == built and len(machine.said) == 1
    assert built.path.stat().st_mode & 0o077 == 0


def test_a_changed_program_in_the_cache_is_never_run_but_built_again(machine: Machine) -> None:
    machine.module()
    built = machine.find()
    ran = machine.folder / "ran"
    built.path.write_text(f"#!/bin/sh\ntouch {ran}\necho mill 1.3.4\n")
    with pytest.raises(InfrastructureError, match="not what was recorded"):
        machine.find(make=False)
    assert machine.find() == built
    assert not ran.exists() and len(machine.said) == 2


def test_a_cached_program_older_than_the_minimum_is_built_again(machine: Machine) -> None:
    machine.module()
    machine.find()
    machine.module(version="1.6.0")
    newer = Recipe(**{**RECIPE.__dict__, "minimum": (1, 6, 0)})
    assert machine.find(recipe=newer).version == "1.6.0"


def test_a_build_that_does_not_meet_the_recipe_is_not_kept(machine: Machine) -> None:
    machine.module(PROGRAM.replace("--grind", "--other"))
    with pytest.raises(InfrastructureError, match="has no --grind"):
        machine.find()
    assert not (machine.cache / "toolchain" / "mill" / "mill").exists()


def test_a_failed_build_says_why_and_what_to_do(machine: Machine) -> None:
    machine.module("package main\n\nfunc main() { undefined_thing() }\n")
    with pytest.raises(InfrastructureError, match="undefined_thing") as missing:
        machine.find()
    assert missing.value.code == "TOOL_MISSING"
    assert "make setup" in missing.value.remedy and "GEN4_MILL" in missing.value.remedy and "1.2.0" in missing.value.remedy


def test_without_go_the_reason_of_every_place_is_given(machine: Machine) -> None:
    machine.module()
    (machine.bin / "go").unlink()
    with pytest.raises(InfrastructureError, match=r"GEN4_MILL is not set; path: none; cache: none; build: go is not on PATH"):
        machine.find(PATH=str(machine.bin))


def test_looking_makes_nothing(machine: Machine) -> None:
    machine.module()
    with pytest.raises(InfrastructureError, match="TOOL_MISSING"):
        machine.find(make=False)
    assert machine.said == []


def test_two_that_need_it_at_once_build_it_once(machine: Machine) -> None:
    machine.module()
    found: list[Tool] = []
    threads = [threading.Thread(target=lambda: found.append(machine.find())) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 3 and len(set(found)) == 1 and len(machine.said) == 1


def test_what_was_used_is_on_record(machine: Machine) -> None:
    program = machine.program("1.2.5")
    tool = machine.find()
    recorded = json.loads((machine.cache / "toolchain.json").read_text())
    assert recorded == {"mill": {"version": "1.2.5", "sha256": tool.sha256, "source": "path", "path": str(program)}}


def test_a_download_that_the_network_swallows_is_given_up(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toolchain, "DOWNLOAD_STALL_S", 1.5)
    machine.module()
    recipe = Recipe(**{**RECIPE.__dict__, "order": ("download", "build")})
    with socket.create_server(("127.0.0.1", 0)) as silent:
        proxy = f"http://127.0.0.1:{silent.getsockname()[1]}"
        tool = machine.find(recipe=recipe, HTTPS_PROXY=proxy, https_proxy=proxy)
    assert tool.source == "build" and machine.said[0].endswith("official download")


def test_the_cache_is_private(tmp_path: Path) -> None:
    cache = cache_directory({"XDG_STATE_HOME": str(tmp_path)})
    assert cache == tmp_path / "gen4-cache" and cache.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("mode", [0o770, 0o702, 0o777])
def test_a_cache_that_others_can_write_is_refused(tmp_path: Path, mode: int) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    cache.chmod(mode)
    with pytest.raises(InputError, match="CACHE_UNSAFE"):
        cache_directory({"GEN4_CACHE": str(cache)})


@pytest.mark.parametrize("place", ["/proc/1/cache", "/proc/version", "cache"])
def test_a_cache_that_cannot_be_made_is_refused(place: str) -> None:
    with pytest.raises(InputError, match="CACHE_UNSAFE"):
        cache_directory({"GEN4_CACHE": place})


def test_a_cache_behind_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(InputError, match="CACHE_UNSAFE"):
        cache_directory({"GEN4_CACHE": str(tmp_path / "link")})


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_each_recipe_has_its_module_and_pins_an_acceptable_version(name: str) -> None:
    recipe, module = RECIPES[name], toolchain.MODULES / name
    assert f'"{recipe.package}"' in (module / "tools.go").read_text()
    sums = [line.split() for line in (module / "go.sum").read_text().splitlines()]
    assert sums and all(len(fields) == 3 and fields[2].startswith("h1:") for fields in sums)
    assert toolchain.pinned_version(recipe) != "unknown"
    assert "unknown" not in toolchain.remedy(recipe)


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_what_setup_left_is_found_and_recorded(name: str) -> None:
    tool = locate(name, make=False)
    assert os.access(tool.path, os.X_OK) and sha256_of(tool.path) == tool.sha256
    recorded = json.loads((cache_directory() / "toolchain.json").read_text())[name]
    assert (recorded["version"], recorded["sha256"]) == (tool.version, tool.sha256)

"""The whole flow of an ordinary user with bubblewrap and with Docker; for root, Compile asks as much of Docker.

The ordinary user has nothing of root's: another uid, a home, a cache and repositories of its own.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from activities.kernel.sandbox.rootfs import RootFilesystems
from tests.e2e.harness import Fabric, closed, git
from tests.sandbox.driving import ORDINARY_UID, PROJECT
from workers.toolchain import cache_directory, locate

ORDINARY = PROJECT / "tests" / "sandbox" / "ordinary.py"
NO_ENGINE = "unix:///nonexistent/docker.sock"
ROOTS = os.geteuid() == 0

PATIENCE_S = 400.0
"""How long one command may take on a busy machine; idle, all of a case is a matter of some 20 seconds."""


@dataclass(frozen=True)
class Account:
    """A user of this machine: where its things are, what it may open, and how to become it."""

    folder: Path
    environment: dict[str, str]
    groups: tuple[int, ...] = ()

    def fabric(self, sandbox: str, docker_host: str, **environment: str) -> Fabric:
        """A fabric in a new home that must use ``sandbox``."""
        home = Path(tempfile.mkdtemp(prefix="home-", dir=self.folder))
        repositories = home / "repositories"
        repositories.mkdir()
        settings = {"GEN4_HOME": str(home / "gen4"), "GEN4_REPOSITORY_ROOTS": str(repositories), "GEN4_SANDBOX": sandbox}
        settings |= {"HOME": str(home), "DOCKER_HOST": docker_host, **environment}
        self.own(home)
        return Fabric(home / "gen4", repositories, self.environment | settings, self.become())

    def become(self) -> tuple[str, ...]:
        return ()

    def own(self, folder: Path) -> None:
        """Everything in ``folder`` was made by root and is this user's from now on."""


@dataclass(frozen=True)
class OrdinaryAccount(Account):
    def become(self) -> tuple[str, ...]:
        exposed = dict.fromkeys(str(Path(path).resolve()) for path in (sys.base_prefix, sys.prefix, PROJECT))
        order = {"uid": ORDINARY_UID, "groups": list(self.groups), "expose": list(exposed), "home": str(self.folder)}
        return (sys.executable, str(ORDINARY), json.dumps(order))

    def own(self, folder: Path) -> None:
        for path, folders, files in os.walk(folder):
            for name in (".", *folders, *files):
                os.chown(os.path.join(path, name), ORDINARY_UID, ORDINARY_UID, follow_symlinks=False)


@pytest.fixture(scope="module")
def accounts() -> Iterator[dict[str, Account]]:
    """Root, and an ordinary user whose tools and base are copies: root's cache is closed to it."""
    with tempfile.TemporaryDirectory(prefix="gen4-users-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        shared = folder / "shared"
        shared.mkdir(mode=0o755)
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("GEN4_", "XDG_", "DOCKER_", "TMP"))}
        accounts = {"root": make_account(Account, folder / "root", kept | {"GEN4_CACHE": str(cache_directory())})}
        copies = {
            "GEN4_TEMPORAL": copied(locate("temporal").path, shared, 0o755),
            "GEN4_OPA": copied(locate("opa").path, shared, 0o755),
            "GEN4_ROOTFS_TAR": copied(RootFilesystems(cache_directory()).current().tar, shared, 0o644),
            "GEN4_CACHE": str(folder / "ordinary" / "cache"),
        }
        kind = OrdinaryAccount if ROOTS else Account
        accounts["ordinary"] = make_account(kind, folder / "ordinary", kept | copies)
        yield accounts


def make_account(kind: type[Account], folder: Path, environment: dict[str, str]) -> Account:
    folder.mkdir(mode=0o700)
    account = kind(folder, environment)
    account.own(folder)
    return account


def copied(path: Path, folder: Path, mode: int) -> str:
    copy = Path(shutil.copy(path, folder))
    copy.chmod(mode)
    return str(copy)


@contextmanager
def started(fabric: Fabric) -> Iterator[dict[str, Any]]:
    up = fabric.gen4("up", "--json", timeout=PATIENCE_S)
    assert up.code == 0, up.err
    try:
        yield up.json
    finally:
        down = fabric.gen4("down")
        assert down.code == 0, down.err


@pytest.mark.parametrize("sandbox", ["bubblewrap", "docker"])
def test_from_request_to_released_and_verified_fix(
    accounts: dict[str, Account], request: pytest.FixtureRequest, sandbox: str
) -> None:
    account, host = accounts["ordinary"], NO_ENGINE
    if sandbox == "docker":
        host = request.getfixturevalue("docker_host")
        account = replace(account, groups=(os.stat(host.removeprefix("unix://")).st_gid,))
    # With bubblewrap alone nothing is chosen: it is what there is.
    fabric = account.fabric("auto" if sandbox == "bubblewrap" else sandbox, host)
    repository = fabric.repository("shop")
    account.own(repository)
    with started(fabric) as up:
        assert runs_as(up["processes"]["worker"]) == (ORDINARY_UID if account.become() else os.geteuid())
        result = repair(fabric, repository)
        assert result["outcome"] == "merged"
        ref, commit = result["release"]["ref"], result["release"]["commit"]
        assert ref.startswith("refs/heads/gen4/")
        assert git(repository, "-c", "safe.directory=*", "rev-parse", ref) == commit
        verified(fabric, Path(result["bundle"]), sandbox, "--trust", result["trust"], "--repository", str(repository))
    assert fabric.gen4("status").code == 3


def test_a_change_is_compiled_in_docker_by_whoever_runs_this(accounts: dict[str, Account], docker_host: str) -> None:
    fabric = accounts["root"].fabric("docker", docker_host)
    repository = fabric.repository("shop")
    source = repository / "src/shop/price.py"
    source.write_text(source.read_text().replace("if value < high", "if value > high"))
    patch, out = git(repository, "diff") + "\n", fabric.repositories / "evidence"
    with started(fabric) as up:
        assert runs_as(up["processes"]["executor"]) == os.geteuid()
        done = fabric.gen4(
            "compile", "-r", str(repository), "--base", "main", "--patch", "-", "--out", str(out), stdin=patch, timeout=PATIENCE_S
        )
        assert done.code == 0, done.err + done.out
        verified(fabric, out, "docker")


def verified(fabric: Fabric, bundle: Path, sandbox: str, *arguments: str) -> None:
    """The bundle verifies and names the sandbox that its tests ran in; the doctor finds nothing wrong with this machine."""
    done = fabric.gen4("verify", str(bundle), *arguments)
    assert done.code == 0, done.out + done.err
    assert sandbox in json.dumps(json.loads((bundle / "stamp.json").read_bytes()))
    doctor = fabric.gen4("doctor", "--json")
    assert doctor.code == 0, doctor.out


def repair(fabric: Fabric, repository: Path) -> Any:
    asked = fabric.gen4(
        "remediate", "-r", str(repository), "-g", "clamp returns the upper bound", "--until", "approval", "--json",
        timeout=PATIENCE_S,
    )  # fmt: skip
    assert asked.code == 0, asked.err + asked.out
    session = asked.json
    approve = fabric.gen4("approve", session["workflow_id"], "--digest", session["approval"]["action_digest"])
    assert approve.code == 0, approve.err
    return fabric.wait_for(session["workflow_id"], closed, PATIENCE_S)["result"]


def runs_as(pid: int) -> int:
    return Path(f"/proc/{pid}").stat().st_uid


NEEDED = ("git", "ssh-keygen", "sh", "env", "uname")
QUICK_S = 30.0
"""Idle it is two seconds: two servers start before the worker says why it cannot."""


def test_without_any_sandbox_up_refuses_with_the_remedy(accounts: dict[str, Account]) -> None:
    account = accounts["ordinary"]
    programs = account.folder.parent / "shared" / "bin"
    programs.mkdir()
    for program in NEEDED:
        (programs / program).symlink_to(str(shutil.which(program)))
    fabric = account.fabric("auto", NO_ENGINE, PATH=str(programs))
    began = time.monotonic()
    up = fabric.gen4("up", "--json")
    assert time.monotonic() - began < QUICK_S
    assert up.code == 1
    error = up.json["error"]
    assert error["code"] == "SANDBOX_UNAVAILABLE"
    assert "bwrap is not installed" in error["message"]
    assert "no engine answers" in error["message"]
    assert "apt-get install bubblewrap" in error["remedy"]
    assert "Traceback" not in up.err
    assert len(up.err.splitlines()) <= 4
    assert fabric.gen4("status").code == 3
    assert leftovers(fabric) == []

    attached = fabric.gen4("up", "--foreground")
    assert attached.code == 1
    assert "SANDBOX_UNAVAILABLE" in attached.err
    assert "Traceback" not in attached.err

    doctor = fabric.gen4("doctor", "--json")
    assert doctor.code == 3
    found = {finding["name"]: finding for finding in doctor.json["findings"]}
    assert [found[name]["state"] for name in ("user", "rootfs", "bubblewrap", "docker")] == ["ok", "ok", "missing", "missing"]
    assert all(found[name]["remedy"] for name in ("bubblewrap", "docker"))


def leftovers(fabric: Fabric) -> list[str]:
    """Command lines of processes that name the home."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(fabric.home) in line:
            found.append(line)
    return found


def test_an_engine_of_others_is_told_from_none(accounts: dict[str, Account]) -> None:
    path = accounts["ordinary"].folder.parent / "shared" / "docker.sock"
    with socket.socket(socket.AF_UNIX) as closed:
        closed.bind(str(path))
        closed.listen()
        path.chmod(0)
        up = accounts["ordinary"].fabric("docker", f"unix://{path}").gen4("up", "--json")
    assert up.code == 1
    assert up.json["error"]["code"] == "SANDBOX_UNAVAILABLE"
    assert "may not open" in up.json["error"]["message"]


@pytest.mark.parametrize(("variable", "code"), [("GEN4_HOME", "HOME_UNSAFE"), ("GEN4_CACHE", "CACHE_UNSAFE")])
def test_a_folder_that_this_user_cannot_make_is_refused_in_a_line(accounts: dict[str, Account], variable: str, code: str) -> None:
    fabric = accounts["ordinary"].fabric("auto", NO_ENGINE, **{variable: "/proc/1/gen4"})
    up = fabric.gen4("up", "--json")
    assert up.code == 2, up.err
    assert up.json["error"]["code"] == code
    assert "cannot be made" in up.json["error"]["message"]
    doctor = fabric.gen4("doctor", "--json")
    assert doctor.code == 3
    assert any("cannot be made" in finding["detail"] and finding["remedy"] for finding in doctor.json["findings"])

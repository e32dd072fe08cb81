"""Executor, signer and fabric as three users: who holds the engine and the keys is nobody who talks to the outside (threats 1.4).

Only root can make users; elsewhere there is nothing to try.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from activities.kernel.sandbox.rootfs import RootFilesystems
from activities.policy.bundle import build_bundle
from schemas.evidence import SEPARATED_BUILDER_ID
from tests.e2e.harness import Fabric, git
from tests.e2e.test_users import copied
from tests.sandbox.driving import PROJECT
from workers.toolchain import cache_directory, locate

if os.geteuid() != 0:
    pytest.skip("only root can become several users", allow_module_level=True)

EXECUTOR, SIGNER, WORKER, STRANGER = 64_331, 64_332, 64_333, 64_334
ORDINARY = PROJECT / "tests" / "sandbox" / "ordinary.py"
PROBE = """
import json, os, pathlib, socket, sys
def tried(action):
    try:
        action()
    except OSError as error:
        return type(error).__name__
    return "done"
order = json.loads(sys.argv[1])
found = {name: tried(pathlib.Path(path).read_bytes) for name, path in order["files"].items()}
for name, path in order["sockets"].items():
    found[name] = tried(lambda: socket.socket(socket.AF_UNIX).connect(path))
print(json.dumps(found))
"""
"""What this user can open."""
CALL = """
import sys
from pathlib import Path
from activities.kernel.channel import call, connect
from schemas.error import Gen4Error
try:
    print(call(connect(Path(sys.argv[1])), {"facts": {}}, supply=lambda wanted: b"")[0]["sandbox"]["backend"])
except Gen4Error as error:
    print(error.code)
"""


@dataclass(frozen=True)
class Users:
    """The folders of three users below ``folder``, and what all may read in ``shared``."""

    folder: Path
    shared: Path
    base: Path
    docker_host: str

    def of(self, uid: int) -> Path:
        return self.folder / str(uid)

    def become(self, uid: int) -> tuple[str, ...]:
        """Starts a program as that user; the executor alone is in the engine's group."""
        groups = [os.stat(self.engine).st_gid] if uid == EXECUTOR else []
        exposed = [str(Path(path).resolve()) for path in (sys.base_prefix, sys.prefix, PROJECT, self.base)]
        order = {"uid": uid, "groups": groups, "expose": list(dict.fromkeys(exposed)), "home": str(self.of(uid))}
        return (sys.executable, str(ORDINARY), json.dumps(order))

    @property
    def engine(self) -> str:
        return self.docker_host.removeprefix("unix://")

    def environment(self, uid: int, **settings: str) -> dict[str, str]:
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("GEN4_", "XDG_", "DOCKER_", "TMP"))}
        own = {"HOME": str(self.of(uid)), "DOCKER_HOST": self.docker_host, "GEN4_CACHE": str(self.of(uid) / "cache")}
        return kept | own | settings

    def run(self, uid: int, code: str, *arguments: str) -> str:
        command = [*self.become(uid), sys.executable, "-c", code, *arguments]
        environment = self.environment(uid, PYTHONPATH=str(PROJECT))
        return subprocess.run(command, env=environment, cwd="/", capture_output=True, text=True, check=True, timeout=60).stdout

    def socket(self, uid: int) -> Path:
        return self.folder / f"run-{uid}" / "socket"

    def own(self, uid: int, folder: Path) -> None:
        for path, folders, files in os.walk(folder):
            for name in (".", *folders, *files):
                os.chown(os.path.join(path, name), uid, uid, follow_symlinks=False)


@pytest.fixture(scope="module")
def users(docker_host: str) -> Iterator[Users]:
    """Their base is one: links to ours, which everybody may read."""
    root = RootFilesystems(cache_directory()).current()
    with tempfile.TemporaryDirectory(prefix="gen4-three-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        shared = folder / "shared"
        shared.mkdir(mode=0o755)
        made = Users(folder, shared, root.path, docker_host)
        tar = Path(copied(root.tar, shared, 0o644))
        for uid in (EXECUTOR, SIGNER, WORKER):
            roots = made.of(uid) / "cache" / "roots"
            roots.mkdir(parents=True)
            made.of(uid).chmod(0o700)
            for kept in (root.path.with_suffix(".json"), root.path.parent / "current.json"):
                shutil.copy(kept, roots)
            (roots / root.path.name).symlink_to(root.path)
            (roots / tar.name).symlink_to(tar)
            made.socket(uid).parent.mkdir(mode=0o755)
            made.own(uid, made.of(uid))
            made.own(uid, made.socket(uid).parent)
        yield made


@pytest.fixture(scope="module")
def fabric(users: Users) -> Iterator[Fabric]:
    """A fabric of the worker's user that calls an executor and a signer of two others."""
    opa, temporal = (copied(locate(name).path, users.shared, 0o755) for name in ("opa", "temporal"))
    digest = build_bundle(Path(opa), users.shared / "policy.tar.gz").digest
    public_key = users.shared / "executor.pub"
    executor = ["workers.executor", "--clients", str(WORKER)]
    signer = ["workers.signer", "--packages", str(users.of(SIGNER) / "cache" / "roots"), "--clients", str(WORKER)]
    signer += ["--separated-executors", str(public_key), "--policy-digest", digest]
    with ExitStack() as stack:
        for uid, module in ((EXECUTOR, executor), (SIGNER, signer)):
            process = subprocess.Popen(
                [*users.become(uid), sys.executable, "-P", "-m", *module, "--home", str(users.of(uid) / "home"), "--socket",
                 str(users.socket(uid))], env=users.environment(uid, GEN4_SANDBOX="bubblewrap"), cwd="/",
            )  # fmt: skip
            stack.callback(process.wait)
            stack.callback(process.terminate)
            _await(users.socket(uid), process)
        shutil.copy(users.of(EXECUTOR) / "home" / "executor.pub", public_key)
        repositories = users.of(WORKER) / "repositories"
        repositories.mkdir()
        users.own(WORKER, repositories)
        settings = {
            "GEN4_HOME": str(users.of(WORKER) / "gen4"), "GEN4_REPOSITORY_ROOTS": str(repositories),
            "GEN4_TEMPORAL": temporal, "GEN4_OPA": opa,
            "GEN4_EXECUTOR_SOCKET": str(users.socket(EXECUTOR)), "GEN4_SIGNER_SOCKET": str(users.socket(SIGNER)),
        }  # fmt: skip
        started = Fabric(users.of(WORKER) / "gen4", repositories, users.environment(WORKER, **settings), users.become(WORKER))
        up = started.gen4("up", "--json", timeout=400)
        assert up.code == 0, up.err
        assert not {"executor", "signer"} & up.json["processes"].keys()
        yield started
        assert started.gen4("down").code == 0


def _await(path: Path, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while not path.exists():
        assert process.poll() is None and time.monotonic() < deadline, f"nobody listens at {path}"
        time.sleep(0.05)


def test_a_bundle_of_three_users_says_so_and_verifies(fabric: Fabric, users: Users) -> None:
    repository = fabric.repository("shop")
    source = repository / "src/shop/price.py"
    source.write_text(source.read_text().replace("if value < high", "if value > high"))
    patch = git(repository, "diff") + "\n"
    git(repository, "checkout", "-q", "--", ".")
    users.own(WORKER, repository)
    out = users.of(WORKER) / "evidence"
    done = fabric.gen4(
        "compile", "-r", str(repository), "--base", "main", "--patch", "-", "--out", str(out), "--json", stdin=patch, timeout=400
    )  # fmt: skip
    assert done.code == 0, done.err + done.out
    statement = json.loads(base64.b64decode(json.loads((out / "provenance.intoto.json").read_bytes())["payload"]))
    assert statement["predicate"]["runDetails"]["builder"]["id"] == SEPARATED_BUILDER_ID
    assert fabric.gen4("verify", str(out)).code == 0


def test_the_workers_user_opens_neither_the_engine_nor_a_key(fabric: Fabric, users: Users) -> None:
    order = {
        "files": {
            "executor's key": str(users.of(EXECUTOR) / "home" / "executor.pem"),
            "signer's folder": str(users.of(SIGNER) / "home" / "signer.pem"),
        },
        "sockets": {"engine": users.engine, "executor": str(users.socket(EXECUTOR)), "signer": str(users.socket(SIGNER))},
    }
    refused = {"executor's key": "PermissionError", "signer's folder": "PermissionError", "engine": "PermissionError"}
    assert json.loads(users.run(WORKER, PROBE, json.dumps(order))) == {**refused, "executor": "done", "signer": "done"}
    engine = {"files": {}, "sockets": {"engine": users.engine}}
    assert json.loads(users.run(EXECUTOR, PROBE, json.dumps(engine))) == {"engine": "done"}


def test_only_listed_users_are_answered(fabric: Fabric, users: Users) -> None:
    assert users.run(WORKER, CALL, str(users.socket(EXECUTOR))).strip() == "bubblewrap"
    found = {finding["name"]: finding["detail"] for finding in fabric.gen4("doctor", "--json").json["findings"]}
    assert f"uid {EXECUTOR}, apart from ours" in found["executor"] and "in the executor" in found["bubblewrap"]
    for uid in (STRANGER, SIGNER):
        assert users.run(uid, CALL, str(users.socket(EXECUTOR))).strip() == "CHANNEL_REFUSED"

"""The signer under a user of its own, really tried: its client reaches its socket, and neither its key nor its memory."""

from __future__ import annotations

import base64
import dataclasses
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from activities.evidence.signer_client import SignerClient
from activities.kernel.acting import as_acting
from activities.kernel.channel import Channel, connect
from activities.kernel.judging import PolicyPort
from activities.kernel.signing_keys import pem_of
from schemas.error import Gen4Error, InfrastructureError
from schemas.evidence import BUILDER_ID, PROVENANCE, SEPARATED_BUILDER_ID
from tests.evidence.fabric import PACKAGES, Fabric, make_fabric, who
from tests.evidence.workshop import POLICY_DIGEST
from tests.policy.running import RunningOpa

SIGNER, WORKER, STRANGER = 20_050, 20_051, 20_052
ROOT = Path(__file__).resolve().parents[2]
_START = """
import os, sys, encodings.ascii, encodings.utf_16_be, _strptime
from workers.signer import main
uid = int(sys.argv.pop(1))
os.setgroups([]); os.setresgid(uid, uid, uid); os.setresuid(uid, uid, uid)
sys.exit(main())
"""
"""The interpreter of a virtual environment may lie where only root gets to, so the process becomes its user once it runs."""


@dataclass
class Apart:
    """A signer process of uid SIGNER that serves uid WORKER (and root), and the folder that is its own."""

    folder: Path
    socket: Path
    process: subprocess.Popen[bytes]

    def connect_as(self, uid: int) -> Channel:
        """The kernel notes who connects at this moment."""
        os.seteuid(uid)
        try:
            return connect(self.socket)
        finally:
            os.seteuid(0)

    def client(self, fabric: Fabric, uid: int) -> SignerClient:
        return dataclasses.replace(fabric.client, connect=lambda: self.connect_as(uid))


@pytest.fixture(scope="module")
def fabric(tmp_path_factory: pytest.TempPathFactory, opa: RunningOpa) -> Iterator[Fabric]:
    with as_acting(who()), make_fabric(tmp_path_factory.mktemp("apart"), _policy(opa), now_s=time.time) as made:
        yield made


def _policy(opa: RunningOpa) -> PolicyPort:
    return opa.engine


@pytest.fixture(scope="module")
def apart(fabric: Fabric) -> Iterator[Apart]:
    if os.geteuid() != 0:
        pytest.skip("only root can start processes of three users")
    root = Path(tempfile.mkdtemp(prefix="gen4-apart-"))
    root.chmod(0o755)
    folder, packages = root / "state", root / "packages"
    for made in (folder, packages):
        made.mkdir(mode=0o700)
    lock = json.loads(fabric.blobs.get(fabric.environment.lock))
    (packages / f"{lock['base_digest'].removeprefix('sha256:')}.json").write_text(json.dumps(PACKAGES))
    (root / "executors.pem").write_text(pem_of(fabric.executor.public_key()))
    for path in (root, *root.rglob("*")):
        os.chown(path, SIGNER, SIGNER)
    socket = root / "signer.sock"
    argv = [
        sys.executable, "-P", "-c", _START, str(SIGNER), "--home", str(folder), "--socket", str(socket),
        "--packages", str(packages), "--clients", f"{WORKER},0",
        "--separated-executors", str(root / "executors.pem"), "--policy-digest", POLICY_DIGEST,
    ]  # fmt: skip
    process = subprocess.Popen(argv, env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}, cwd=root)
    try:
        running = Apart(folder, socket, process)
        _await(running)
        yield running
    finally:
        process.terminate()
        process.wait(20)
        shutil.rmtree(root)


def _await(apart: Apart) -> None:
    deadline = time.monotonic() + 30
    while True:
        try:
            return apart.connect_as(0).close()
        except InfrastructureError:
            assert apart.process.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)


def _builder(apart: Apart, fabric: Fabric, uid: int) -> str:
    with as_acting(who()):
        sealed = apart.client(fabric, uid).seal(fabric.sealing(), who().keys)
    payload = json.loads(base64.b64decode(json.loads(sealed.files[PROVENANCE])["payload"]))
    builder: str = payload["predicate"]["runDetails"]["builder"]["id"]
    return builder


def test_the_worker_gets_its_bundle_and_the_builder_is_called_separated(apart: Apart, fabric: Fabric) -> None:
    assert _builder(apart, fabric, WORKER) == SEPARATED_BUILDER_ID
    named = apart.client(fabric, WORKER).signer().trusted
    assert set(named.builder_ids) == {BUILDER_ID, SEPARATED_BUILDER_ID}


def test_root_could_have_been_anyone(apart: Apart, fabric: Fabric) -> None:
    assert _builder(apart, fabric, 0) == BUILDER_ID


def test_a_user_that_the_operator_did_not_list_is_refused(apart: Apart, fabric: Fabric) -> None:
    with pytest.raises(Gen4Error, match=r"CHANNEL_REFUSED|SIGNER_UNAVAILABLE"):
        apart.client(fabric, STRANGER).signer()


@pytest.mark.parametrize(
    ("uid", "readable"), [(WORKER, {False}), (STRANGER, {False}), (SIGNER, {True, False})], ids=["worker", "stranger", "itself"]
)
def test_nobody_else_reads_its_key_and_nobody_its_memory(apart: Apart, uid: int, readable: set[bool]) -> None:
    assert {_can_read(apart.folder / "signer.pem", uid), _can_read(apart.folder / "objects.git" / "HEAD", uid)} <= readable
    assert _can_read(apart.folder / "signer.pem", uid) == (uid == SIGNER)
    assert not _can_read(Path(f"/proc/{apart.process.pid}/mem"), uid)
    assert not _can_read(Path(f"/proc/{apart.process.pid}/environ"), uid)


def _can_read(path: Path, uid: int) -> bool:
    os.seteuid(uid)
    try:
        os.close(os.open(path, os.O_RDONLY))
    except OSError:
        return False
    finally:
        os.seteuid(0)
    return True

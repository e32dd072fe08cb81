"""Packages of a JavaScript tree: by the lock's hashes, from the operator's registry, without running anything."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import tarfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from activities.kernel.sandbox.port import WORK
from activities.testbed import node_packages
from schemas.canonical import sha256_hex
from schemas.error import Gen4Error
from schemas.testing import NodePackage


def tarball(files: dict[str, bytes], folder: str = "package", *, link: str = "") -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(f"{folder}/{name}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
        if link:
            member = tarfile.TarInfo(f"{folder}/link")
            member.type, member.linkname = tarfile.SYMTYPE, link
            archive.addfile(member)
    return out.getvalue()


def integrity(data: bytes) -> str:
    return "sha512-" + base64.b64encode(hashlib.sha512(data).digest()).decode()


def lock(packages: dict[str, dict[str, Any]], version: int = 3) -> dict[str, bytes]:
    document = {"name": "demo", "lockfileVersion": version, "packages": {"": {"name": "demo"}, **packages}}
    return {"package.json": b'{"name": "demo"}', "package-lock.json": json.dumps(document).encode()}


ODD = tarball(
    {"package.json": b'{"name": "odd", "bin": {"odd": "cli.js"}}', "cli.js": b"#!/usr/bin/env node\n", "index.js": b"x"}
)
GOOD = {"version": "1.0.0", "integrity": integrity(ODD)}


@pytest.fixture
def registry() -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = self.path == "/odd/-/odd-1.0.0.tgz"
            self.send_response(200 if found else 404)
            self.end_headers()
            self.wfile.write(ODD if found else b"")

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/"
    server.shutdown()
    server.server_close()


def install(packages: tuple[NodePackage, ...], blobs: dict[str, bytes], folder: Path) -> Path:
    node_packages.install(packages, blobs.__getitem__, folder, WORK)
    return folder


def listing(folder: Path) -> dict[str, tuple[int, float, bytes]]:
    return {
        str(path.relative_to(folder)): (
            path.lstat().st_mode, path.lstat().st_mtime, path.read_bytes() if path.is_file() and not path.is_symlink() else b""
        )
        for path in sorted(folder.rglob("*"))
    }  # fmt: skip


def test_a_lock_becomes_the_same_folder_every_time(registry: str, tmp_path: Path) -> None:
    files = lock({
        "node_modules/odd": GOOD, "node_modules/other/node_modules/odd": GOOD,
        "node_modules/mine": {"link": True, "resolved": "a"}, "packages/a": {"version": "0.0.0"},
    })  # fmt: skip
    blobs: dict[str, bytes] = {}
    wanted = node_packages.read_package_lock(files)
    packages = node_packages.download(
        wanted, lambda data: blobs.__setitem__(sha256_hex(data), data), lambda: None, lambda: registry
    )
    assert len(blobs) == 1
    first, second = install(packages, blobs, tmp_path / "1"), install(tuple(reversed(packages)), blobs, tmp_path / "2")
    assert listing(first) == listing(second)
    assert (first / "node_modules/.bin/odd").resolve().name == "cli.js"
    assert (first / "node_modules/mine").readlink() == Path(WORK) / "a"
    assert (first / "node_modules/other/node_modules/odd/index.js").read_bytes() == b"x"


def test_what_is_for_another_platform_is_left_out() -> None:
    files = lock({
        "node_modules/mac": {**GOOD, "os": ["darwin"]}, "node_modules/not-here": {**GOOD, "os": ["!linux"]},
        "node_modules/arm": {**GOOD, "cpu": ["arm64"]}, "node_modules/musl": {**GOOD, "libc": ["musl"]},
        "node_modules/here": {**GOOD, "os": ["linux"], "cpu": ["x64"], "libc": ["glibc"]},
        "node_modules/here/node_modules/bundled": {**GOOD, "inBundle": True},
    })  # fmt: skip
    assert [entry.name for entry in node_packages.read_package_lock(files)] == ["here"]


@pytest.mark.parametrize(
    ("files", "code"),
    [
        ({"package.json": b'{"dependencies": {"odd": "1"}}'}, "LOCK_MISSING"),
        (lock({"node_modules/odd": GOOD}, version=1), "LOCK_TOO_OLD"),
        (lock({"node_modules/odd": {"version": "1.0.0"}}), "LOCK_WITHOUT_HASH"),
        (lock({"node_modules/odd": {"version": "1.0.0", "integrity": "sha1-AAAA"}}), "LOCK_WITHOUT_HASH"),
        (lock({"node_modules/odd": {**GOOD, "resolved": "git+ssh://git@host.invalid/odd.git#1"}}), "REQUIREMENT_DIRECT"),
        (lock({"node_modules/odd": {**GOOD, "resolved": "file:../odd.tgz"}}), "REQUIREMENT_DIRECT"),
        (lock({"node_modules/odd": {"link": True, "resolved": "../elsewhere"}}), "REQUIREMENT_DIRECT"),
        (lock({"node_modules/../../etc": GOOD}), "METADATA_INVALID"),
        (lock({"node_modules/odd/../x": GOOD}), "METADATA_INVALID"),
        ({"package.json": b"{", "package-lock.json": b'{"lockfileVersion": 3, "lockfileVersion": 2}'}, "METADATA_INVALID"),
    ],
)
def test_a_lock_that_pins_nothing_is_refused(files: dict[str, bytes], code: str) -> None:
    with pytest.raises(Gen4Error) as refused:
        node_packages.read_package_lock(files)
    assert refused.value.code == code and refused.value.remedy


def test_another_tarball_than_the_locked_one_is_refused(registry: str) -> None:
    entry = node_packages.Entry("node_modules/odd", "odd", "1.0.0", integrity(b"another"))
    with pytest.raises(Gen4Error, match="PACKAGE_HASH"):
        node_packages.fetch(entry, registry)
    with pytest.raises(Gen4Error, match="PACKAGE_NOT_FOUND"):
        node_packages.fetch(node_packages.Entry("node_modules/x", "x", "9.9.9", integrity(b"")), registry)
    with pytest.raises(Gen4Error, match="INDEX_UNREACHABLE"):
        node_packages.fetch(entry, "http://127.0.0.1:9/")


@pytest.mark.parametrize(
    "data",
    [
        tarball({"../../escape": b"x"}), tarball({"a": b"x"}, link="/etc/passwd"), b"not a tarball",
        tarball({"a": b"1", "a/b": b"2"}),
    ],
)
def test_a_hostile_tarball_is_refused(data: bytes, tmp_path: Path) -> None:
    package = NodePackage(path="node_modules/bad", name="bad", version="1.0.0", sha256=sha256_hex(data), integrity="")
    with pytest.raises(Gen4Error, match="PACKAGE_INVALID"):
        install((package,), {package.sha256: data}, tmp_path / "out")
    assert not (tmp_path / "escape").exists()

"""The root filesystem: reproducible, identified by its digest, unpacked without trust."""

from __future__ import annotations

import fcntl
import hashlib
import io
import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from activities.kernel.sandbox.apt_sources import matching_sources
from activities.kernel.sandbox.port import RootFilesystem
from activities.kernel.sandbox.rootfs import Recipe, RootFilesystems, RootSource, installed_packages
from activities.kernel.sandbox.unpack import MOUNT_POINTS, unpack
from schemas.error import InfrastructureError
from tests.sandbox.driving import end, start

Member = tuple[str, bytes | None, Callable[[tarfile.TarInfo], None]]


def tar(path: Path, *members: Member) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, content, change in members:
            info = tarfile.TarInfo(name)
            info.size = len(content or b"")
            change(info)
            archive.addfile(info, io.BytesIO(content or b""))
    return path


def plain(info: tarfile.TarInfo) -> None:
    info.mode = 0o600


def link(target: str, kind: bytes = tarfile.SYMTYPE) -> Callable[[tarfile.TarInfo], None]:
    def change(info: tarfile.TarInfo) -> None:
        info.type, info.linkname = kind, target

    return change


def of_kind(kind: bytes) -> Callable[[tarfile.TarInfo], None]:
    def change(info: tarfile.TarInfo) -> None:
        info.type = kind

    return change


def set_id(info: tarfile.TarInfo) -> None:
    info.mode = 0o6755


def test_building_again_gives_the_same_bytes(root: RootFilesystem, open_folder: Path, docker_host: str) -> None:
    """The root in use was made on this machine; here an ordinary user makes it in Docker.

    Should packages have changed upstream in between, a third build decides.
    """
    again = open_folder / "again.tar"
    builder = start(root, "docker", "ordinary", docker_host)
    try:
        sha256 = builder.ask({"ask": "build", "target": str(again)})["sha256"]
    finally:
        end(builder)
    assert sha256 == digest_of(again)
    if f"sha256:{sha256}" != root.digest:
        unpack(again, open_folder / "unpacked")
        assert installed_packages(open_folder / "unpacked") != installed_packages(root.path), "same packages, other bytes"
        assert RootFilesystems(open_folder, RootSource()).build_tar(open_folder / "third.tar") == sha256


def digest_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_lock_names_every_package(root: RootFilesystem) -> None:
    lock = json.loads(root.path.with_suffix(".json").read_text())
    assert {name.split(":")[0] for name in lock} >= {"python3", "git", "libc6"}
    assert all(lock.values())


def test_nothing_of_the_building_machine_is_in_it(root: RootFilesystem) -> None:
    assert (root.path / "etc/hostname").read_text() == "gen4\n"
    assert (root.path / "etc/resolv.conf").read_text() == ""
    assert "gen4:x:10001:10001" in (root.path / "etc/passwd").read_text()
    assert not list((root.path / "var/cache/apt/archives").glob("*.deb"))


def test_a_supplied_tar_is_used_and_identified_by_its_digest(tmp_path: Path) -> None:
    given = tar(tmp_path / "given.tar", ("usr/bin/python3", b"#!", plain))
    roots = RootFilesystems(tmp_path / "cache", RootSource(tar=given))
    assert not roots.present()
    found = roots.current()
    assert found.digest == f"sha256:{digest_of(given)}"
    assert found.tar.read_bytes() == given.read_bytes()
    assert (found.path / "usr/bin/python3").stat().st_mode & 0o044 == 0o044
    assert all((found.path / name).is_dir() for name in MOUNT_POINTS)
    assert roots.present()
    assert roots.current() == found
    assert roots.packages(found) == {}
    tar(given, ("usr/bin/python3", b"#! another", plain))
    assert roots.current().digest != found.digest
    assert roots.open(found.digest) == found


def test_versions_that_share_a_cache_do_not_build_by_turns(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    ours, theirs = (RootSource(tar=tar(tmp_path / f"{name}.tar", ("usr/bin/python3", name.encode(), plain))) for name in "ab")
    first, other = RootFilesystems(cache, ours).current(), RootFilesystems(cache, theirs).current()
    made = first.tar.stat().st_ino
    again = RootFilesystems(cache, ours).current()
    assert again == first != other and again.tar.stat().st_ino == made, "not imported once more"


def test_an_altered_tar_is_not_unpacked(tmp_path: Path) -> None:
    roots = RootFilesystems(tmp_path / "cache", RootSource(tar=tar(tmp_path / "given.tar", ("a", b"1", plain))))
    found = roots.current()
    found.path.rename(tmp_path / "away")
    found.tar.write_bytes(found.tar.read_bytes() + b"\0")
    with pytest.raises(InfrastructureError) as refused:
        roots.current()
    assert refused.value.code == "ROOTFS_UNSAFE"


def test_an_unknown_digest_is_missing(tmp_path: Path) -> None:
    with pytest.raises(InfrastructureError) as refused:
        RootFilesystems(tmp_path, RootSource()).open("sha256:" + "0" * 64)
    assert refused.value.code == "ROOTFS_MISSING"


def test_a_missing_tar_is_named(tmp_path: Path) -> None:
    with pytest.raises(InfrastructureError) as refused:
        RootFilesystems(tmp_path, RootSource(tar=tmp_path / "none.tar")).current()
    assert refused.value.code == "ROOTFS_BUILD_FAILED"


def test_a_build_that_fails_says_why(tmp_path: Path) -> None:
    source = RootSource(mirrors=(f"copy:{tmp_path}/no-such-mirror",))
    with pytest.raises(InfrastructureError) as refused:
        RootFilesystems(tmp_path, source).current()
    assert refused.value.code == "ROOTFS_BUILD_FAILED"
    assert "GEN4_ROOTFS_MIRRORS" in refused.value.remedy
    assert not list((tmp_path / "roots").glob("partial*"))


HOSTILE: dict[str, list[Member]] = {
    "parent": [("../planted", b"x", plain)],
    "absolute": [("/planted", b"x", plain)],
    "through a link": [("out", None, link("..")), ("out/planted", b"x", plain)],
    "over a link": [("out", None, link("../planted")), ("out", b"x", plain)],
    "hard link out": [("out", None, link("../secret", tarfile.LNKTYPE))],
    "hard link through a link": [("out", None, link("..")), ("copy", None, link("out/secret", tarfile.LNKTYPE))],
    "mount point that is a link": [("work", None, link("../planted"))],
}


@pytest.mark.parametrize("case", HOSTILE)
def test_no_member_leaves_the_folder(tmp_path: Path, case: str) -> None:
    (tmp_path / "secret").write_text("secret")
    with pytest.raises(InfrastructureError) as refused:
        unpack(tar(tmp_path / "hostile.tar", *HOSTILE[case]), tmp_path / "root")
    assert refused.value.code == "ROOTFS_UNSAFE"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hostile.tar", "root", "secret"]


def test_devices_and_set_id_bits_are_dropped(tmp_path: Path) -> None:
    devices: list[Member] = [("null", None, of_kind(tarfile.CHRTYPE)), ("fifo", None, of_kind(tarfile.FIFOTYPE))]
    unpack(tar(tmp_path / "a.tar", *devices, ("su", b"x", set_id)), tmp_path / "root")
    assert not (tmp_path / "root/null").exists() and not (tmp_path / "root/fifo").exists()
    assert (tmp_path / "root/su").stat().st_mode & 0o7777 == 0o755


def test_what_is_no_tar_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(os.urandom(2_000))
    with pytest.raises(InfrastructureError) as refused:
        unpack(tmp_path / "a.tar", tmp_path / "root")
    assert refused.value.code == "ROOTFS_UNSAFE"


def test_only_the_suites_own_sources_are_taken(tmp_path: Path) -> None:
    folder = tmp_path / "apt/sources.list.d"
    folder.mkdir(parents=True)
    (folder / "a.sources").write_text(
        "Types: deb\nURIs: http://mirror.example/debian\nSuites: bookworm bookworm-updates trixie\nComponents: main\n\n"
        "Types: deb\nURIs: http://other.example\nSuites: nodistro\n\n"
        "Types: deb\nURIs: http://off.example\nSuites: bookworm\nEnabled: no\n"
    )
    (tmp_path / "apt/sources.list").write_text(
        "# deb http://off.example bookworm main\ndeb [signed-by=/k] http://list.example bookworm-security main\n"
        "deb http://vendor.example vendor-bookworm main\n"
    )
    written = matching_sources("bookworm", tmp_path, tmp_path / "apt")
    text = "\n".join(Path(path).read_text() for path in written)
    assert "mirror.example" in text and "list.example" in text
    assert "Suites: bookworm bookworm-updates\n" in text
    assert not [name for name in ("other", "off", "vendor", "trixie") if f"{name}.example" in text or name == "trixie" in text]


def test_a_machine_without_such_sources_leaves_the_choice_to_mmdebstrap(tmp_path: Path) -> None:
    assert matching_sources("bookworm", tmp_path, tmp_path / "nowhere") == ()


def test_the_operators_choices_come_from_the_environment() -> None:
    source = RootSource.of({"GEN4_ROOTFS_MIRRORS": "http://mirror.example/debian\n\n deb http://b.example bookworm main \n"})
    assert source.mirrors == ("http://mirror.example/debian", "deb http://b.example bookworm main")
    assert RootSource.of({"GEN4_ROOTFS_TAR": "/a.tar"}).tar == Path("/a.tar")


def test_another_recipe_is_another_root() -> None:
    recipe = Recipe.load()
    assert recipe.sha256() == Recipe.load().sha256()
    assert recipe.sha256() != Recipe(**{**recipe.__dict__, "packages": ("python3",)}).sha256()
    assert "--" in recipe.command(Path("out.tar"), ())


def test_one_that_is_there_waits_for_nobody_who_builds_another(tmp_path: Path) -> None:
    roots = RootFilesystems(tmp_path / "cache", RootSource(tar=tar(tmp_path / "given.tar", ("a", b"1", plain))))
    found = roots.current()
    with open(tmp_path / "cache/roots/lock") as building:
        fcntl.flock(building, fcntl.LOCK_EX)
        assert roots.current() == found == roots.open(found.digest)

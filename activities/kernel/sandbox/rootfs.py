"""The one root filesystem that both backends run: a reproducible Debian tar, identified by its digest.

Layout below the cache folder::

    roots/current.json        which digest is in use, and of which recipe it is the result
    roots/made-<sha256>.json  the same of each recipe ever used: versions of us that share a cache do not build by turns
    roots/<sha256>.tar        the tar as mmdebstrap wrote it (or the operator's own)
    roots/<sha256>.json       its packages with versions: the lock
    roots/<sha256>/           unpacked, for bubblewrap
    roots/<sha256>-bytecode-1/  what its Python compiled, by the hash of a wheel
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import pwd
import shutil
import subprocess
import tempfile
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from schemas.canonical import jcs_sha256
from schemas.error import InfrastructureError

from .apt_sources import matching_sources
from .docker_build import OUTPUT, build_in_docker
from .engine import answers, usual_host
from .port import RootFilesystem
from .unpack import unpack

RECIPE = Path(__file__).resolve().parents[3] / "deploy" / "sandbox" / "rootfs.toml"
BUILD_TIMEOUT_S = 900

_CUSTOMIZE = (
    # Facts of the building machine stay out of the tar; the sandbox's user has a name.
    'rm -f "$1/etc/hostname" "$1/etc/resolv.conf" "$1/etc/passwd-" "$1/etc/group-" "$1/etc/shadow-" "$1/etc/gshadow-"',
    # Written by the package tools while they run, and not the same everywhere; the sandbox never imports it.
    'rm -rf "$1/usr/share/python3/debpython/__pycache__"',
    'mkdir -p "$1/work" "$1/env" "$1/gen4" "$1/harness" "$1/home/gen4"',
    "printf 'gen4:x:10001:10001::/home/gen4:/bin/sh\\n' >> \"$1/etc/passwd\"",
    "printf 'gen4:x:10001:\\n' >> \"$1/etc/group\"",
    'printf "gen4\\n" > "$1/etc/hostname"',
    'printf "127.0.0.1 localhost gen4\\n::1 localhost\\n" > "$1/etc/hosts"',
    ': > "$1/etc/resolv.conf"',
    'chmod 0644 "$1/etc/hostname" "$1/etc/hosts" "$1/etc/resolv.conf"',
    # libfaketime 0.9.10 fails each sleep until a monotonic deadline, which is how Python sleeps. Under another name in its
    # symbol table (the first place with that string) its clock_nanosleep is not found, and libc's own is called.
    "sed -z -i '0,/^clock_nanosleep$/s//Clock_nanosleep/' \"$1\"/usr/lib/*/faketime/libfaketimeMT.so.1",
)


@dataclass(frozen=True)
class Recipe:
    """``deploy/sandbox/rootfs.toml``; two roots of one recipe differ only by package versions."""

    suite: str
    variant: str
    packages: tuple[str, ...]
    source_date_epoch: int
    exclude: tuple[str, ...] = ()
    include: tuple[str, ...] = ()

    @staticmethod
    def load(path: Path = RECIPE) -> Recipe:
        raw = tomllib.loads(path.read_text())
        return Recipe(
            suite=raw["suite"],
            variant=raw["variant"],
            packages=tuple(raw["packages"]),
            source_date_epoch=raw["source_date_epoch"],
            exclude=tuple(raw.get("exclude", ())),
            include=tuple(raw.get("include", ())),
        )

    def sha256(self) -> str:
        return jcs_sha256({"recipe": json.loads(json.dumps(asdict(self))), "hooks": list(_CUSTOMIZE)})

    def command(self, tar: Path, mirrors: tuple[str, ...]) -> list[str]:
        """mmdebstrap's argv. Without mirrors it uses the defaults that Debian compiled into it."""
        options = [f"--variant={self.variant}", f"--include={','.join(self.packages)}", "--format=tar", "--quiet"]
        options += [f"--dpkgopt=path-exclude={pattern}" for pattern in self.exclude]
        options += [f"--dpkgopt=path-include={pattern}" for pattern in self.include]
        options += [f"--customize-hook={hook}" for hook in _CUSTOMIZE]
        return ["mmdebstrap", *options, "--", self.suite, str(tar), *mirrors]


@dataclass(frozen=True)
class RootSource:
    """The operator's choices. ``mirrors``: what mmdebstrap takes as such; ``tar``: a root filesystem made elsewhere."""

    mirrors: tuple[str, ...] = ()
    tar: Path | None = None

    @staticmethod
    def of(environ: Mapping[str, str]) -> RootSource:
        mirrors = tuple(line.strip() for line in environ.get("GEN4_ROOTFS_MIRRORS", "").splitlines() if line.strip())
        tar = environ.get("GEN4_ROOTFS_TAR", "")
        return RootSource(mirrors, Path(tar) if tar else None)


class RootFilesystems:
    """Builds, imports and finds root filesystems below ``<cache>/roots``; safe to use from several processes."""

    def __init__(self, cache: Path, source: RootSource | None = None, recipe: Recipe | None = None) -> None:
        self._folder = cache / "roots"
        self._source = source if source is not None else RootSource.of(os.environ)
        self._recipe = recipe or Recipe.load()

    def current(self) -> RootFilesystem:
        """The root filesystem in use; builds or imports it when it is missing (20–30 s, network for a build).

        Raises:
            InfrastructureError: ROOTFS_BUILD_FAILED, ROOTFS_UNSAFE (a tar that tries to leave its folder).
        """
        known = self._read_current()
        if known is not None and known[0] == self._wanted() and (found := self._unpacked(known[1])):
            return found
        with self._locked():
            wanted = self._wanted()
            known = self._read_current()
            if known is None or known[0] != wanted:
                made = self._made_before(wanted) or (self._import(self._source.tar) if self._source.tar else self._build())
                known = (wanted, made)
                for file in (self._folder / "current.json", self._note(wanted)):
                    _write_json(file, {"made_from": wanted, "sha256": made})
            return self._open(known[1])

    def present(self) -> bool:
        """Whether ``current()`` will return at once."""
        known = self._read_current()
        return known is not None and known[0] == self._wanted() and (self._folder / known[1]).is_dir()

    def imports(self) -> bool:
        """Whether ``current()`` only copies the operator's own tar, which takes seconds and no network."""
        return self._source.tar is not None

    def open(self, digest: str) -> RootFilesystem:
        """The root filesystem of a digest ``sha256:…``. Raises InfrastructureError(ROOTFS_MISSING)."""
        sha256 = digest.removeprefix("sha256:")
        if found := self._unpacked(sha256):
            return found
        with self._locked():
            return self._open(sha256)

    def packages(self, root: RootFilesystem) -> dict[str, str]:
        """The lock: name and version of every package in it; empty for a tar that is no Debian."""
        value: dict[str, str] = json.loads((self._folder / f"{root.digest.removeprefix('sha256:')}.json").read_text())
        return value

    def build_tar(self, target: Path) -> str:
        """Run mmdebstrap into ``target``; the sha256 of the tar. Nothing of the cache is touched."""
        if shutil.which("mmdebstrap") is None:
            raise InfrastructureError(
                "ROOTFS_BUILD_FAILED",
                "mmdebstrap is not installed",
                "run: apt-get install mmdebstrap — or set GEN4_ROOTFS_TAR to a root filesystem made elsewhere",
            )
        with tempfile.TemporaryDirectory(prefix="gen4-rootfs-") as scratch:
            sources = Path(scratch)
            if can_build_directly():
                mirrors = self._source.mirrors or matching_sources(self._recipe.suite, sources)
                _run(self._recipe.command(target, mirrors), self._recipe.source_date_epoch)
            else:
                self._build_in_docker(target, sources)
        return _sha256(target)

    def _build_in_docker(self, target: Path, folder: Path) -> None:
        if not answers(usual_host()):
            raise InfrastructureError(
                "ROOTFS_BUILD_FAILED",
                "an ordinary user needs a range of user ids or a Docker engine to make a root filesystem",
                "run: sudo apt-get install uidmap (ids in /etc/subuid and /etc/subgid) — or start a Docker engine,"
                " or set GEN4_ROOTFS_TAR to a root filesystem made elsewhere",
            )
        found = self._source.mirrors or matching_sources(self._recipe.suite, folder)
        mirrors = tuple(one.replace(str(folder), OUTPUT) for one in found)
        folder.chmod(0o755)  # the container's apt reads it as another user
        command = self._recipe.command(Path(OUTPUT) / "root.tar", mirrors)
        build_in_docker(usual_host(), command, self._recipe.source_date_epoch, folder, BUILD_TIMEOUT_S)
        shutil.copyfile(folder / "root.tar", target)

    def _wanted(self) -> str:
        """Identifies what ``current()`` should be: the recipe, or the operator's file as it is now."""
        if self._source.tar is None:
            return f"recipe {self._recipe.sha256()}"
        try:
            state = self._source.tar.stat()
        except OSError as error:
            raise InfrastructureError(
                "ROOTFS_BUILD_FAILED", f"GEN4_ROOTFS_TAR: {error}", "name an existing tar, or unset the variable"
            ) from error
        return f"tar {self._source.tar.resolve()} {state.st_size} {state.st_mtime_ns}"

    def _read_current(self) -> tuple[str, str] | None:
        try:
            value = json.loads((self._folder / "current.json").read_text())
            return value["made_from"], value["sha256"]
        except FileNotFoundError:
            return None

    def _note(self, wanted: str) -> Path:
        return self._folder / f"made-{hashlib.sha256(wanted.encode()).hexdigest()}.json"

    def _made_before(self, wanted: str) -> str | None:
        if not self._note(wanted).is_file():
            return None
        sha256: str = json.loads(self._note(wanted).read_text())["sha256"]
        return sha256 if (self._folder / f"{sha256}.tar").is_file() else None

    def _build(self) -> str:
        partial = self._folder / f"partial-{os.getpid()}.tar"
        try:
            sha256 = self.build_tar(partial)
            partial.replace(self._folder / f"{sha256}.tar")
            return sha256
        finally:
            partial.unlink(missing_ok=True)

    def _import(self, tar: Path) -> str:
        partial = self._folder / f"partial-{os.getpid()}.tar"
        try:
            shutil.copyfile(tar, partial)
            sha256 = _sha256(partial)
            partial.replace(self._folder / f"{sha256}.tar")
            return sha256
        finally:
            partial.unlink(missing_ok=True)

    def _unpacked(self, sha256: str) -> RootFilesystem | None:
        """One that is there already: folders appear whole and never change, so nobody need wait for who builds another."""
        tar, folder = self._folder / f"{sha256}.tar", self._folder / sha256
        return RootFilesystem(digest=f"sha256:{sha256}", path=folder, tar=tar) if folder.is_dir() else None

    def _open(self, sha256: str) -> RootFilesystem:
        tar, folder = self._folder / f"{sha256}.tar", self._folder / sha256
        if not folder.is_dir():
            if not tar.is_file():
                raise InfrastructureError(
                    "ROOTFS_MISSING", f"no root filesystem sha256:{sha256}", "run `make setup`, or supply GEN4_ROOTFS_TAR"
                )
            if _sha256(tar) != sha256:
                raise InfrastructureError("ROOTFS_UNSAFE", f"{tar.name} was altered", "delete it and run `make setup`")
            self._unpack(tar, folder)
        return RootFilesystem(digest=f"sha256:{sha256}", path=folder, tar=tar)

    def _unpack(self, tar: Path, folder: Path) -> None:
        partial = self._folder / f"partial-{os.getpid()}"
        try:
            unpack(tar, partial)
            _write_json(folder.with_suffix(".json"), installed_packages(partial))
            partial.rename(folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with open(self._folder / "lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def can_build_directly() -> bool:
    """Whether mmdebstrap can change users itself: as root, or with ids that were given to this user."""
    if os.geteuid() == 0:
        return True
    owners = {str(os.geteuid()), *(entry.pw_name for entry in pwd.getpwall() if entry.pw_uid == os.geteuid())}
    files = (Path("/etc/subuid"), Path("/etc/subgid"))
    given = [{line.split(":")[0] for line in path.read_text().splitlines()} if path.is_file() else set() for path in files]
    return all(owners & names for names in given) and shutil.which("newuidmap") is not None


def installed_packages(root: Path) -> dict[str, str]:
    """``{name:architecture: version}`` from dpkg's own database, without running anything of the root filesystem."""
    status = root / "var/lib/dpkg/status"
    found: dict[str, str] = {}
    for paragraph in status.read_text(errors="replace").split("\n\n") if status.is_file() else ():
        fields = dict(line.split(": ", 1) for line in paragraph.splitlines() if ": " in line and not line.startswith(" "))
        if fields.get("Status") == "install ok installed":
            found[f"{fields['Package']}:{fields.get('Architecture', '')}"] = fields["Version"]
    return dict(sorted(found.items()))


def _run(command: list[str], epoch: int) -> None:
    environment = {**os.environ, "SOURCE_DATE_EPOCH": str(epoch), "LC_ALL": "C.UTF-8"}
    try:
        done = subprocess.run(
            command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, timeout=BUILD_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise InfrastructureError(
            "ROOTFS_BUILD_FAILED",
            f"mmdebstrap did not finish within {BUILD_TIMEOUT_S} s",
            "check the network, or set GEN4_ROOTFS_TAR",
        ) from error
    if done.returncode:
        raise InfrastructureError(
            "ROOTFS_BUILD_FAILED",
            f"mmdebstrap ended with {done.returncode}: {done.stderr.decode(errors='replace')[-2000:].strip()}",
            "run `make setup` as root, or set GEN4_ROOTFS_TAR to a root filesystem made elsewhere"
            " and GEN4_ROOTFS_MIRRORS to reachable mirrors",
        )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_json(path: Path, value: object) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(value, indent=1, sort_keys=True) + "\n")
    partial.replace(path)

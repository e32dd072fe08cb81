"""Mode ``build``: PEP 517 in the sandbox, for source distributions and for metadata that only ``setup.py`` knows.

Steps: ``requires`` reads the build requirements; ``wheel`` builds and streams the wheel; ``metadata`` streams METADATA.
The backend runs in a child. The supervisor reads its product from a folder and sends it in bounded pieces.
"""

from __future__ import annotations

import base64
import glob
import os
import stat
import sys
import tarfile
import time
import tomllib
import zipfile
from collections.abc import Iterator
from typing import Any

from .child import BrokenReport, Child, Reporter
from .host import Host
from .target import Target

_DEFAULT_REQUIRES = ["setuptools", "wheel"]
_DEFAULT_BACKEND = "setuptools.build_meta:__legacy__"
_PIECE = 48 * 1024
_MAX_PRODUCT = 512 * 1024 * 1024
_ENTRY_POINTS = "entry_points.txt"
_MAX_ENTRY_POINTS = 64 * 1024


def run(job: dict[str, Any], host: Host) -> dict[str, Any]:
    """``job``: step, sdist (file name inside the work folder, or None for a plain tree), wall_ms."""
    source = _unpack_sdist(job["work"], job["sdist"]) if job["sdist"] else job["work"]
    system = _build_system(source)
    if job["step"] == "requires":
        return {"ok": True, "requires": system["requires"], "tail": ""}
    product = "/tmp/gen4-product"
    os.makedirs(product)
    child = Child.fork(host, lambda report: _in_child(job, source, system, product, report))
    said: dict[str, Any] = {}
    try:
        deadline = time.monotonic() + job["wall_ms"] / 1000
        while (event := child.next(deadline)) is not None:
            said = event
    except (BrokenReport, TimeoutError) as error:
        said = {"event": "failed", "why": type(error).__name__}
    finally:
        child.close()
    tail = child.tail.decode("utf-8", "backslashreplace")
    if said.get("event") == "missing":
        return {"ok": False, "requires": said["requires"], "tail": tail}
    if said.get("event") != "built" or child.status != 0:
        return {"ok": False, "requires": [], "tail": tail}
    name = os.path.basename(said["file"])
    for piece in _pieces(os.path.join(product, name), _MAX_PRODUCT):
        host.send("data", base64=base64.b64encode(piece).decode())
    commands = b"".join(_pieces(os.path.join(product, _ENTRY_POINTS), _MAX_ENTRY_POINTS)) if job["step"] == "metadata" else b""
    return {"ok": True, "requires": [], "filename": name, "entry_points": commands.decode("utf-8", "replace"), "tail": tail}


def _in_child(job: dict[str, Any], source: str, system: dict[str, Any], product: str, report: Reporter) -> int:
    Target({**job, "work": source, "python_path": [], "env": {}}).enter()
    for folder in reversed(system["backend-path"]):
        sys.path.insert(0, os.path.join(source, folder))
    sys.argv = ["setup.py"]
    backend = _load(system["build-backend"])
    hook = getattr(backend, "get_requires_for_build_wheel", None)
    needed = [line for line in (hook({}) if hook else []) if not _is_there(line)]
    if needed and job["step"] == "wheel" and not job["last"]:
        report("missing", requires=needed)
        return 0
    if job["step"] == "wheel":
        report("built", file=backend.build_wheel(product, {}, None))
        return 0
    hook = getattr(backend, "prepare_metadata_for_build_wheel", None)
    if hook:
        folder = os.path.join(product, hook(product, {}))
        for name in ("METADATA", _ENTRY_POINTS):
            if os.path.exists(os.path.join(folder, name)):
                os.replace(os.path.join(folder, name), os.path.join(product, name))
    else:
        with zipfile.ZipFile(os.path.join(product, backend.build_wheel(product, {}, None))) as archive:
            for name in archive.namelist():
                if name.endswith((".dist-info/METADATA", f".dist-info/{_ENTRY_POINTS}")):
                    with open(os.path.join(product, os.path.basename(name)), "wb") as file:
                        file.write(archive.read(name))
    report("built", file="METADATA")
    return 0


def _load(reference: str) -> Any:
    import importlib

    module, _, attribute = reference.partition(":")
    found: Any = importlib.import_module(module)
    for name in attribute.split(".") if attribute else ():
        found = getattr(found, name)
    return found


def _is_there(requirement: str) -> bool:
    import importlib.metadata
    import re

    match = re.match(r"[A-Za-z0-9][A-Za-z0-9._-]*", requirement.strip())
    try:
        importlib.metadata.distribution(match.group() if match else requirement)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _build_system(source: str) -> dict[str, Any]:
    try:
        with open(os.path.join(source, "pyproject.toml"), "rb") as file:
            table = tomllib.load(file).get("build-system")
    except (OSError, tomllib.TOMLDecodeError):
        table = None
    table = table if isinstance(table, dict) else {}
    return {
        "requires": [str(line) for line in table.get("requires", _DEFAULT_REQUIRES)],
        "build-backend": str(table.get("build-backend", _DEFAULT_BACKEND)),
        "backend-path": [str(folder) for folder in table.get("backend-path", [] if "build-backend" in table else ["."])],
    }


def _unpack_sdist(work: str, name: str) -> str:
    """Unpack inside the sandbox: the host never opens the archive."""
    archive, folder = os.path.join(work, name), os.path.join(work, "source")
    os.makedirs(folder)
    if name.endswith(".zip"):
        with zipfile.ZipFile(archive) as zipped:
            zipped.extractall(folder)
    else:
        with tarfile.open(archive) as tarred:
            tarred.extractall(folder)
    inner = [path for path in sorted(glob.glob(os.path.join(folder, "*"))) if os.path.isdir(path)]
    return inner[0] if len(inner) == 1 else folder


def _pieces(path: str, limit: int) -> Iterator[bytes]:
    """The content of a product; nothing of one that is missing.

    Raises:
        ValueError: not a regular file, or larger than ``limit``.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_size > limit:
            raise ValueError("the product is not a regular file of bounded size")
        while piece := file.read(_PIECE):
            yield piece

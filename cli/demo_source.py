"""A published bug as a folder: the buggy release's sources with the fixed release's tests laid over them.

Archives are fetched as files from the configured package index and checked against the digests of the pair file; no
code of theirs runs here. Of the fixed release only test files are ever written to disk, and its archive is deleted
as soon as they are read.
"""

from __future__ import annotations

import configparser
import hashlib
import io
import json
import os
import stat
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

import requests
from pypi_simple import PyPISimple

from schemas.error import InfrastructureError, InputError
from schemas.model import Door, Sha256

MAX_ARCHIVE_BYTES = 64 * 1024 * 1024
MAX_UNPACKED_BYTES = 256 * 1024 * 1024
_TIMEOUT_S = (20.0, 120.0)


class Pair(Door):
    """A bug that was published and mended: two releases of one package, and the tests that tell them apart."""

    id: str
    package: str
    buggy_version: str
    fixed_version: str
    buggy_sdist_sha256: Sha256
    fixed_sdist_sha256: Sha256
    python: str
    test_cmd: str
    extra_requirements: tuple[str, ...] = ()
    fail_to_pass: tuple[str, ...]
    pass_to_pass_count: int = 0
    failing_on_fixed: tuple[str, ...] = ()
    suite_seconds: float = 0.0
    """Of one fresh run on the machine that measured the pair."""
    problem_statement: str


def load_pairs(path: Path) -> dict[str, Pair]:
    """Pairs by id. Raises InputError PAIRS_UNREADABLE."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        return {entry["id"]: Pair.model_validate(entry) for entry in document["pairs"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError("PAIRS_UNREADABLE", f"{path} is no pair file: {error}", "restore it from the repository") from error


def fetch_pair(pair: Pair, destination: Path) -> Path:
    """Write the tree of ``pair`` into ``destination`` (made; must not exist) and return it.

    Raises:
        InputError: DESTINATION_EXISTS.
        InfrastructureError: INDEX_UNREACHABLE, ARCHIVE_MISSING, ARCHIVE_CORRUPT.
    """
    if destination.exists():
        raise InputError("DESTINATION_EXISTS", f"{destination} exists", "choose a new folder")
    buggy = _members(_fetch(pair, pair.buggy_version, pair.buggy_sdist_sha256))
    fixed = _members(_fetch(pair, pair.fixed_version, pair.fixed_sdist_sha256))
    tests = {path: entry for path, entry in fixed.items() if is_test_path(path)}
    del fixed
    tree = {path: entry for path, entry in buggy.items() if not is_test_path(path)} | tests
    for path, (data, executable) in sorted(tree.items()):
        target = destination / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
        if executable:
            target.chmod(target.stat().st_mode | stat.S_IXUSR)
    return destination


def is_test_path(path: str) -> bool:
    """Does ``path`` belong to the test suite of its release?"""
    parts = PurePosixPath(path).parts
    return any(part in ("tests", "test") for part in parts[:-1]) or parts[-1] == "conftest.py"


def index_url() -> str | None:
    """The package index that this machine is configured for; None: the client's own default."""
    for name in ("GEN4_INDEX_URL", "PIP_INDEX_URL", "UV_INDEX_URL", "UV_DEFAULT_INDEX"):
        if value := os.environ.get(name, "").strip():
            return value
    for path in _pip_configurations():
        parser = configparser.ConfigParser(interpolation=None)
        try:
            parser.read(path, encoding="utf-8")
        except (configparser.Error, OSError, UnicodeDecodeError):
            continue
        for section in ("install", "download", "global"):
            if value := parser.get(section, "index-url", fallback="").strip():
                return value
    return None


def _pip_configurations() -> Iterator[Path]:
    if named := os.environ.get("PIP_CONFIG_FILE"):
        yield Path(named)
        return
    home = Path.home()
    yield Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config") / "pip" / "pip.conf"
    yield home / ".pip" / "pip.conf"
    yield Path("/etc/pip.conf")


@contextmanager
def _client() -> Iterator[PyPISimple]:
    session = requests.Session()
    certificates = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("PIP_CERT")
    if certificates:
        session.verify = certificates
    url = index_url()
    with PyPISimple(url, session=session) if url else PyPISimple(session=session) as client:
        yield client


def _fetch(pair: Pair, version: str, sha256: str) -> bytes:
    """The source archive of one release; its digest is checked before anything reads it."""
    with _client() as client, tempfile.TemporaryDirectory(prefix="gen4-pair-") as folder:
        try:
            page = client.get_project_page(pair.package, timeout=_TIMEOUT_S)
            found = [
                package
                for package in page.packages
                if package.package_type == "sdist" and package.version == version and package.filename.endswith(".tar.gz")
            ]
            if not found:
                raise InfrastructureError("ARCHIVE_MISSING", f"the index has no source archive of {pair.package} {version}")
            file = Path(folder) / "archive.tar.gz"
            client.download_package(found[0], file, verify=False, timeout=_TIMEOUT_S)
        except (requests.RequestException, OSError) as error:
            raise InfrastructureError(
                "INDEX_UNREACHABLE",
                f"cannot fetch {pair.package} {version}: {error}",
                "check the network and the index setting of pip",
            ) from error
        if file.stat().st_size > MAX_ARCHIVE_BYTES:
            raise InfrastructureError("ARCHIVE_CORRUPT", f"{pair.package} {version} is larger than {MAX_ARCHIVE_BYTES} bytes")
        data = file.read_bytes()
    if (digest := hashlib.sha256(data).hexdigest()) != sha256:
        raise InfrastructureError("ARCHIVE_CORRUPT", f"{pair.package} {version} is sha256:{digest}, the pair file says {sha256}")
    return data


def _members(archive: bytes) -> dict[str, tuple[bytes, bool]]:
    """Regular files by path below the archive's one top folder; links, devices and escaping names are left out."""
    files: dict[str, tuple[bytes, bool]] = {}
    total = 0
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as tar:
        for member in tar:
            parts = PurePosixPath(member.name).parts
            if not member.isfile() or len(parts) < 2 or ".." in parts or member.name.startswith("/"):
                continue
            total += member.size
            if total > MAX_UNPACKED_BYTES:
                raise InfrastructureError("ARCHIVE_CORRUPT", f"the archive unpacks to more than {MAX_UNPACKED_BYTES} bytes")
            content = tar.extractfile(member)
            if content is not None:
                files["/".join(parts[1:])] = (content.read(), bool(member.mode & stat.S_IXUSR))
    return files

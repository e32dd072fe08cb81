"""Find wheels for requirements, on the host, without running any code of theirs.

pip resolves and downloads with ``--only-binary :all:``, which never builds. What exists only as source is named by
:class:`NoWheel`; its distribution is fetched by hash with the Simple API and built elsewhere. pip's own configuration
(index, proxies, certificates, find-links) is the operator's and is honoured; a repository cannot change it.
"""

from __future__ import annotations

import ast
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pypi_simple
import requests
from packaging.requirements import Requirement
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.utils import InvalidSdistFilename, canonicalize_name, parse_sdist_filename
from packaging.version import Version

from schemas.error import InfrastructureError, Refused

Heartbeat = Callable[[], None]
_LAUNCHER = Path(__file__).parent / "pip_for_base.py"
_TIMEOUT_S = 1_500
_MAX_SDIST = 256 * 1024 * 1024
_NO_MATCH = re.compile(r"No matching distribution found for (.+?)(?: \(from .*\))?$", re.MULTILINE)
_NETWORK = re.compile(r"Retrying \(|ConnectionError|Temporary failure in name resolution|ReadTimeout|ProxyError")


@dataclass(frozen=True)
class Base:
    """The Python of the root filesystem."""

    markers: dict[str, str]
    libc: str
    """glibc version, e.g. ``2.36``; empty where the base has another C library."""

    @property
    def python_version(self) -> str:
        return self.markers["python_full_version"]

    @property
    def platform(self) -> str:
        """For locks and people, e.g. ``linux_x86_64-cp311-glibc2.36``."""
        short = self.markers["python_version"].replace(".", "")
        libc = f"-glibc{self.libc}" if self.libc else ""
        return f"{self.markers['sys_platform']}_{self.markers['platform_machine']}-cp{short}{libc}"

    def pip_arguments(self) -> list[str]:
        """Tags of wheels that run on this base."""
        machine = self.markers["platform_machine"]
        arguments = ["--implementation", "cp", "--python-version", self.markers["python_version"]]
        if self.libc:
            minor = int(self.libc.split(".")[1])
            platforms = [f"manylinux_2_{number}_{machine}" for number in range(minor, 4, -1)]
            platforms += [f"manylinux{year}_{machine}" for year in ("2014", "2010", "1")]
        else:
            platforms = []
        for platform in [*platforms, f"linux_{machine}"]:
            arguments += ["--platform", platform]
        abi = "cp" + self.markers["python_version"].replace(".", "")
        return [*arguments, "--abi", abi, "--abi", "abi3", "--abi", "none"]


class NoWheel(Exception):
    """No wheel fits ``requirement``; a source distribution may."""

    def __init__(self, requirement: str, text: str) -> None:
        super().__init__(requirement)
        self.requirement = requirement
        self.text = text


@dataclass(frozen=True)
class Sdist:
    filename: str
    version: str
    data: bytes


def download_wheels(
    requirements: Sequence[str], constraints: Iterable[str], base: Base, built: Path, heartbeat: Heartbeat
) -> list[tuple[str, bytes]]:
    """Wheels of ``requirements`` and all that they need; ``built`` is a folder of wheels that we built ourselves.

    Raises:
        NoWheel: a requirement of which the index has no fitting wheel.
        Refused: ENVIRONMENT_UNRESOLVED.
        InfrastructureError: INDEX_UNREACHABLE.
    """
    with tempfile.TemporaryDirectory(prefix="gen4-resolve-") as name:
        folder = Path(name)
        wanted, bounds, target = folder / "requirements.txt", folder / "constraints.txt", folder / "wheels"
        wanted.write_text("".join(f"{line}\n" for line in requirements))
        bounds.write_text("".join(f"{line}\n" for line in constraints))
        arguments = ["download", "--quiet", "--only-binary", ":all:", "--dest", str(target), "--find-links", str(built)]
        arguments += [*base.pip_arguments(), "--requirement", str(wanted), "--constraint", str(bounds)]
        code, text = _pip(arguments, base, folder, heartbeat)
        if code == 0:
            return [(path.name, path.read_bytes()) for path in sorted(target.glob("*.whl"))]
    raise _failure(text)


def fetch_sdist(requirement: str, base: Base) -> Sdist:
    """The newest source distribution that fits, checked by the hash that the index gives.

    Raises:
        Refused: ENVIRONMENT_UNRESOLVED when there is none, SDIST_HASH when the index gives no hash or another one.
        InfrastructureError: INDEX_UNREACHABLE.
    """
    wanted = Requirement(requirement)
    config = pip_configuration()
    candidates = [*_local_sdists(wanted, config), *_index_sdists(wanted, config, base)]
    previews = bool(wanted.specifier.prereleases)
    fitting = [found for found in candidates if wanted.specifier.contains(found.version, prereleases=previews)]
    if not fitting:
        raise _unresolved(f"nothing fits {requirement}, neither as a wheel for {base.platform} nor as a source distribution")
    best = max(fitting, key=lambda found: found.version)
    return Sdist(best.filename, str(best.version), best.read())


def pip_configuration() -> dict[str, str]:
    """pip's effective settings by option name: environment before the files that pip reads."""
    listed = subprocess.run(
        [sys.executable, "-I", "-m", "pip", "config", "list"], capture_output=True, text=True, timeout=60, check=False
    )
    found: dict[str, str] = {}
    environment: dict[str, str] = {}
    for line in listed.stdout.splitlines():
        key, _, value = line.partition("=")
        section, _, option = key.rpartition(".")
        if section in ("global", "install", "download", ":env:") and value[:1] in "'\"":
            (environment if section == ":env:" else found)[option] = str(ast.literal_eval(value))
    return {**found, **environment}


@dataclass(frozen=True)
class _Candidate:
    filename: str
    version: Version
    read: Callable[[], bytes]


def _local_sdists(wanted: Requirement, config: dict[str, str]) -> list[_Candidate]:
    found = []
    for entry in config.get("find-links", "").split():
        folder = Path(entry.removeprefix("file://"))
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            if (version := _version_of(path.name, wanted)) is not None:
                found.append(_Candidate(path.name, version, path.read_bytes))
    return found


def _index_sdists(wanted: Requirement, config: dict[str, str], base: Base) -> list[_Candidate]:
    if config.get("no-index", "").lower() in ("1", "true", "yes", "on"):
        return []
    session = requests.Session()
    session.verify = config.get("cert", True)
    if "proxy" in config:
        session.proxies = {"http": config["proxy"], "https": config["proxy"]}
    timeout = float(config.get("timeout", config.get("default-timeout", "60")))
    urls = [config.get("index-url", pypi_simple.PYPI_SIMPLE_ENDPOINT), *config.get("extra-index-url", "").split()]
    found = []
    for url in urls:
        client = pypi_simple.PyPISimple(url.rstrip("/") + "/", session=session)
        try:
            packages = client.get_project_page(wanted.name, timeout=timeout).packages
        except pypi_simple.NoSuchProjectError:
            continue
        except requests.RequestException as error:
            raise _unreachable(str(type(error).__name__)) from error
        for package in packages:
            version = _version_of(package.filename, wanted)
            if version is not None and not package.is_yanked and _python_fits(package.requires_python, base):
                found.append(_Candidate(package.filename, version, _download(session, package, timeout)))
    return found


def _download(session: requests.Session, package: Any, timeout: float) -> Callable[[], bytes]:
    def read() -> bytes:
        expected = (package.digests or {}).get("sha256")
        if not expected:
            raise Refused("SDIST_HASH", f"{package.filename}: the index gives no sha256 for it", "use an index that does")
        data = b""
        try:
            with session.get(package.url.partition("#")[0], timeout=timeout, stream=True) as response:
                response.raise_for_status()
                for chunk in response.iter_content(1 << 20):
                    data += chunk
                    if len(data) > _MAX_SDIST:
                        raise _unresolved(f"{package.filename} is larger than {_MAX_SDIST} bytes")
        except requests.RequestException as error:
            raise _unreachable(str(type(error).__name__)) from error
        if hashlib.sha256(data).hexdigest() != expected:
            why = f"{package.filename} is not the file whose sha256 the index gives"
            raise Refused("SDIST_HASH", why, "ask who runs the index")
        return data

    return read


def _version_of(filename: str, wanted: Requirement) -> Version | None:
    try:
        name, version = parse_sdist_filename(filename)
    except InvalidSdistFilename:
        return None
    return version if name == canonicalize_name(wanted.name) else None


def _python_fits(requires_python: str | None, base: Base) -> bool:
    try:
        return SpecifierSet(requires_python or "").contains(base.python_version, prereleases=True)
    except InvalidSpecifier:
        return True


def _pip(arguments: list[str], base: Base, folder: Path, heartbeat: Heartbeat) -> tuple[int, str]:
    command = [sys.executable, "-I", str(_LAUNCHER), json.dumps(base.markers), *arguments]
    command += ["--no-input", "--disable-pip-version-check"]
    environment = {**os.environ, "PIP_REQUIRE_VIRTUALENV": "0"}
    with (folder / "output").open("w+b") as output:
        process = subprocess.Popen(command, cwd=folder, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment)
        try:
            code = _wait(process, heartbeat)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
        output.seek(0)
        return code, output.read().decode("utf-8", "backslashreplace")


def _wait(process: subprocess.Popen[bytes], heartbeat: Heartbeat) -> int:
    for _ in range(_TIMEOUT_S):
        heartbeat()
        try:
            return process.wait(timeout=1)
        except subprocess.TimeoutExpired:
            continue
    raise _unreachable(f"pip did not end within {_TIMEOUT_S} s")


def _failure(text: str) -> Exception:
    if _NETWORK.search(text):
        return _unreachable(_last_lines(text))
    if match := _NO_MATCH.search(text):
        return NoWheel(match[1].strip(), _last_lines(text))
    return _unresolved(_last_lines(text))


def _last_lines(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip().startswith("ERROR") or "conflict" in line.lower()]
    return " ".join(lines or text.splitlines()[-3:])[-800:]


def _unresolved(why: str) -> Refused:
    return Refused("ENVIRONMENT_UNRESOLVED", why, "pass requirements that can be resolved, e.g. with --requirements FILE")


def _unreachable(why: str) -> InfrastructureError:
    remedy = "check pip's configuration and the network"
    return InfrastructureError("INDEX_UNREACHABLE", f"the package index could not be used: {why}", remedy)

"""``python -m workers.setup``: what ``make setup`` does once the Python packages are there.

Debian packages, outside programs, the sandbox's root filesystem; each step looks first and does nothing that is done.
``--for-tests`` adds what only tests need (PostgreSQL's programs; the verifiers that evidence is checked against; a Docker engine,
where root has none).
"""

from __future__ import annotations

import argparse
import compileall
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from activities.record.postgresql import postgresql_program
from schemas.error import Gen4Error, InfrastructureError
from workers.toolchain import RECIPES, cache_directory, locate

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ROOT / "deploy" / "debian-packages.txt"
MODULES = ("schemas", "policies", "activities", "workflows", "workers", "cli")
"""Folders of ours whose modules processes load."""
SEARCHED = ":/usr/local/sbin:/usr/sbin:/sbin"
T = TypeVar("T")


@dataclass(frozen=True)
class DebianPackage:
    """``needed``: ``always``, by ``root`` only, for ``tests``, or for tests by root where no Docker ``engine`` answers."""

    name: str
    program: str
    needed: str

    def present(self) -> bool:
        if shutil.which(self.program, path=os.environ.get("PATH", "") + SEARCHED) is not None:
            return True
        try:
            return postgresql_program(self.program).is_file()  # Debian keeps its versions apart, off PATH
        except InfrastructureError:
            return False


def debian_packages(path: Path = PACKAGES) -> Iterator[DebianPackage]:
    for line in path.read_text().splitlines():
        fields = line.split("#")[0].split()
        if fields:
            yield DebianPackage(*fields)


def missing_packages(for_tests: bool, root: bool) -> list[DebianPackage]:
    """The packages whose program is not on PATH and that this user needs."""

    def needed(package: DebianPackage) -> bool:
        if package.needed == "engine":
            return for_tests and root and not _engine_answers()
        if package.needed == "tests":
            return for_tests
        return package.needed == "always" or root

    return [package for package in debian_packages() if not package.present() and needed(package)]


def install(packages: list[DebianPackage], root: bool) -> None:
    """Install by apt-get as root. Raises InfrastructureError(PACKAGES_MISSING) with the exact command otherwise."""
    apt = shutil.which("apt-get")
    argv = ["apt-get", "install", "--yes", "--no-install-recommends", *(package.name for package in packages)]
    command = " ".join(argv if root else ["sudo", *argv])
    if not root or apt is None:
        remedy = command if apt else "install them with the package manager of this system"
        raise InfrastructureError("PACKAGES_MISSING", ", ".join(package.program for package in packages), remedy)
    answered, database = _engine_answers(), _server_runs()
    # The lists of a fresh machine are empty: the first try fails at once and costs nothing.
    if _apt(argv) and (_apt(["apt-get", "update"]) or _apt(argv)):
        raise InfrastructureError("PACKAGES_MISSING", f"apt-get failed for {', '.join(p.name for p in packages)}", command)
    if not answered and shutil.which("systemctl") and _engine_answers():
        # Installing must not leave an engine running that nobody asked for; tests start their own.
        subprocess.run(["systemctl", "stop", "docker.socket", "docker.service"], check=False, capture_output=True)
    if not database and shutil.which("systemctl") and _server_runs():
        subprocess.run(["systemctl", "stop", "postgresql"], check=False, capture_output=True)


def set_up(for_tests: bool) -> None:
    root = os.getuid() == 0
    packages = missing_packages(for_tests, root)
    if packages:
        _step(f"Debian packages {' '.join(package.name for package in packages)}", lambda: install(packages, root), lambda _: "")
    for name in [name for name, recipe in RECIPES.items() if for_tests or not recipe.for_tests]:
        _step(name, partial(locate, name, say=_say), lambda tool: f"{tool.version} ({tool.source})")
    _step("sandbox root filesystem", _root_filesystem, str)
    _step("bytecode", partial(compile_modules, ROOT, (*MODULES, "tests") if for_tests else MODULES), lambda _: "")


def compile_modules(root: Path, folders: Sequence[str]) -> None:
    """Where processes may or shall not write bytecode (PYTHONDONTWRITEBYTECODE, a checkout of somebody else), each of them
    would compile everything that it imports. What cannot be written is left: it costs time and nothing else.
    """
    for folder in folders:
        compileall.compile_dir(root / folder, quiet=2)


def _root_filesystem() -> str:
    from activities.kernel.sandbox.rootfs import RootFilesystems

    return RootFilesystems(cache_directory()).current().digest[:19]


def _engine_answers() -> bool:
    from activities.kernel.sandbox.engine import answers, usual_host  # the Docker SDK costs a tenth of a second to import

    return answers(usual_host())


def _server_runs() -> bool:
    return any(Path("/var/run/postgresql").glob(".s.PGSQL.*"))


def _apt(argv: list[str]) -> int:
    done = subprocess.run(
        argv, env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"}, stdin=subprocess.DEVNULL, capture_output=True, check=False
    )
    if done.returncode:
        _say(" / ".join(done.stderr.decode(errors="replace").strip().splitlines()[-2:]))
    return done.returncode


def _step(title: str, work: Callable[[], T], describe: Callable[[T], str]) -> None:
    started = time.monotonic()
    result = work()
    _say(f"{title} {describe(result)}".rstrip() + f"  {time.monotonic() - started:.1f} s")


def _say(line: str) -> None:
    print(f"setup: {line}", file=sys.stderr, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m workers.setup", description="Everything that `make setup` adds to the venv.")
    parser.add_argument("--for-tests", action="store_true", help="also what only tests need")
    try:
        set_up(parser.parse_args().for_tests)
    except Gen4Error as error:
        _say(str(error))
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())

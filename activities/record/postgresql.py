"""Where PostgreSQL's own programs are: by ``pg_config``, on PATH, or where Debian keeps each version apart."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from schemas.error import InfrastructureError

_DEBIAN = Path("/usr/lib/postgresql")


def postgresql_program(name: str) -> Path:
    """Path of ``pg_dump``, ``pg_restore``, ``initdb``, ``postgres`` …

    Raises:
        InfrastructureError: PROGRAM_MISSING.
    """
    for place in _places():
        if (found := shutil.which(name, path=str(place))) is not None:
            return Path(found)
    raise InfrastructureError("PROGRAM_MISSING", f"{name} of PostgreSQL is not installed", "apt-get install postgresql")


def _places() -> Iterator[Path]:
    config = shutil.which("pg_config")
    if config is not None:
        done = subprocess.run([config, "--bindir"], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            yield Path(done.stdout.strip())
    if (found := shutil.which("postgres") or shutil.which("pg_dump")) is not None:
        yield Path(found).resolve().parent
    versions = [folder for folder in _DEBIAN.glob("*/bin") if folder.parent.name.isdecimal()]
    yield from sorted(versions, key=lambda folder: int(folder.parent.name), reverse=True)

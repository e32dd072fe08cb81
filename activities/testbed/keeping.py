"""What an executor keeps between calls, and for how long. All of it can be sent or made again: what is deleted costs time only.

Only blobs, environments and object stores of tenants are looked at, and only while no call is answered: at the start, then daily.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from activities.record.home import Home

KEPT_S = 30 * 86_400
MOST_BYTES = 20 * 1024**3
_MARK = ".used"
_HALF = (".building-", ".deleted-", ".tmp-")
"""What a killed process was making or deleting."""


@dataclass(frozen=True)
class _Kept:
    path: Path
    used_s: float
    mark: Path | None = None

    @property
    def size(self) -> int:
        return sum(_sizes(self.path))

    def delete(self) -> None:
        if self.path.is_file():
            self.path.unlink(missing_ok=True)
            return
        # Under its own name a folder is always whole.
        doomed = self.path.with_name(f".deleted-{self.path.name}")
        self.path.rename(doomed)
        shutil.rmtree(doomed)
        if self.mark is not None:
            self.mark.unlink(missing_ok=True)


def objects_folder(home: Home, tenant_id: str) -> Path:
    """Where an executor has the git objects of a tenant."""
    return _objects(home) / tenant_id


def note_blob(path: Path) -> None:
    os.utime(path)


def note_environment(folder: Path) -> None:
    """Beside it: a sandbox sees the folder's own times."""
    _mark_of(folder).touch()


def note_objects(folder: Path) -> None:
    os.utime(folder)


def tidy(home: Home, now_s: float, kept_s: float = KEPT_S, most_bytes: int = MOST_BYTES) -> int:
    """Delete what was not used for ``kept_s`` seconds, and what does not fit into ``most_bytes``: the latest used stays first.

    Returns:
        how many blobs, environments and object stores were deleted.
    """
    _remove_halves(home)
    deleted, left = 0, []
    for one in _everything(home):
        if one.used_s < now_s - kept_s:
            one.delete()
            deleted += 1
        else:
            left.append(one)
    total = 0
    for one in sorted(left, key=lambda kept: kept.used_s, reverse=True):
        size = one.size
        if total + size > most_bytes:
            one.delete()
            deleted += 1
        else:
            total += size
    return deleted


def _everything(home: Home) -> Iterator[_Kept]:
    for blob in home.blobs.glob("*/??/[!.]*"):
        yield _Kept(blob, blob.stat().st_mtime)
    for folder in home.environments.glob("*/[!.]*"):
        if folder.is_dir():
            mark = _mark_of(folder)
            yield _Kept(folder, mark.stat().st_mtime if mark.exists() else folder.stat().st_ctime, mark)
    for folder in _objects(home).glob("[!.]*"):
        yield _Kept(folder, folder.stat().st_mtime)


def _remove_halves(home: Home) -> None:
    for path in (*home.blobs.glob("*/??/.*"), *home.environments.glob("*/.*"), *_objects(home).glob(".*")):
        if path.name.startswith(_HALF) and path.is_dir():
            shutil.rmtree(path)
        elif path.name.startswith(_HALF):
            path.unlink()


def _objects(home: Home) -> Path:
    return home.root / "objects"


def _mark_of(folder: Path) -> Path:
    return folder.with_name(folder.name + _MARK)


def _sizes(path: Path) -> Iterator[int]:
    if not path.is_dir():
        yield path.stat().st_size
        return
    for folder, _, files in os.walk(path):
        for name in files:
            yield os.lstat(os.path.join(folder, name)).st_size

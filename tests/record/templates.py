"""A migrated SQLite store to copy: to migrate another one takes twenty times as long."""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
from pathlib import Path

from activities.record.store import Store


def new_sqlite(file: Path) -> str:
    """The URL of a new, empty store."""
    shutil.copyfile(_migrated(), file)
    return f"sqlite:///{file}"


@functools.cache
def _migrated() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="gen4-store-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    Store.open(f"sqlite:///{folder}/store.db").close()
    return folder / "store.db"

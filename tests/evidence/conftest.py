from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.evidence.workshop import Workshop, make_workshop


@pytest.fixture(scope="session")
def workshop() -> Workshop:
    return make_workshop()


@pytest.fixture
def place(tmp_path: Path) -> Callable[[dict[str, bytes]], Path]:
    """Write files into a fresh folder and return it."""

    def write(files: dict[str, bytes]) -> Path:
        folder = tmp_path / f"bundle-{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        for name, data in files.items():
            (folder / name).write_bytes(data)
        return folder

    return write

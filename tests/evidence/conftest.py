from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from activities.kernel.judging import PolicyPort
from tests.evidence.workshop import Workshop, make_workshop
from tests.policy.running import RunningOpa


@pytest.fixture(scope="session")
def workshop() -> Workshop:
    return make_workshop()


@pytest.fixture(scope="session")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PolicyPort]:
    with RunningOpa(tmp_path_factory.mktemp("opa")) as opa:
        yield opa.engine


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

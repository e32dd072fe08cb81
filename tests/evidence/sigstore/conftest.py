from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.evidence.sigstore.authority import Authority, running_authority


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Authority]:
    with running_authority(tmp_path_factory.mktemp("authority") / "home") as served:
        yield served


@pytest.fixture(scope="session")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Authority]:
    """An authority that nobody trusts."""
    with running_authority(tmp_path_factory.mktemp("stranger") / "home") as served:
        yield served

"""The real parts that the rows of docs/threats.md are tried on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.policy.running import RunningOpa
from tests.testbed.conftest import backend, bed, plain, root

__all__ = ["backend", "bed", "opa", "plain", "root"]


@pytest.fixture(scope="session")
def opa(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningOpa]:
    with RunningOpa(tmp_path_factory.mktemp("opa")) as running:
        yield running

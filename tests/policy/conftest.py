"""One OPA for the questions of all policy tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.policy.running import RunningOpa


@pytest.fixture(scope="session")
def opa(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningOpa]:
    with RunningOpa(tmp_path_factory.mktemp("opa")) as running:
        yield running

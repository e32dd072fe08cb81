from __future__ import annotations

from collections.abc import Iterator

import pytest

from activities.kernel.judging import PolicyPort
from tests.policy.running import RunningOpa


@pytest.fixture(scope="session")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PolicyPort]:
    with RunningOpa(tmp_path_factory.mktemp("opa")) as opa:
        yield opa.engine

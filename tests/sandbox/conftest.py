"""A root filesystem, and one driver for each backend × {root, ordinary user}."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from activities.kernel.sandbox.backends import BACKENDS
from activities.kernel.sandbox.port import RootFilesystem
from activities.kernel.sandbox.rootfs import RootFilesystems
from tests.sandbox.driving import USERS, Driver, end, start
from workers.toolchain import cache_directory


@pytest.fixture(scope="session")
def root() -> RootFilesystem:
    return RootFilesystems(cache_directory()).current()


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user may enter and write, which pytest's own never is."""
    with tempfile.TemporaryDirectory(prefix="gen4-open-") as name:
        folder = Path(name)
        folder.chmod(0o777)
        yield folder


@pytest.fixture(scope="module", params=[(backend, user) for backend in BACKENDS for user in USERS], ids="-".join)
def driver(request: pytest.FixtureRequest, root: RootFilesystem) -> Iterator[Driver]:
    backend, user = request.param
    host = request.getfixturevalue("docker_host") if backend == "docker" else ""
    started = start(root, backend, user, host)
    try:
        yield started
    finally:
        end(started)

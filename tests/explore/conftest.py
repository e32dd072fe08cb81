"""Examples are targets of the engine, not tests of ours."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from activities.kernel.sandbox.backends import choose_backend
from activities.kernel.sandbox.rootfs import RootFilesystems
from activities.record.blobs import BlobStore
from activities.record.cursors import Cursors
from activities.record.home import Home
from activities.record.objects import ObjectStore
from activities.record.store import Store
from activities.testbed.environment import Environments
from activities.testbed.run import TestBed
from tests.explore.bed import Bed
from workers.toolchain import cache_directory

collect_ignore_glob = ["examples/*"]


@pytest.fixture(scope="session")
def bed() -> Iterator[Bed]:
    root = RootFilesystems(cache_directory()).current()
    backend = choose_backend(root, "bubblewrap")
    # Not below pytest's own folder: that may lie inside a git work tree, where a home is refused.
    with tempfile.TemporaryDirectory(prefix="gen4-explore-") as name:
        home = Home.open(Path(name) / "home")
        blobs, objects = BlobStore(home.blobs, "local"), ObjectStore.open(home.objects)
        environments = Environments(home, blobs, objects, root, backend)
        testbed = TestBed(home, blobs, objects, environments, root, backend)
        cursors = Cursors(Store.open(f"sqlite:///{home.store}").tenant("local"))
        made = Bed(blobs, objects, cursors, testbed, environments, home.objects)
        made.environment = environments.prepare(made.tree({"README": b""}), (), made.beat)
        yield made

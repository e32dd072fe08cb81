"""A throw-away home with a real sandbox, for benchmarks."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from activities.kernel.sandbox.backends import choose_backend
from activities.kernel.sandbox.port import RootFilesystem, SandboxBackend
from activities.kernel.sandbox.rootfs import RootFilesystems
from activities.record.blobs import BlobStore
from activities.record.cursors import Cursors
from activities.record.home import Home
from activities.record.objects import ObjectStore
from activities.record.store import Store
from activities.testbed.environment import Environments
from activities.testbed.run import TestBed
from workers.toolchain import cache_directory


@dataclass(frozen=True)
class Bed:
    """Everything that running and repairing a tree needs."""

    home: Home
    blobs: BlobStore
    objects: ObjectStore
    cursors: Cursors
    environments: Environments
    testbed: TestBed
    root: RootFilesystem
    backend: SandboxBackend

    def tree_of(self, folder: Path) -> str:
        """The files below ``folder`` as a tree of the object store."""
        with tempfile.TemporaryDirectory(prefix="gen4-tree-") as name:
            git = [
                "git",
                "-c",
                "core.hooksPath=/dev/null",
                "-c",
                "core.autocrlf=false",
                f"--work-tree={folder.resolve()}",
                f"--git-dir={name}/git",
            ]
            subprocess.run([*git, "init", "-q"], check=True)
            subprocess.run([*git, "add", "-A", "-f", "."], check=True, cwd=folder)
            commit = [
                *git,
                "-c",
                "user.name=bench",
                "-c",
                "user.email=bench@localhost",
                "commit",
                "-q",
                "--no-gpg-sign",
                "-m",
                "base",
            ]
            subprocess.run(commit, check=True, cwd=folder)
            subprocess.run([*git, "branch", "-M", "main"], check=True)
            return self.objects.fetch(f"{name}/git", "refs/heads/main", {"file"}).tree


@contextmanager
def open_bed() -> Iterator[Bed]:
    root = RootFilesystems(cache_directory()).current()
    backend = choose_backend(root)
    with tempfile.TemporaryDirectory(prefix="gen4-bench-") as name:
        home = Home.open(Path(name) / "home")
        blobs, objects = BlobStore(home.blobs, "local"), ObjectStore.open(home.objects)
        environments = Environments(home, blobs, objects, root, backend)
        store = Store.open(f"sqlite:///{home.store}").tenant("local")
        testbed = TestBed(home, blobs, objects, environments, root, backend)
        yield Bed(home, blobs, objects, Cursors(store), environments, testbed, root, backend)

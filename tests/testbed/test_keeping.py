"""What an executor keeps can be sent again: it goes when it is old or too much, and never by halves."""

from __future__ import annotations

import io
import os
import socket
from pathlib import Path
from typing import Any, cast

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from activities.kernel.channel import Channel
from activities.kernel.sandbox.port import RootFilesystem
from activities.record.blobs import BlobStore
from activities.record.home import Home
from activities.testbed.executing import Executing, Machine
from activities.testbed.keeping import note_blob, note_environment, note_objects, objects_folder, tidy

NOW = 2_000_000_000
DAY = 86_400
DIGEST = "a" * 64


class Kept:
    """One blob, environment and object store of a tenant, last used when it is said."""

    def __init__(self, home: Home, size: int = 10) -> None:
        self.home = home
        blobs = BlobStore(home.blobs, "local")
        self.blob = blobs.path(blobs.put(b"b" * size))
        self.environment = home.environments / "local" / DIGEST
        self.objects = objects_folder(home, "local")
        for folder in (self.environment, self.objects):
            folder.mkdir(parents=True)
            (folder / "file").write_bytes(b"f" * size)

    def used(self, blob: int, environment: int, objects: int) -> None:
        note_environment(self.environment)
        for path, when in ((self.blob, blob), (self._mark, environment), (self.objects, objects)):
            os.utime(path, (when, when))

    @property
    def _mark(self) -> Path:
        return self.environment.with_name(f"{DIGEST}.used")

    @property
    def left(self) -> tuple[bool, bool, bool]:
        return self.blob.exists(), self.environment.exists(), self.objects.exists()


@pytest.fixture
def kept(tmp_path: Path) -> Kept:
    return Kept(Home.open(tmp_path / "home"))


@pytest.mark.parametrize("old", [0, 1, 2])
def test_what_was_not_used_for_long_goes(kept: Kept, old: int) -> None:
    times = [NOW - DAY] * 3
    times[old] = NOW - 31 * DAY
    kept.used(*times)
    assert tidy(kept.home, NOW) == 1
    assert kept.left == tuple(number != old for number in range(3))


def test_a_use_counts_whatever_it_was_of(kept: Kept) -> None:
    kept.used(0, 0, 0)
    note_blob(kept.blob)
    note_environment(kept.environment)
    note_objects(kept.objects)
    assert tidy(kept.home, kept.blob.stat().st_mtime) == 0 and all(kept.left)


def test_using_an_environment_changes_nothing_that_a_sandbox_sees(kept: Kept) -> None:
    os.utime(kept.environment, (1, 1))
    note_environment(kept.environment)
    assert kept.environment.stat().st_mtime == 1


def test_what_was_used_longest_ago_makes_room(kept: Kept) -> None:
    kept.used(NOW - 3, NOW - 1, NOW - 2)
    assert tidy(kept.home, NOW, most_bytes=20) == 1
    assert kept.left == (False, True, True)


def test_what_a_killed_process_was_making_or_deleting_is_removed(kept: Kept) -> None:
    kept.used(NOW, NOW, NOW)
    halves = [kept.environment.with_name(".building-x"), kept.environment.with_name(f".deleted-{DIGEST}"),
              kept.objects.with_name(".deleted-local")]  # fmt: skip
    for folder in halves:
        folder.mkdir()
        (folder / "file").touch()
    written = kept.blob.with_name(".tmp-x")
    written.touch()
    assert tidy(kept.home, NOW) == 0 and all(kept.left)
    assert not written.exists() and not any(folder.exists() for folder in halves)


def test_an_executor_that_never_kept_anything(tmp_path: Path) -> None:
    assert tidy(Home.open(tmp_path / "home"), NOW) == 0


def test_an_executor_that_runs_for_long_tidies_once_a_day_when_nobody_calls(kept: Kept) -> None:
    clock = [float(NOW)]
    root = RootFilesystem("sha256:" + "0" * 64, kept.home.root, kept.home.root, "python3")
    nested: list[bool] = []

    def packages(_: str) -> dict[str, str]:
        if not nested:
            nested.append(True)
            clock[0] = NOW + DAY + 1
            call()  # ends before the one that it came from
            nested.append(kept.blob.exists())
        return {}

    machine = Machine(root, cast(Any, None), packages)
    executing = Executing(kept.home, ec.generate_private_key(ec.SECP256R1()), lambda: machine, now_s=lambda: clock[0])
    ours, theirs = socket.socketpair()

    def call() -> None:
        executing.handle(Channel(ours), {"packages": {"root_digest": root.digest}}, io.BytesIO())

    kept.used(NOW - 30 * DAY, NOW, NOW)
    with ours, theirs:
        call()
    assert nested == [True, True], "not while a call goes on"
    assert kept.left == (False, True, True)

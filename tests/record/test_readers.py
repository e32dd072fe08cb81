"""Processes that read a store are kept for the next reader, and never give one object for another."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from activities.record.objects import ObjectStore
from activities.record.readers import CatFile
from schemas.error import InfrastructureError

from .conftest import Repository

EMPTY = "4b825dc642cb6eb9a060e54bf8d69288fbee4904"


def idle(objects: ObjectStore) -> list[subprocess.Popen[bytes]]:
    return objects._readers._idle


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    return ObjectStore.open(tmp_path / "own.git")


def test_one_process_reads_again_and_again(store: ObjectStore) -> None:
    tree = store.write_tree(EMPTY, {"a/f": b"1", "g": b"2"})
    (process,) = idle(store)
    assert store.files(tree, ("a/f", "g")) == {"a/f": b"1", "g": b"2"}
    assert [entry.size for entry in store.entries(tree)] == [1, 1]
    assert idle(store) == [process]


def test_what_came_later_is_found(store: ObjectStore, repository: Repository) -> None:
    store.write_tree(EMPTY, {"f": b"1"})
    (process,) = idle(store)
    fetched = store.fetch(str(repository.path), "HEAD")
    assert store.commit(fetched.commit).tree == fetched.tree
    store._git.run("repack", "-a", "-d", "-q")
    assert {path: store.file(fetched.tree, path) for path in store.paths(fetched.tree)}.keys() >= {"run.sh"}
    assert idle(store) == [process]
    with pytest.raises(InfrastructureError, match="OBJECT_MISSING"):
        store.entries("1" * 40)
    assert process.poll() is not None, "one that has failed is not asked again"


def test_one_that_was_killed_is_replaced(store: ObjectStore) -> None:
    tree = store.write_tree(EMPTY, {"f": b"1"})
    (process,) = idle(store)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert store.file(tree, "f") == b"1"
    assert idle(store) != [process]


def test_one_that_dies_under_a_reader_is_an_outage_and_nothing_else(store: ObjectStore) -> None:
    tree = store.write_tree(EMPTY, {"f": b"1"})
    for ask in (CatFile.read, CatFile.sizes, CatFile.missing):
        with pytest.raises(InfrastructureError, match="GIT_FAILED"), store._readers.reading() as objects:
            store._readers._idle.clear()
            objects.read(tree)
            objects._questions.close()  # it ends
            objects._questions = open(os.devnull, "wb")  # noqa: SIM115
            ask(objects, tree if ask is CatFile.read else (tree,))  # type: ignore[operator]
    assert store.file(tree, "f") == b"1"


def test_an_answer_that_nobody_read_is_not_taken_for_the_next(store: ObjectStore) -> None:
    tree = store.write_tree(EMPTY, {"f": b"1" * 1000, "g": b"2"})
    (first, second) = (entry.oid for entry in store.entries(tree))
    with store._readers.reading() as objects:
        objects.open(first).read(10)
    assert idle(store) == []
    stopped = store.read_many((first, second))
    next(stopped)
    stopped.close()
    assert store.read(second) == b"2" and store.read(first) == b"1" * 1000


def test_many_readers_at_once_leave_few_processes(store: ObjectStore) -> None:
    tree = store.write_tree(EMPTY, {f"{number}": b"%d" % number for number in range(20)})
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda number: store.file(tree, str(number % 20)), range(100)))
    assert found == [b"%d" % (number % 20) for number in range(100)]
    assert 1 <= len(idle(store)) <= 2


def test_they_end_with_their_store(store: ObjectStore, tmp_path: Path) -> None:
    other = ObjectStore.open(tmp_path / "other.git")
    other.write_tree(EMPTY, {"f": b"1"})
    (process,) = idle(other)
    del other
    gc.collect()
    assert process.poll() is not None

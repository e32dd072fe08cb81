"""A tree moves from one store of ours to another as what the other lacks, whoever sends it."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from activities.record.objects import ObjectStore
from schemas.error import Gen4Error, InfrastructureError, Refused
from schemas.model import ZERO_ID
from tests.record.conftest import Repository


@pytest.fixture
def here(tmp_path: Path) -> ObjectStore:
    return ObjectStore.open(tmp_path / "here.git")


@pytest.fixture
def there(tmp_path: Path) -> ObjectStore:
    return ObjectStore.open(tmp_path / "there.git")


def tree_of(store: ObjectStore, tmp_path: Path, files: dict[str, str | bytes]) -> str:
    repository = Repository(tmp_path / "repository")
    repository.git("update-index", "--add", "--cacheinfo", f"160000,{'1' * 40},module")
    repository.write(files)
    repository.git("add", *files)
    repository.git("commit", "--quiet", "--message", "one")
    return store.fetch(str(repository.path), "HEAD").tree


def packed(store: ObjectStore, tree: str, *known: str) -> io.BytesIO:
    out = io.BytesIO()
    store.pack(tree, out, known)
    out.seek(0)
    return out


def count(pack: io.BytesIO) -> int:
    return int.from_bytes(pack.getvalue()[8:12])


@pytest.mark.parametrize("files", [3, 300], ids=["few objects", "many objects"])
def test_a_tree_arrives_whole_and_its_change_costs_what_changed(
    here: ObjectStore, there: ObjectStore, tmp_path: Path, files: int
) -> None:
    content: dict[str, str | bytes] = {f"d{number}/f.txt": f"{number}" for number in range(files)}
    tree = tree_of(here, tmp_path, content)
    there.unpack(packed(here, tree))
    assert there.has_tree(tree) and there.entries(tree) == here.entries(tree)

    changed = here.write_tree(tree, {"d1/f.txt": b"other"})
    pack = packed(here, changed, tree, "2" * 40)
    assert count(pack) == 3  # the file, its folder, the root
    there.unpack(pack)
    assert there.file(changed, "d1/f.txt") == b"other" and there.snapshot_hash(changed) == here.snapshot_hash(changed)


def test_a_pack_that_leaves_something_out_gives_no_whole_tree(here: ObjectStore, there: ObjectStore, tmp_path: Path) -> None:
    tree = tree_of(here, tmp_path, {"a": "1", "b": "2"})
    changed = here.write_tree(tree, {"a": b"3"})
    there.unpack(packed(here, changed, tree))
    assert not there.has_tree(changed)
    with pytest.raises(InfrastructureError) as caught:
        there.entries(changed)
    assert caught.value.code == "OBJECT_MISSING"


def test_bytes_that_are_no_whole_pack_are_refused(here: ObjectStore, there: ObjectStore, tmp_path: Path) -> None:
    pack = packed(here, tree_of(here, tmp_path, {"a": "1"})).getvalue()
    for damaged in (b"", b"no", pack[:-30], pack[:40] + b"\xff" + pack[41:]):
        with pytest.raises(Refused, match="OBJECTS_MALFORMED"):
            there.unpack(io.BytesIO(damaged))


@pytest.mark.parametrize(("tree", "code"), [(ZERO_ID, "OBJECT_MISSING"), ("--all", "OBJECT_ID")])
def test_only_a_tree_that_is_there_can_be_packed(here: ObjectStore, tree: str, code: str) -> None:
    with pytest.raises(Gen4Error) as caught:
        packed(here, tree)
    assert caught.value.code == code


FULL_DISK = """
import io, subprocess, sys
from pathlib import Path
from activities.record.objects import ObjectStore
from schemas.error import Gen4Error

subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", sys.argv[1]], check=True)
store = ObjectStore.open(Path(sys.argv[1]) / "objects.git")
for take in (lambda: store.unpack(open(sys.argv[2], "rb")), lambda: store.take_commit(bytes(4_000_000))):
    try:
        take()
    except Gen4Error as error:
        print(error.code)
"""


@pytest.mark.parametrize("files", [1, 300], ids=["few objects", "many objects"])
def test_a_full_disk_is_no_fault_of_what_was_sent(here: ObjectStore, tmp_path: Path, files: int) -> None:
    content: dict[str, str | bytes] = {f"f{number}": os.urandom(4_000_000 // files) for number in range(files)}
    (tmp_path / "pack").write_bytes(packed(here, tree_of(here, tmp_path, content)).getvalue())
    (tmp_path / "small").mkdir()
    command = ["unshare", "--user", "--map-root-user", "--mount", sys.executable, "-c", FULL_DISK]
    done = subprocess.run(
        [*command, str(tmp_path / "small"), str(tmp_path / "pack")], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout.split() == ["STORE_FULL", "OBJECTS_MALFORMED"], done.stderr

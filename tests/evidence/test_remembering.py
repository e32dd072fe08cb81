"""What verification remembers is bound to the very bytes and trees; what failed is tried again."""

from __future__ import annotations

import pytest

from activities.evidence.remembering import Remembering
from schemas.error import Refused


class _Store:
    """Applies a patch by name; ``asked`` are the calls that reached it."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, bytes]] = []
        self.applies = True

    def apply(self, base_tree: str, diff: bytes) -> str:
        self.asked.append((base_tree, diff))
        if not self.applies:
            raise Refused("PATCH_DOES_NOT_APPLY", "no", "send another")
        return f"{base_tree}+{diff.decode()}"

    def snapshot_hash(self, tree: str) -> str:
        return tree[::-1]


def test_each_patch_of_each_tree_is_applied_once() -> None:
    store = _Store()
    repository = Remembering(store)
    for _ in range(2):
        assert [repository.apply(tree, diff) for tree in ("a", "b") for diff in (b"1", b"2")] == ["a+1", "a+2", "b+1", "b+2"]
    assert len(store.asked) == 4 and repository.snapshot_hash("ab") == "ba"


def test_a_patch_that_did_not_apply_is_tried_again() -> None:
    store = _Store()
    repository = Remembering(store)
    store.applies = False
    with pytest.raises(Refused):
        repository.apply("a", b"1")
    store.applies = True
    assert repository.apply("a", b"1") == "a+1"


def test_it_does_not_grow_without_end() -> None:
    repository = Remembering(_Store())
    for number in range(1000):
        repository.apply("a", b"%d" % number)
    assert len(repository._applied) <= 256

"""A repository whose answers are remembered by content: a bundle is verified several times in one process, its patch once."""

from __future__ import annotations

from activities.evidence.case import Repository
from schemas.canonical import sha256_hex

_REMEMBERED = 256


class Remembering:
    """What follows from ids and bytes alone; a patch that does not apply is tried again. The store remembers snapshots itself."""

    def __init__(self, objects: Repository) -> None:
        self._objects = objects
        self._applied: dict[tuple[str, str], str] = {}

    def apply(self, base_tree: str, diff: bytes) -> str:
        key = (base_tree, sha256_hex(diff))
        if (found := self._applied.get(key)) is None:
            found = self._objects.apply(base_tree, diff)
            if len(self._applied) >= _REMEMBERED:
                self._applied.clear()
            self._applied[key] = found
        return found

    def snapshot_hash(self, tree: str) -> str:
        return self._objects.snapshot_hash(tree)

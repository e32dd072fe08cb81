"""Merkle trees as RFC 6962 hashes them: the root over a list of leaves, and the proof that one leaf is among them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

EMPTY_ROOT = hashlib.sha256(b"").digest()


def leaf_hash(leaf: bytes) -> bytes:
    return hashlib.sha256(b"\x00" + leaf).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()


def merkle_root(leaves: Iterable[bytes]) -> bytes:
    """The root over ``leaves`` in their order; keeps no more than one hash a level."""
    complete: list[tuple[int, bytes]] = []  # roots of perfect subtrees with their sizes, largest first
    for leaf in leaves:
        size, root = 1, leaf_hash(leaf)
        while complete and complete[-1][0] == size:
            root = node_hash(complete.pop()[1], root)
            size *= 2
        complete.append((size, root))
    if not complete:
        return EMPTY_ROOT
    _, root = complete.pop()
    while complete:
        root = node_hash(complete.pop()[1], root)
    return root


def inclusion_path(leaves: Sequence[bytes], index: int) -> list[bytes]:
    """Siblings from the leaf up to the root (RFC 6962 §2.1.1).

    Raises:
        IndexError: there is no such leaf.
    """
    if not 0 <= index < len(leaves):
        raise IndexError(f"leaf {index} of {len(leaves)}")
    if len(leaves) == 1:
        return []
    middle = _split(len(leaves))
    if index < middle:
        return [*inclusion_path(leaves[:middle], index), merkle_root(leaves[middle:])]
    return [*inclusion_path(leaves[middle:], index - middle), merkle_root(leaves[:middle])]


def root_of_path(leaf: bytes, index: int, size: int, path: Sequence[bytes]) -> bytes | None:
    """The root of a tree of ``size`` that holds ``leaf`` at ``index``, if ``path`` is its proof; None when it cannot be one."""
    if not 0 <= index < size:
        return None
    if size == 1:
        return None if path else leaf_hash(leaf)
    if not path:
        return None
    middle, sibling = _split(size), path[-1]
    if index < middle:
        below = root_of_path(leaf, index, middle, path[:-1])
        return None if below is None else node_hash(below, sibling)
    below = root_of_path(leaf, index - middle, size - middle, path[:-1])
    return None if below is None else node_hash(sibling, below)


def _split(size: int) -> int:
    """The largest power of two below ``size``."""
    return 1 << (size - 1).bit_length() - 1

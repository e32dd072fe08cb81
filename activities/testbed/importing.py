"""From a patch of unknown origin to trees: what would be delivered, and what is judged (threats 3.4, 4.1)."""

from __future__ import annotations

from dataclasses import dataclass

from activities.record.objects import ObjectStore
from activities.testbed.declared_tests import CONFIGURATION, declared_tests
from schemas.error import InputError, Refused
from schemas.test_paths import is_named, restored_from_base

PATCH_LIMIT = 2 * 1024 * 1024
"""Bytes; also the limit of ``diff.patch`` in a bundle."""


@dataclass(frozen=True)
class Imported:
    """``diff`` is git's own diff of the two trees, never the text that came in."""

    result_tree: str
    harness_tree: str
    diff: bytes
    paths: tuple[str, ...]


def import_patch(objects: ObjectStore, base_tree: str, patch: bytes, named_tests: tuple[str, ...] = ()) -> Imported:
    """Apply ``patch`` to ``base_tree`` and make the tree that the tests run on.

    Args:
        named_tests: of the plan; files that are tests, whatever they are called.

    Raises:
        InputError: PATCH_TOO_LARGE.
        Refused: PATCH_DOES_NOT_APPLY, PATCH_EMPTY, PATCH_PATH.
    """
    if len(patch) > PATCH_LIMIT:
        raise InputError("PATCH_TOO_LARGE", f"the patch has {len(patch)} bytes; the limit is {PATCH_LIMIT}", "split the change")
    result_tree = _applied(objects, base_tree, patch)
    if result_tree == base_tree:
        raise Refused("PATCH_EMPTY", "the patch changes nothing", "send a patch that changes a file")
    diff = objects.diff(base_tree, result_tree)
    if len(diff) > PATCH_LIMIT:
        raise InputError("PATCH_TOO_LARGE", f"the diff has {len(diff)} bytes; the limit is {PATCH_LIMIT}", "split the change")
    paths = objects.changed_paths(base_tree, result_tree)
    if any(not _is_text(path) for path in paths):
        raise Refused("PATCH_PATH", "the patch touches a path that is not UTF-8", "rename the file first")
    return Imported(result_tree, harness_tree(objects, base_tree, result_tree, named_tests), diff, paths)


def _applied(objects: ObjectStore, base_tree: str, patch: bytes) -> str:
    try:
        return objects.apply(base_tree, patch)
    except Refused as error:
        if error.code != "TREE_UNSAFE":
            raise
        raise Refused("PATCH_PATH", error.message, error.remedy) from error


def harness_tree(objects: ObjectStore, base_tree: str, result_tree: str, named_tests: tuple[str, ...] = ()) -> str:
    """The patched tree with the tests and the test configuration of base laid over it; new test files stay."""
    changes = objects.changes(base_tree, result_tree)
    base_paths = set(objects.paths(base_tree))
    declared = declared_tests(objects.files(base_tree, CONFIGURATION).get)
    restored = set(restored_from_base([change.path for change in changes], base_paths))
    changed = [change.path for change in changes if change.path in base_paths]
    restored |= {path for path in changed if path in declared or is_named(path, named_tests)}
    return objects.undo(result_tree, [change for change in changes if change.path in restored]) if restored else result_tree


def _is_text(path: str) -> bool:
    # The store keeps odd bytes of a path as lone surrogates, which no JSON document of ours can hold.
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True

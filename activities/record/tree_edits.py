"""Trees with entries put in and taken out, made of the raw objects; git only has to store what is new."""

from __future__ import annotations

import os
from collections.abc import Mapping

from activities.record.readers import CatFile
from activities.record.trees import FOLDER, Named, git_object_id, read_folder

Made = dict[str, tuple[str, bytes]]
"""Kind and bytes of new objects by id."""


def edit_tree(objects: CatFile, tree: str, edits: Mapping[str, Named | None]) -> tuple[str, Made]:
    """The id of the edited tree and its new folders. Folders that become empty go.

    Args:
        edits: mode and id by path; None takes a file, link or gitlink out. What is put in takes the place of a folder, or of a
            file where it needs a folder.

    Raises: as :func:`activities.record.trees.list_tree`.
    """
    made: Made = {}
    edited = _edit(objects, tree, edits, 0, made) if edits else tree
    return edited or _add(made, b""), made


def _edit(objects: CatFile, folder: str | None, edits: Mapping[str, Named | None], depth: int, made: Made) -> str | None:
    """None for a folder that is empty now."""
    before = read_folder(objects, folder, depth) if folder is not None else {}
    entries = dict(before)
    below: dict[str, dict[str, Named | None]] = {}
    for path, entry in edits.items():
        name, slash, rest = path.partition("/")
        if slash:
            below.setdefault(name, {})[rest] = entry
        elif entry is not None:
            entries[name] = entry
        elif entries.get(name, (FOLDER, ""))[0] != FOLDER:
            del entries[name]
    for name, inner in below.items():
        mode, oid = entries.get(name, ("", ""))
        if mode != FOLDER and not any(inner.values()):
            continue  # there is nothing to take out
        child = _edit(objects, oid if mode == FOLDER else None, inner, depth + 1, made)
        if child is not None:
            entries[name] = (FOLDER, child)
        else:
            del entries[name]
    if entries == before:
        return folder
    return _add(made, _encode(entries)) if entries else None


def _encode(entries: Mapping[str, Named]) -> bytes:
    """As git writes a tree object: sorted as if names of folders ended with a slash."""
    lines = [
        (os.fsencode(name) + (b"/" if mode == FOLDER else b""), mode.lstrip("0").encode() + b" " + os.fsencode(name), oid)
        for name, (mode, oid) in entries.items()
    ]
    return b"".join(head + b"\0" + bytes.fromhex(oid) for _, head, oid in sorted(lines))


def _add(made: Made, data: bytes) -> str:
    oid = git_object_id("tree", data)
    made[oid] = "tree", data
    return oid

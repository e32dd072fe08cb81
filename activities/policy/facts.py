"""Typed facts about a patch and a request; Rego judges them. Pure, and total over whatever an attacker may have written.

Facts come from the two trees, not from the text of the diff: a second parser of diffs would disagree with git somewhere.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Literal, NamedTuple

from activities.policy.encodings import Reading, reading_of
from activities.policy.spelling import fold, hidden_characters, is_git_name, is_plain_path, printable
from schemas.model import Payload

MAX_TEXT_BYTES = 4 * 1024 * 1024
"""A changed file larger than this is not looked at: it counts as binary."""

LFS_MARK = b"version https://git-lfs.github.com/spec/"
RUNNER_MODULES = frozenset(
    {
        *("pytest", "_pytest", "py", "pluggy", "iniconfig", "packaging", "pygments", "coverage", "pip", "setuptools"),
        *("tomli", "exceptiongroup", "colorama", "attr", "attrs", "execnet", "xdist", "anyio", "hypothesis"),
        *("_hypothesis_pytestplugin", "_hypothesis_globals", "_hypothesis_ftz_detector", "typeguard", "faker", "pyfakefs"),
    }
)
"""Modules of the test runner, of what it imports before the target's own code, and of plugins not named ``pytest_*``."""

_PATH = frozenset({"", "src"})
"""Folders from which tests import product code by default."""
_TEST_FOLDERS = frozenset({"test", "tests", "testing"})

Import = tuple[str, str]
"""A name, and the folder that must be on the path for it to be found."""

_KINDS = {"100644": "regular", "100755": "regular", "100664": "regular", "120000": "symlink", "160000": "gitlink"}


class Side(NamedTuple):
    """One file of a tree."""

    mode: str
    oid: str
    size: int | None
    """Bytes; None where the tree does not say (gitlinks)."""


class FileFacts(Payload):
    path: str
    folded: tuple[str, ...]
    """Segments as a lenient file system compares them: NFC, casefolded, without ignorable characters, streams, end dots."""
    change: Literal["added", "deleted", "modified"]
    git: bool
    plain: bool
    kinds: tuple[str, ...]
    modes: tuple[str, ...]
    binary: bool
    misread: str
    """Why Python would read the new file as something else than people do; or empty."""
    lfs: bool
    hidden: tuple[str, ...]
    shadows: tuple[str, ...]


class PatchFacts(Payload):
    size_bytes: int
    canonical: bool
    collisions: tuple[str, ...]
    files: tuple[FileFacts, ...]


def patch_facts(
    base: Mapping[str, Side], result: Mapping[str, Side], read: Callable[[str], bytes], *, diff: bytes, canonical: bytes
) -> PatchFacts:
    """What distinguishes two trees.

    Args:
        base, result: all files of each tree by path (undecodable bytes as surrogates).
        read: content of a blob by its id.
        diff: the patch as it will be attested; ``canonical``: what git writes for the two trees.
    """
    changed = sorted(path for path in base.keys() | result.keys() if base.get(path) != result.get(path))
    before, after = _Modules(base), _Modules(result)
    return PatchFacts(
        size_bytes=len(diff),
        canonical=diff == canonical,
        collisions=tuple(printable(path) for path in _collisions(result, [path for path in changed if path not in base])),
        files=tuple(_file_facts(path, base.get(path), result.get(path), read, before, after) for path in changed),
    )


def _file_facts(
    path: str, old: Side | None, new: Side | None, read: Callable[[str], bytes], before: _Modules, after: _Modules
) -> FileFacts:
    sides = [side for side in (old, new) if side is not None]
    texts = {side.oid: _content(side, read) for side in sides}
    old_bytes, new_bytes = (texts[side.oid] or b"" if side is not None else b"" for side in (old, new))
    folded = tuple(printable(fold(segment)) for segment in path.split("/"))
    binary = any(content is None or b"\0" in content for content in texts.values())
    reading = reading_of(path, new_bytes)
    if reading != reading_of(path, old_bytes):
        old_bytes = b""  # every line says something else now
    added = () if binary else _added_lines(old_bytes, new_bytes, reading)
    return FileFacts(
        path=printable(path),
        folded=folded,
        change="added" if old is None else "deleted" if new is None else "modified",
        git=any(is_git_name(segment) for segment in path.split("/")),
        plain=is_plain_path(path),
        kinds=tuple(sorted({_KINDS.get(side.mode, f"file of mode {side.mode}") for side in sides})),
        modes=tuple(dict.fromkeys(side.mode for side in sides)),
        binary=binary,
        misread=reading.problem,
        lfs=any(content is not None and content.startswith(LFS_MARK) for content in texts.values()),
        hidden=tuple(sorted({name for text in (path, *added) for name in hidden_characters(text)})),
        shadows=tuple(sorted(_shadows(after.top_level(path), before))) if new else (),
    )


def _shadows(provided: set[Import], before: _Modules) -> Iterator[str]:
    """Names that a file makes importable where something else was imported before: the runner's, or the target's own.

    A copy of a product module beside the tests, or in ``src`` of a flat project, would be tested in its place.
    """
    for name, folder in provided:
        places = before.places.get(name, set())
        if (not places and is_taken(name)) or (places and folder not in places and _on_path(folder) and _PATH & places):
            yield name


def _on_path(folder: str) -> bool:
    return folder in _PATH or not _TEST_FOLDERS.isdisjoint(fold(part) for part in folder.split("/"))


def _content(side: Side, read: Callable[[str], bytes]) -> bytes | None:
    if _KINDS.get(side.mode) not in ("regular", "symlink") or (side.size or 0) > MAX_TEXT_BYTES:
        return None
    return read(side.oid)


def _added_lines(old: bytes, new: bytes, reading: Reading) -> tuple[str, ...]:
    """The lines that ``new`` has more often than ``old``, as each reads them. What was there before is not the patch's doing."""
    lines = Counter(new.split(b"\n"))
    lines.subtract(Counter(old.split(b"\n")))
    added = b"\n".join(line for line, count in lines.items() if count > 0)
    return reading.texts(added)


def _collisions(result: Mapping[str, Side], added: list[str]) -> list[str]:
    """Added paths that fold to the same as another path, or that need a folder which folds to the same as another."""
    spellings: dict[tuple[str, ...], set[str]] = {}
    for path in result:
        for prefix in _prefixes(path):
            spellings.setdefault(tuple(fold(part) for part in prefix.split("/")), set()).add(prefix)
    ambiguous = {prefix for variants in spellings.values() if len(variants) > 1 for prefix in variants}
    return sorted(path for path in added if path in result and ambiguous.intersection(_prefixes(path)))


def _prefixes(path: str) -> Iterator[str]:
    parts = path.split("/")
    return ("/".join(parts[:length]) for length in range(1, len(parts) + 1))


class _Modules:
    """Which names the files of a tree make importable from somewhere: any folder may be put on the path (src/, tests/)."""

    def __init__(self, files: Mapping[str, Side]) -> None:
        self._packages = {path.rpartition("/")[0] for path in files if fold(path.rpartition("/")[2]) == "__init__.py"}
        self.places: dict[str, set[str]] = {}
        for path in files:
            for name, folder in self.top_level(path):
                self.places.setdefault(name, set()).add(folder)

    def top_level(self, path: str) -> set[Import]:
        """By which folded names, from which folders, ``path`` could be imported without going through a regular package."""
        folder, _, name = path.rpartition("/")
        parts = folder.split("/") if folder else []
        stem, _, suffix = fold(name).partition(".")
        if suffix not in ("py", "pyc", "pyd", "so") and not suffix.endswith((".so", ".pyd", ".pyc")):
            return set()
        if stem == "__init__":
            return {self._outermost(parts[:-1], parts[-1])} if parts else set()
        return {self._outermost(parts, stem)}

    def _outermost(self, parents: list[str], name: str) -> Import:
        while parents and "/".join(parents) in self._packages:
            name, parents = parents[-1], parents[:-1]
        return fold(name), "/".join(parents)


def is_taken(module: str) -> bool:
    """Whether a module of this (folded) name would take the place of the standard library's, the runner's or a plugin's."""
    return module in _STDLIB or module in RUNNER_MODULES or module.startswith("pytest_")


_STDLIB = frozenset(fold(name) for name in sys.stdlib_module_names)

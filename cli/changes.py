"""Which change CI means: a patch file, standard input, or the difference of two commits of a clone that may be shallow.

git never runs in the clone itself: commits are fetched into a store of our own, by the rules of every other fetch (threats 3.2).

The base of ``--head`` without ``--base`` is the first parent: of a merge commit, what was merged into; of any other, the commit
before it. With ``--base`` it is the merge base of both, so that what others committed to the base since is not taken back.
"""

from __future__ import annotations

import re
import shlex
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from activities.record.blobs import BlobStore
from activities.record.home import Home
from activities.record.objects import ObjectStore
from activities.record.remotes import find_local
from activities.testbed.importing import PATCH_LIMIT
from schemas.error import Gen4Error, InputError
from schemas.model import BlobRef

INLINE_LIMIT = 1024 * 1024
"""A larger patch goes to the content store: the server takes no larger argument."""
_REVISION = re.compile(r"(.+?)((?:\^[0-9]?|~[0-9]{1,4})*)")
_STEP = re.compile(r"\^([0-9]?)|~([0-9]+)")
_ID = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class Change:
    """``ref``: the commit, branch or tag that ``diff`` applies to."""

    ref: str
    diff: bytes


def toplevel(repository: str) -> Path:
    """The local repository that a path is in: the path itself, or the nearest folder above it that has ``.git``."""
    path = Path(repository).expanduser().absolute()
    return next((folder for folder in (path, *path.parents) if (folder / ".git").exists()), path)


def read_patch(path: Path) -> bytes:
    """The bytes of a file, or of standard input for ``-``.

    Raises:
        InputError: PATCH_NOT_FOUND, PATCH_TOO_LARGE, PATCH_EMPTY.
    """
    try:
        with nullcontext(sys.stdin.buffer) if str(path) == "-" else path.open("rb") as file:
            data = file.read(PATCH_LIMIT + 1)
    except OSError as error:
        raise InputError("PATCH_NOT_FOUND", f"cannot read {path}: {error.strerror}", "name a file with a git diff") from error
    return _bounded(data)


def between(home: Home, repository: Path, base: str, head: str) -> Change:
    """What ``head`` changes.

    Args:
        base: revision, or empty for the first parent of ``head``.

    Raises:
        InputError: REF_INVALID, REF_NOT_FOUND, BASE_MISSING, BASE_UNRELATED, PATCH_EMPTY, PATCH_TOO_LARGE; what a fetch raises.
    """
    shallow = (find_local(str(repository)).common / "shallow").exists()
    with _store(home, shallow) as objects:
        clone = _Clone(objects, str(repository), shallow)
        head_id = clone.commit(head)
        base_id = clone.base(clone.commit(base), head_id) if base else clone.parent(head_id, 1)
        diff = objects.diff(objects.commit(base_id).tree, objects.commit(head_id).tree)
    return Change(base_id, _bounded(diff))


def named(home: Home, repository: Path, *revisions: str) -> tuple[str, ...]:
    """The commits that revisions of a clone name.

    Raises:
        InputError: REF_INVALID, REF_NOT_FOUND, BASE_MISSING; what a fetch raises.
    """
    shallow = (find_local(str(repository)).common / "shallow").exists()
    with _store(home, shallow) as objects:
        clone = _Clone(objects, str(repository), shallow)
        return tuple(clone.commit(revision) for revision in revisions)


def applied_to(home: Home, repository: Path, base: str) -> str:
    """What a patch applies to, in words that the fabric knows: ``base`` where the repository has it, else its commit.

    Raises:
        InputError: REF_INVALID, REF_NOT_FOUND, BASE_MISSING; what a fetch raises.
    """
    shallow = (find_local(str(repository)).common / "shallow").exists()
    with _store(home, shallow) as objects:
        commit = _Clone(objects, str(repository), shallow).commit(base)
        try:
            return base if objects.fetch(str(repository), base).commit == commit else commit
        except Gen4Error:
            return commit


def as_request(home: Home, tenant: str, diff: bytes) -> dict[str, str | BlobRef]:
    """``patch`` or ``patch_ref`` of a CompileRequest. What JSON or the server cannot hold goes to the content store."""
    try:
        if len(diff) <= INLINE_LIMIT:
            return {"patch": diff.decode()}
    except UnicodeDecodeError:
        pass
    return {"patch_ref": BlobStore(home.blobs, tenant).put(diff, "text/x-diff")}


@dataclass(frozen=True)
class _Clone:
    """Revisions of one repository, whose commits are fetched as they are named."""

    objects: ObjectStore
    repository: str
    shallow: bool

    def commit(self, revision: str) -> str:
        """``NAME``, ``NAME^``, ``NAME^2``, ``NAME~3`` …; NAME: ``HEAD``, a branch, tag, full ref, ``origin/NAME`` or full id."""
        found = _REVISION.fullmatch(revision)
        if found is None:
            raise InputError("REF_INVALID", "the revision is empty", "name a branch, a tag, a commit or HEAD")
        commit = self._named(found[1])
        for step in _STEP.finditer(found[2]):
            if step[2] is not None:
                for _ in range(int(step[2])):
                    commit = self.parent(commit, 1)
            elif step[1] != "0":
                commit = self.parent(commit, int(step[1] or 1))
        return commit

    def parent(self, commit: str, number: int) -> str:
        parents = self.objects.commit(commit).parents
        if number > len(parents):
            message = f"{commit} has {len(parents)} parents" if parents else f"{commit} is the first commit: it changes nothing"
            raise InputError("REF_NOT_FOUND", message, "name another commit with --base or --head")
        return self._fetched(parents[number - 1])

    def base(self, base: str, head: str) -> str:
        """The merge base. A parent is one whatever a shallow clone knows of its history."""
        if base in self.objects.commit(head).parents:
            return base
        found = self.objects.merge_base(base, head)
        if found is not None:
            return found
        if self.shallow:
            raise InputError(
                "BASE_UNRELATED", f"this shallow clone does not reach back to where {base} and {head} parted",
                "git fetch --no-tags --unshallow origin",
            )  # fmt: skip
        raise InputError("BASE_UNRELATED", f"{base} and {head} have no common history", "name a base that the head was built on")

    def _named(self, name: str) -> str:
        try:
            return self._fetched(name)
        except InputError as error:
            if error.code != "REF_NOT_FOUND" or name == "HEAD" or name.startswith("refs/") or _ID.fullmatch(name):
                raise
        try:
            return self._fetched(f"refs/remotes/{name}" if "/" in name else f"refs/remotes/origin/{name}")
        except InputError as error:
            if error.code != "REF_NOT_FOUND":
                raise
            short = name.removeprefix("origin/")
            wanted = shlex.quote(f"+refs/heads/{short}:refs/remotes/origin/{short}")
            raise InputError(
                "REF_NOT_FOUND", f"this clone has no branch, tag or remote branch {name}",
                f"git fetch --no-tags{' --depth=1' * self.shallow} origin {wanted}, or give all 40 digits of a commit",
            ) from error  # fmt: skip

    def _fetched(self, name: str) -> str:
        try:
            return self.objects.fetch(self.repository, name).commit
        except Gen4Error as error:
            if not _ID.fullmatch(name) or error.code not in ("REF_NOT_FOUND", "REPOSITORY_NOT_FOUND", "OBJECT_MISSING"):
                raise
            depth = " --depth=1" * self.shallow
            raise InputError(
                "BASE_MISSING", f"commit {name} is not in this {'shallow ' * self.shallow}clone",
                f"git fetch --no-tags{depth} origin {name}",
            ) from error  # fmt: skip


@contextmanager
def _store(home: Home, shallow: bool) -> Iterator[ObjectStore]:
    """The home's store, unless one of both lacks history: a merge base is sought in what one clone alone knows."""
    if not shallow and not (home.objects / "shallow").exists():
        yield ObjectStore.open(home.objects)
        return
    with tempfile.TemporaryDirectory(prefix="gen4-change-") as folder:
        yield ObjectStore.open(Path(folder) / "objects.git")


def _bounded(diff: bytes) -> bytes:
    if not diff.strip():
        raise InputError("PATCH_EMPTY", "there is no change", "give a git diff, or two commits that differ")
    if len(diff) > PATCH_LIMIT:
        raise InputError("PATCH_TOO_LARGE", f"a patch may have {PATCH_LIMIT} bytes", "split the change")
    return diff

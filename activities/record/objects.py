"""Our own git object store: one bare repository that nothing fetches from (threats 3.1-3.3, 3.5).

Repositories of others are only read by fetching and written by pushing; everything else happens on objects in here.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, BinaryIO

from activities.record import commits, packs, transfer
from activities.record.commits import CommitInfo
from activities.record.git import Git, GitFailed, object_id, require_git
from activities.record.readers import Readers
from activities.record.remotes import Protocol, check_ref, parse_remote
from activities.record.transfer import FetchedCommit, PushReceipt
from activities.record.tree_edits import Made, edit_tree
from activities.record.trees import (
    EPOCH_MTIME,
    Named,
    TreeEntry,
    check_path,
    compare_trees,
    find_files,
    git_object_id,
    list_tree,
    read_tree,
    write_tar,
)
from schemas.error import InfrastructureError, Refused
from schemas.model import ZERO_ID

_ABSENT = ("000000", ZERO_ID)
LOCAL_ONLY: frozenset[Protocol] = frozenset({"file"})
_CACHED_DIGESTS = 50_000
"""About 12 MB: a large repository, whose steps then cost only what changed."""
_CACHED_SNAPSHOTS = 1_000
_DIFF_OPTIONS = (
    "--patch", "-r", "--full-index", "--binary", "--no-renames", "--no-ext-diff", "--no-textconv", "--no-color",
    "--diff-algorithm=myers", "--indent-heuristic", "--unified=3", "--inter-hunk-context=0", "--src-prefix=a/",
    "--dst-prefix=b/", "--no-relative", "--submodule=short", "--ignore-submodules=none",
)  # fmt: skip


@dataclass(frozen=True)
class Change:
    """One changed path; an id or mode of zeros stands for absent."""

    path: str
    status: str
    """``A`` added, ``D`` deleted, ``M`` changed, ``T`` another kind of entry."""
    old_mode: str
    new_mode: str
    old_oid: str
    new_oid: str


class ObjectStore:
    """Methods take and return git ids; every one may be called from several threads and processes at once."""

    def __init__(self, path: Path) -> None:
        self._git = Git(path)
        self._readers = Readers(self._git)
        self._content: dict[str, str] = {}
        self._snapshots: dict[str, str] = {}

    @classmethod
    def open(cls, path: Path) -> ObjectStore:
        """Open or create the bare repository at the absolute ``path``.

        Raises:
            InfrastructureError: OBJECTS_UNUSABLE when there is something else; TOOL_MISSING or TOOL_TOO_OLD for git.
        """
        require_git()
        if not path.exists():
            _create(path)
        if not (path / "HEAD").is_file() or not (path / "objects").is_dir():
            raise InfrastructureError("OBJECTS_UNUSABLE", f"{path} is not a bare git repository", "move it away")
        return cls(path)

    # --- other repositories ------------------------------------------------------------------------------------------

    def ls_remote(self, repository: str, ref: str, allow: Collection[str] = LOCAL_ONLY) -> str | None:
        """The object id of exactly this full ref (or ``HEAD``), or None if the repository has no such ref."""
        return transfer.head(self._git, parse_remote(repository, allow), check_ref(ref))

    def fetch(self, repository: str, ref: str, allow: Collection[str] = LOCAL_ONLY) -> FetchedCommit:
        """Bring a commit with its history into the store; it stays reachable for ever.

        Args:
            repository: absolute path, or an https or ssh URL.
            ref: branch, tag, full ref, ``HEAD`` or 40 hex digits.
            allow: transports that may be used.

        Raises:
            InputError: REPOSITORY_INVALID, REPOSITORY_NOT_FOUND, REF_INVALID, REF_NOT_FOUND, REF_AMBIGUOUS.
            Refused: PROTOCOL_REFUSED, REPOSITORY_OWNER, OBJECTS_MALFORMED.
            InfrastructureError: FETCH_FAILED where the network may be at fault.
        """
        return transfer.fetch(self._git, self._readers, parse_remote(repository, allow), ref)

    def push(
        self, repository: str, commit: str, ref: str, expected_head: str, allow: Collection[str] = LOCAL_ONLY
    ) -> PushReceipt:
        """Move a branch of another repository from ``expected_head`` to ``commit``, which must follow it; then read it back.

        Hooks of a local repository do not run. Pushing what is there already does nothing.

        Args:
            ref: full name, ``refs/heads/…``.
            expected_head: commit id that the branch has now, or 40 zeros for a branch that does not exist.

        Raises:
            Refused: TARGET_CHANGED, TARGET_CHECKED_OUT, TARGET_SYMBOLIC, NOT_FAST_FORWARD, PUSH_REJECTED, and what fetch raises.
            InfrastructureError: PUSH_FAILED when it is not known to have worked.
        """
        return transfer.push(self._git, parse_remote(repository, allow), commit, ref, expected_head)

    # --- reading -----------------------------------------------------------------------------------------------------

    def commit(self, commit: str) -> CommitInfo:
        """Raises: InputError OBJECT_ID when the object is no commit; InfrastructureError OBJECT_MISSING."""
        with self._readers.reading() as objects:
            return commits.read_commit(objects, commit)

    def is_ancestor(self, commit: str, head: str) -> bool:
        """Whether ``head`` is ``commit`` or was built on it; both are in the store."""
        return commits.is_ancestor(self._git, commit, head)

    def merge_base(self, one: str, other: str) -> str | None:
        """The best common ancestor of two commits in the store; None where the histories at hand show none."""
        return commits.merge_base(self._git, one, other)

    def entries(self, tree: str) -> list[TreeEntry]:
        """All files, links and gitlinks, sorted by path. Each tree object is hashed again on the way."""
        with self._readers.reading() as objects:
            return read_tree(objects, tree)

    def paths(self, tree: str) -> list[str]:
        """Paths of all files, links and gitlinks, sorted."""
        with self._readers.reading() as objects:
            return [path for path, _, _ in list_tree(objects, tree)]

    def read(self, oid: str) -> bytes:
        """The bytes of one object, hashed again."""
        with self._readers.reading() as objects:
            return objects.read(oid)[1]

    def read_many(self, oids: Iterable[str]) -> Iterator[tuple[str, bytes]]:
        """Objects in the given order, one in memory at a time."""
        with self._readers.reading() as objects:
            for oid in oids:
                yield oid, objects.read(oid)[1]

    def file(self, tree: str, path: str) -> bytes | None:
        """The content of a regular file, or None where the tree has no such file (links are not followed)."""
        return self.files(tree, (path,)).get(path)

    def files(self, tree: str, paths: Iterable[str]) -> dict[str, bytes]:
        """The contents of those of ``paths`` that are regular files of the tree."""
        with self._readers.reading() as objects:
            return {path: objects.read(oid)[1] for path, oid in find_files(objects, tree, paths).items()}

    def tar(self, tree: str, out: BinaryIO, mtime: int = EPOCH_MTIME) -> tuple[str, ...]:
        """Write the tree to ``out`` as a deterministic tar; return the paths left out.

        Left out are gitlinks and links that lead out of the tree. No attribute, filter or configuration has a say.

        Args:
            mtime: time of every entry, UTC seconds; the default is the first that zip archives can hold.
        """
        with self._readers.reading() as objects:
            return write_tar(objects, read_tree(objects, tree), out, mtime)

    def snapshot_hash(self, tree: str) -> str:
        """sha256 over the sorted lines ``mode SP sha256 SP path LF`` of all files and links (contracts §9)."""
        if (found := self._snapshots.get(tree)) is None:
            with self._readers.reading() as objects:
                listed = list_tree(objects, tree)
            found = self._snapshot_of([entry for entry in listed if entry[1] != "160000"])
            if len(self._snapshots) >= _CACHED_SNAPSHOTS:
                self._snapshots.clear()
            self._snapshots[tree] = found
        return found

    def _snapshot_of(self, entries: list[tuple[str, str, str]]) -> str:
        if len(self._content) > _CACHED_DIGESTS:
            self._content.clear()
        wanted = {oid for _, _, oid in entries}
        known = {oid: digest for oid in wanted if (digest := self._content.get(oid)) is not None}  # others may clear it
        for oid, data in self.read_many(sorted(wanted - known.keys())):
            known[oid] = self._content[oid] = hashlib.sha256(data).hexdigest()
        lines = [f"{mode} {known[oid]} ".encode() + os.fsencode(path) + b"\n" for path, mode, oid in entries]
        return hashlib.sha256(b"".join(sorted(lines))).hexdigest()

    # --- trees and diffs ---------------------------------------------------------------------------------------------

    def write_tree(self, base_tree: str, edits: Mapping[str, bytes | None]) -> str:
        """The tree that has the edits: new content of regular files, None to delete. Modes are kept; new files get 100644.

        Raises:
            Refused: TREE_UNSAFE for such a path; EDIT_REFUSED for a link, a gitlink, or a file where a folder is.
        """
        with self._readers.reading() as objects:
            modes = {path: mode for path, mode, _ in list_tree(objects, base_tree)}
        entries: dict[str, Named | None] = {}
        new: Made = {}
        for path, content in sorted(edits.items()):
            mode = modes.get(check_path(path), "100644")
            _refuse_edit(path, mode, modes)
            if content is None:
                entries[path] = None
            else:
                oid = git_object_id("blob", content)
                new[oid], entries[path] = ("blob", content), (mode, oid)
        return self._edited(base_tree, entries, new)

    def undo(self, tree: str, changes: Iterable[Change]) -> str:
        """``tree`` with each of these changes taken back: old modes and contents return, additions go.

        Where something of ``tree`` is in the way of what returns (a file where a folder was), it goes too.
        """
        old = {change.path: (change.old_mode, change.old_oid) if int(change.old_oid, 16) else None for change in changes}
        return self._edited(tree, old, {})

    def diff(self, base: str, result: str) -> bytes:
        """The canonical git diff of two trees: full ids, no renames, three lines of context, sorted by path."""
        return self._git.run("diff-tree", *_DIFF_OPTIONS, object_id(base), object_id(result), "--")

    def apply(self, base_tree: str, diff: bytes) -> str:
        """The tree that a git diff makes of ``base_tree``; context must match exactly.

        Raises:
            Refused: PATCH_DOES_NOT_APPLY, TREE_UNSAFE.
        """

        def change(environment: Mapping[str, str]) -> None:
            options = ("--cached", "--whitespace=nowarn", "-p1", "--no-3way", "--binary")
            try:
                self._git.run("apply", *options, "-", stdin=diff, environment=environment)
            except GitFailed as error:
                raise Refused(
                    "PATCH_DOES_NOT_APPLY", f"git apply: {error.detail}", "send a git diff against exactly the base commit"
                ) from error

        tree = self._with_index(base_tree, change)
        for path in self.changed_paths(base_tree, tree):
            check_path(path)
        return tree

    def changed_paths(self, base: str, result: str) -> tuple[str, ...]:
        """Paths that differ between two trees, sorted."""
        return tuple(change.path for change in self.changes(base, result))

    def changes(self, base: str, result: str) -> tuple[Change, ...]:
        """What differs between two trees, with modes and ids, sorted by path; a rename is a deletion and an addition."""
        with self._readers.reading() as objects:
            found = [_change(*differing) for differing in compare_trees(objects, base, result)]
        return tuple(sorted(found, key=lambda change: os.fsencode(change.path)))

    def commit_tree(
        self,
        tree: str,
        parents: Iterable[str],
        message: str,
        author: str,
        committer: str,
        date: int,
        signing_key: Path,
    ) -> str:
        """A commit signed with an SSH key; the same arguments and an Ed25519 key give the same id.

        Args:
            author: ``Name <mail>``, likewise ``committer``.
            date: UTC seconds, for both.
            signing_key: private key file.

        Raises:
            InputError: PERSON_INVALID.
            InfrastructureError: TOOL_MISSING, GIT_FAILED when the key cannot sign.
        """
        return commits.write_commit(self._git, tree, parents, message, author, committer, date, signing_key)

    # --- to and from other processes of ours -------------------------------------------------------------------------

    def pack(self, tree: str, out: IO[bytes], known: Iterable[str] = ()) -> None:
        """Write all objects of a tree to ``out``, but those of the trees that the other side has whole.

        Raises:
            InfrastructureError: OBJECT_MISSING.
        """
        packs.write_pack(self._git, tree, out, known)

    def unpack(self, pack: IO[bytes]) -> None:
        """Take what another process packed; each object keeps the id of its bytes. Raises Refused OBJECTS_MALFORMED."""
        packs.read_pack(self._git, pack)

    def has_tree(self, tree: str) -> bool:
        """Whether the tree is here with everything below it."""
        return packs.has_tree(self._git, tree)

    def take_commit(self, data: bytes) -> str:
        """The id of a commit of which these are the raw bytes; it is in the store now. Raises Refused OBJECTS_MALFORMED."""
        return packs.write_object(self._git, "commit", data)

    # --- private -----------------------------------------------------------------------------------------------------

    def _edited(self, tree: str, entries: Mapping[str, Named | None], new: Made) -> str:
        with self._readers.reading() as objects:
            edited, folders = edit_tree(objects, tree, entries)
            new = {**new, **folders}
            missing = objects.missing(new)
        if missing:
            packs.write_objects(self._git, [new[oid] for oid in missing])
        return edited

    def _with_index(self, base_tree: str, change: Callable[[Mapping[str, str]], None]) -> str:
        with tempfile.TemporaryDirectory(prefix="index-", dir=self._git.directory) as folder:
            environment = {"GIT_INDEX_FILE": str(Path(folder) / "index")}
            self._git.run("read-tree", object_id(base_tree), environment=environment)
            change(environment)
            return self._git.run("write-tree", environment=environment).decode().strip()


def _create(path: Path) -> None:
    # Made beside and renamed: another process never sees half a repository.
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="objects-", dir=path.parent) as folder:
        fresh = Path(folder) / "new"
        fresh.mkdir(mode=0o700)
        git = Git(fresh)
        git.run("init", "--quiet", "--bare", "--template=", "--object-format=sha1", "--initial-branch=none")
        for name, value in (("gc.auto", "0"), ("gc.pruneExpire", "never"), ("gc.reflogExpire", "never")):
            git.run("config", name, value)
        try:
            fresh.rename(path)
        except OSError:
            if not path.is_dir():
                raise  # not the race that we allow for


def _refuse_edit(path: str, mode: str, modes: Mapping[str, str]) -> None:
    if mode not in {"100644", "100755"}:
        raise Refused("EDIT_REFUSED", f"{path!a} is a link or a submodule", "edit regular files only")
    parents = [path[:index] for index, char in enumerate(path) if char == "/"]
    if any(parent in modes for parent in parents) or any(other.startswith(path + "/") for other in modes):
        raise Refused("EDIT_REFUSED", f"{path!a} would take the place of a folder, or lie in a file", "choose another path")


def _change(path: str, before: Named | None, after: Named | None) -> Change:
    if before is None or after is None:
        status = "A" if before is None else "D"
    else:
        status = "M" if before[0][:3] == after[0][:3] else "T"
    old, new = before or _ABSENT, after or _ABSENT
    return Change(path=path, status=status, old_mode=old[0], new_mode=new[0], old_oid=old[1], new_oid=new[1])

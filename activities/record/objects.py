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
from activities.record.remotes import Protocol, check_ref, parse_remote
from activities.record.transfer import FetchedCommit, PushReceipt
from activities.record.trees import EPOCH_MTIME, TreeEntry, cat_file, check_path, read_tree, write_tar
from schemas.error import InfrastructureError, Refused
from schemas.model import ZERO_ID

LOCAL_ONLY: frozenset[Protocol] = frozenset({"file"})
_CACHED_DIGESTS = 50_000
"""About 12 MB: a large repository, whose steps then cost only what changed."""
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
        self._content: dict[str, str] = {}

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
        return transfer.fetch(self._git, parse_remote(repository, allow), ref)

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
        return commits.read_commit(self._git, commit)

    def is_ancestor(self, commit: str, head: str) -> bool:
        """Whether ``head`` is ``commit`` or was built on it; both are in the store."""
        return commits.is_ancestor(self._git, commit, head)

    def merge_base(self, one: str, other: str) -> str | None:
        """The best common ancestor of two commits in the store; None where the histories at hand show none."""
        return commits.merge_base(self._git, one, other)

    def entries(self, tree: str) -> list[TreeEntry]:
        """All files, links and gitlinks, sorted by path. Each tree object is hashed again on the way."""
        return read_tree(self._git, tree)

    def read(self, oid: str) -> bytes:
        """The bytes of one object, hashed again."""
        with cat_file(self._git) as objects:
            return objects.read(oid)[1]

    def read_many(self, oids: Iterable[str]) -> Iterator[tuple[str, bytes]]:
        """Objects in the given order, one in memory at a time."""
        with cat_file(self._git) as objects:
            for oid in oids:
                yield oid, objects.read(oid)[1]

    def file(self, tree: str, path: str) -> bytes | None:
        """The content of a regular file, or None where the tree has no such file (links are not followed)."""
        return self.files(tree, (path,)).get(path)

    def files(self, tree: str, paths: Iterable[str]) -> dict[str, bytes]:
        """The contents of those of ``paths`` that are regular files of the tree."""
        if not (wanted := [check_path(path) for path in paths]):
            return {}  # git would list all
        listing = self._git.run("ls-tree", "-z", "--full-tree", "--end-of-options", object_id(tree), *wanted)
        found: dict[str, str] = {}
        for line in listing.split(b"\0")[:-1]:
            facts, _, path = line.partition(b"\t")
            mode, kind, oid = facts.decode().split()
            if kind == "blob" and mode != "120000":
                found[os.fsdecode(path)] = oid
        return dict(zip(found, (data for _, data in self.read_many(found.values())), strict=True)) if found else {}

    def tar(self, tree: str, out: BinaryIO, mtime: int = EPOCH_MTIME) -> tuple[str, ...]:
        """Write the tree to ``out`` as a deterministic tar; return the paths left out.

        Left out are gitlinks and links that lead out of the tree. No attribute, filter or configuration has a say.

        Args:
            mtime: time of every entry, UTC seconds; the default is the first that zip archives can hold.
        """
        return write_tar(self._git, self.entries(tree), out, mtime)

    def snapshot_hash(self, tree: str) -> str:
        """sha256 over the sorted lines ``mode SP sha256 SP path LF`` of all files and links (contracts §9)."""
        entries = [entry for entry in self.entries(tree) if entry.type == "blob"]
        if len(self._content) > _CACHED_DIGESTS:
            self._content.clear()
        unknown = sorted({entry.oid for entry in entries} - self._content.keys())
        for oid, data in self.read_many(unknown):
            self._content[oid] = hashlib.sha256(data).hexdigest()
        lines = [f"{entry.mode} {self._content[entry.oid]} ".encode() + os.fsencode(entry.path) + b"\n" for entry in entries]
        return hashlib.sha256(b"".join(sorted(lines))).hexdigest()

    # --- trees and diffs ---------------------------------------------------------------------------------------------

    def write_tree(self, base_tree: str, edits: Mapping[str, bytes | None]) -> str:
        """The tree that has the edits: new content of regular files, None to delete. Modes are kept; new files get 100644.

        Raises:
            Refused: TREE_UNSAFE for such a path; EDIT_REFUSED for a link, a gitlink, or a file where a folder is.
        """
        modes = {entry.path: entry.mode for entry in self.entries(base_tree)}
        lines: list[bytes] = []
        for path, content in sorted(edits.items()):
            mode = modes.get(check_path(path), "100644")
            _refuse_edit(path, mode, modes)
            if content is None:
                if path in modes:
                    lines.append(f"0 {ZERO_ID}\t".encode() + os.fsencode(path))
                continue
            oid = self._git.run("hash-object", "-w", "--stdin", "--no-filters", stdin=content).decode().strip()
            lines.append(f"{mode} {oid}\t".encode() + os.fsencode(path))

        def change(environment: Mapping[str, str]) -> None:
            listing = b"".join(line + b"\0" for line in lines)
            self._git.run("update-index", "-z", "--index-info", stdin=listing, environment=environment)

        return self._with_index(base_tree, change)

    def undo(self, tree: str, changes: Iterable[Change]) -> str:
        """``tree`` with each of these changes taken back: old modes and contents return, additions go.

        Where something of ``tree`` is in the way of what returns (a file where a folder was), it goes too.
        """
        lines = [
            f"{change.old_mode if int(change.old_oid, 16) else 0} {change.old_oid}\t".encode() + os.fsencode(change.path)
            for change in sorted(changes, key=lambda change: (int(change.old_oid, 16) != 0, os.fsencode(change.path)))
        ]

        def update(environment: Mapping[str, str]) -> None:
            listing = b"".join(line + b"\0" for line in lines)
            self._git.run("update-index", "--replace", "-z", "--index-info", stdin=listing, environment=environment)

        return self._with_index(tree, update)

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
        options = ("-r", "-z", "--raw", "--no-renames", "--full-index")
        raw = self._git.run("diff-tree", *options, object_id(base), object_id(result), "--")
        fields = raw.split(b"\0")[:-1]
        changes = [_parse_change(head.decode(), os.fsdecode(path)) for head, path in zip(fields[::2], fields[1::2], strict=True)]
        return tuple(sorted(changes, key=lambda change: os.fsencode(change.path)))

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


def _parse_change(head: str, path: str) -> Change:
    old_mode, new_mode, old_oid, new_oid, status = head.removeprefix(":").split(" ")
    return Change(path=path, status=status[0], old_mode=old_mode, new_mode=new_mode, old_oid=old_oid, new_oid=new_oid)

"""Our own git object store: one bare repository that nothing fetches from (threats 3.1-3.3, 3.5).

Repositories of others are only read by fetching and written by pushing; everything else happens on objects in here.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from activities.record.git import TRANSFER_TIMEOUT_S, Git, GitFailed, object_id, printable, require_git, server_command
from activities.record.remotes import Protocol, Remote, check_ref, checked_out_refs, is_symbolic, parse_remote
from activities.record.trees import EPOCH_MTIME, TreeEntry, cat_file, check_path, read_tree, write_tar
from schemas.error import InfrastructureError, InputError, Refused
from schemas.model import ZERO_ID

LOCAL_ONLY: frozenset[Protocol] = frozenset({"file"})
_PERSON = re.compile(r"[^<>\x00-\x1f\x7f]+ <[^<>\x00-\x20\x7f]+>\Z")
_CACHED_DIGESTS = 50_000
"""About 12 MB: a large repository, whose steps then cost only what changed."""
_COMMIT = re.compile(r"[0-9a-f]{40}\Z")
_DIFF_OPTIONS = (
    "--patch", "-r", "--full-index", "--binary", "--no-renames", "--no-ext-diff", "--no-textconv", "--no-color",
    "--diff-algorithm=myers", "--indent-heuristic", "--unified=3", "--inter-hunk-context=0", "--src-prefix=a/",
    "--dst-prefix=b/", "--no-relative", "--submodule=short", "--ignore-submodules=none",
)  # fmt: skip


@dataclass(frozen=True)
class FetchedCommit:
    """``ref``: full name of the branch or tag, or the commit id where there is none. ``commit_time``: UTC seconds."""

    commit: str
    tree: str
    commit_time: int
    ref: str


@dataclass(frozen=True)
class CommitInfo:
    """The headers of a commit. ``commit_time``: the committer's, in UTC seconds."""

    commit: str
    tree: str
    parents: tuple[str, ...]
    author: str
    committer: str
    commit_time: int
    signed: bool
    message: str


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


@dataclass(frozen=True)
class PushReceipt:
    """``already``: the ref was at the commit before we did anything."""

    ref: str
    commit: str
    previous: str
    already: bool


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
        return self._references(parse_remote(repository, allow), (check_ref(ref),)).get(ref)

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
        remote = parse_remote(repository, allow)
        name, wanted = (ref, ref) if _COMMIT.match(ref) else self._resolve(remote, check_ref(ref))
        if not self._has_commit(wanted):
            self._fetch(remote, wanted)
        commit = self._peel(wanted)
        self._git.run("update-ref", f"refs/gen4/fetched/{commit}", commit)
        info = self.commit(commit)
        return FetchedCommit(commit, info.tree, info.commit_time, commit if _COMMIT.match(name) else name)

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
        remote = parse_remote(repository, allow)
        if not check_ref(ref).startswith("refs/heads/"):
            raise InputError("REF_INVALID", f"{ref} is not a branch", "send refs/heads/NAME")
        object_id(commit)
        object_id(expected_head)
        head = self._references(remote, (ref,)).get(ref, ZERO_ID)
        if head == commit:
            return PushReceipt(ref, commit, expected_head, already=True)
        if head != expected_head:
            raise _changed(ref, head, expected_head)
        self._refuse_backwards(commit, expected_head)
        if remote.local is not None:
            self._refuse_checked_out(remote, ref)
        self._push(remote, commit, ref, expected_head)
        return PushReceipt(ref, commit, expected_head, already=False)

    # --- reading -----------------------------------------------------------------------------------------------------

    def commit(self, commit: str) -> CommitInfo:
        """Raises: InputError OBJECT_ID when the object is no commit; InfrastructureError OBJECT_MISSING."""
        with cat_file(self._git) as objects:
            kind, data = objects.read(commit)
        if kind != "commit":
            raise InputError("OBJECT_ID", f"{commit} is a {kind}, not a commit", "send the id of a commit")
        return _parse_commit(commit, data)

    def is_ancestor(self, commit: str, head: str) -> bool:
        """Whether ``head`` is ``commit`` or was built on it; both are in the store."""
        try:
            self._git.run("merge-base", "--is-ancestor", object_id(commit), object_id(head))
        except GitFailed as error:
            if error.status == 1:
                return False
            raise
        return True

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
        listing = self._git.run("ls-tree", "-z", "--full-tree", "--end-of-options", object_id(tree), check_path(path))
        if not listing:
            return None
        mode, kind, oid = listing.split(b"\t", 1)[0].decode().split()
        return self.read(oid) if kind == "blob" and mode != "120000" else None

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
        signer = shutil.which("ssh-keygen")
        if signer is None:
            raise InfrastructureError("TOOL_MISSING", "ssh-keygen is not on PATH", "install openssh-client")
        people = {**_person("AUTHOR", author, date), **_person("COMMITTER", committer, date)}
        ancestry = [word for parent in parents for word in ("-p", object_id(parent))]
        # The options of git itself come before the command: Git.run puts them there through the environment.
        environment = {
            **people,
            "GIT_CONFIG_COUNT": "1",
            "GIT_CONFIG_KEY_0": "gpg.ssh.program",
            "GIT_CONFIG_VALUE_0": signer,
        }
        body = message.encode("utf-8").rstrip(b"\n") + b"\n"
        arguments = ("commit-tree", object_id(tree), *ancestry, f"-S{signing_key.resolve()}", "-F", "-")
        commit = self._git.run(*arguments, stdin=body, environment=environment).decode().strip()
        self._git.run("update-ref", f"refs/gen4/sealed/{commit}", commit)
        return commit

    # --- private -----------------------------------------------------------------------------------------------------

    def _with_index(self, base_tree: str, change: Callable[[Mapping[str, str]], None]) -> str:
        with tempfile.TemporaryDirectory(prefix="index-", dir=self._git.directory) as folder:
            environment = {"GIT_INDEX_FILE": str(Path(folder) / "index")}
            self._git.run("read-tree", object_id(base_tree), environment=environment)
            change(environment)
            return self._git.run("write-tree", environment=environment).decode().strip()

    def _has_commit(self, oid: str) -> bool:
        # A fetch that was cut short leaves objects but no ref, so the ref decides.
        return (self._git.directory / "refs" / "gen4" / "fetched" / oid).is_file()

    def _references(self, remote: Remote, patterns: Iterable[str]) -> dict[str, str]:
        """Exact names → ids; ``HEAD`` of a symbolic head also yields the key ``HEAD@`` naming its branch."""
        arguments = ["ls-remote", "--symref", *_upload(remote), "--end-of-options", remote.address, *patterns]
        try:
            output = self._git.run(*arguments, protocol=remote.protocol, timeout_s=TRANSFER_TIMEOUT_S)
        except GitFailed as error:
            raise _unreachable(remote, error) from error
        found: dict[str, str] = {}
        for line in output.decode("utf-8", "replace").splitlines():
            value, _, name = line.partition("\t")
            found[name + "@" if value.startswith("ref: ") else name] = value.removeprefix("ref: ")
        return found

    def _resolve(self, remote: Remote, ref: str) -> tuple[str, str]:
        names = (ref,) if ref == "HEAD" or ref.startswith("refs/") else (f"refs/heads/{ref}", f"refs/tags/{ref}")
        found = self._references(remote, [pattern for name in names for pattern in (name, name + "^{}")])
        hits = [name for name in names if name in found]
        if not hits:
            raise InputError("REF_NOT_FOUND", f"the repository has no branch or tag {ref}", "check the name, or send a commit id")
        if len(hits) > 1:
            raise InputError("REF_AMBIGUOUS", f"{ref} is a branch and a tag", f"send {' or '.join(names)}")
        oid = object_id(found.get(hits[0] + "^{}", found[hits[0]]))
        if ref == "HEAD":
            return found.get("HEAD@", oid), oid
        return hits[0], oid

    def _peel(self, oid: str) -> str:
        try:
            return self._git.run("rev-parse", "--verify", "--end-of-options", f"{oid}^{{commit}}").decode().strip()
        except GitFailed as error:
            raise InputError("REF_NOT_FOUND", f"{oid} is not a commit", "send a branch, a tag or the id of a commit") from error

    def _fetch(self, remote: Remote, oid: str) -> None:
        options = (
            "--no-tags", "--no-write-fetch-head", "--no-recurse-submodules", "--no-auto-maintenance", "--update-shallow",
        )  # fmt: skip
        arguments = ["fetch", *options, *_upload(remote), "--end-of-options", remote.address, f"{oid}:refs/gen4/fetched/{oid}"]
        try:
            self._git.run(*arguments, protocol=remote.protocol, timeout_s=TRANSFER_TIMEOUT_S)
        except GitFailed as error:
            if "fsck" in error.detail:
                message = f"the history holds broken objects: {error.detail}"
                raise Refused("OBJECTS_MALFORMED", message, "repair it: git fsck --strict names them") from error
            if "not our ref" in error.detail:
                raise InputError("REF_NOT_FOUND", f"the repository has no commit {oid}", "check the commit id") from error
            raise _unreachable(remote, error) from error

    def _refuse_backwards(self, commit: str, expected_head: str) -> None:
        if expected_head == ZERO_ID:
            return
        try:
            self._git.run("merge-base", "--is-ancestor", expected_head, commit)
        except GitFailed as error:
            message = f"{commit} does not follow {expected_head}"
            raise Refused("NOT_FAST_FORWARD", message, "start again from the current head of the branch") from error

    def _refuse_checked_out(self, remote: Remote, ref: str) -> None:
        assert remote.local is not None
        if ref in checked_out_refs(self._git, remote.local):
            raise Refused(
                "TARGET_CHECKED_OUT",
                f"{ref} is checked out in a work tree of {remote.local.path}",
                "check out another branch there, or name a bare repository",
            )
        if is_symbolic(remote.local, ref):
            raise Refused("TARGET_SYMBOLIC", f"{ref} stands for another ref", "name the branch itself")

    def _push(self, remote: Remote, commit: str, ref: str, expected_head: str) -> None:
        lease = f"--force-with-lease={ref}:{'' if expected_head == ZERO_ID else expected_head}"
        options = ("--porcelain", "--no-verify", "--no-follow-tags", "--recurse-submodules=no", "--no-signed", lease)
        local = (f"--receive-pack={server_command('receive-pack')}",) if remote.local is not None else ()
        address = str(remote.local.common) if remote.local is not None else remote.address
        arguments = ("push", *options, *local, "--end-of-options", address, f"{commit}:{ref}")
        failure: GitFailed | None = None
        try:
            self._git.run(*arguments, protocol=remote.protocol, timeout_s=TRANSFER_TIMEOUT_S)
        except GitFailed as error:
            failure = error
        head = self._references(remote, (ref,)).get(ref, ZERO_ID)
        if head == commit:
            return
        if head != expected_head:
            raise _changed(ref, head, expected_head)
        if failure is not None and re.search(rb"^!\t", failure.stdout, re.MULTILINE):
            reason = f"{printable(failure.stdout)} {failure.detail}"
            raise Refused("PUSH_REJECTED", reason, "allow the fabric to write this branch, or name another one")
        raise InfrastructureError("PUSH_FAILED", failure.detail if failure else f"{ref} did not move", "see the message")


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


def _upload(remote: Remote) -> tuple[str, ...]:
    return (f"--upload-pack={server_command('upload-pack')}",) if remote.local is not None else ()


def _unreachable(remote: Remote, error: GitFailed) -> InputError | InfrastructureError:
    if remote.local is not None:
        message = f"git cannot read {remote.local.path}: {error.detail}"
        return InputError("REPOSITORY_NOT_FOUND", message, "check it with git fsck")
    return InfrastructureError("FETCH_FAILED", error.detail, "check the URL, the network and the rights of the fabric's user")


def _changed(ref: str, head: str, expected: str) -> Refused:
    return Refused("TARGET_CHANGED", f"{ref} is at {head}, not at {expected}", "start a new remediation on the new head")


def _refuse_edit(path: str, mode: str, modes: Mapping[str, str]) -> None:
    if mode not in {"100644", "100755"}:
        raise Refused("EDIT_REFUSED", f"{path!a} is a link or a submodule", "edit regular files only")
    parents = [path[:index] for index, char in enumerate(path) if char == "/"]
    if any(parent in modes for parent in parents) or any(other.startswith(path + "/") for other in modes):
        raise Refused("EDIT_REFUSED", f"{path!a} would take the place of a folder, or lie in a file", "choose another path")


def _person(role: str, person: str, date: int) -> dict[str, str]:
    if not _PERSON.match(person):
        raise InputError("PERSON_INVALID", f"{person[:80]!a} is not 'Name <mail>'", "write Name <mail>, all printable")
    name, _, mail = person.removesuffix(">").rpartition(" <")
    return {f"GIT_{role}_NAME": name, f"GIT_{role}_EMAIL": mail, f"GIT_{role}_DATE": f"@{date} +0000"}


def _parse_commit(commit: str, data: bytes) -> CommitInfo:
    head, _, message = data.partition(b"\n\n")
    fields: dict[str, list[str]] = {}
    for line in head.decode("utf-8", "replace").split("\n"):
        if not line.startswith(" "):  # a continuation, e.g. of the signature
            name, _, value = line.partition(" ")
            fields.setdefault(name, []).append(value)
    author, committer = fields["author"][0], fields["committer"][0]
    seconds = re.search(r"> (-?[0-9]+) [^>]*\Z", committer)
    return CommitInfo(
        commit=commit,
        tree=fields["tree"][0],
        parents=tuple(fields.get("parent", ())),
        author=author[: author.rfind(">") + 1],
        committer=committer[: committer.rfind(">") + 1],
        commit_time=int(seconds.group(1)) if seconds else 0,
        signed="gpgsig" in fields,
        message=message.decode("utf-8", "replace"),
    )


def _parse_change(head: str, path: str) -> Change:
    old_mode, new_mode, old_oid, new_oid, status = head.removeprefix(":").split(" ")
    return Change(path=path, status=status[0], old_mode=old_mode, new_mode=new_mode, old_oid=old_oid, new_oid=new_oid)

"""Fetching from and pushing to repositories of others, by exact ids and read back afterwards (threats 3.3)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from activities.record.commits import read_commit
from activities.record.git import TRANSFER_TIMEOUT_S, Git, GitFailed, object_id, printable, server_command
from activities.record.readers import CatFile, Readers
from activities.record.remotes import LocalRepository, Remote, check_ref, checked_out_refs, is_symbolic
from schemas.error import InfrastructureError, InputError, Refused
from schemas.model import ZERO_ID

_COMMIT = re.compile(r"[0-9a-f]{40}\Z")
_FETCH_OPTIONS = (
    "--no-tags", "--no-write-fetch-head", "--no-recurse-submodules", "--no-auto-maintenance", "--update-shallow",
)  # fmt: skip
_PUSH_OPTIONS = ("--porcelain", "--no-verify", "--no-follow-tags", "--recurse-submodules=no", "--no-signed")


@dataclass(frozen=True)
class FetchedCommit:
    """``ref``: full name of the branch or tag, or the commit id where there is none. ``commit_time``: UTC seconds."""

    commit: str
    tree: str
    commit_time: int
    ref: str


@dataclass(frozen=True)
class PushReceipt:
    """``already``: the ref was at the commit before we did anything."""

    ref: str
    commit: str
    previous: str
    already: bool


def head(git: Git, remote: Remote, ref: str) -> str | None:
    """The id that exactly this ref has in the other repository."""
    return _references(git, remote, (ref,)).get(ref)


def fetch(git: Git, readers: Readers, remote: Remote, ref: str) -> FetchedCommit:
    """See ``ObjectStore.fetch``."""
    name, wanted = (ref, ref) if _COMMIT.match(ref) else _resolve(git, remote, check_ref(ref))
    # A fetch that was cut short leaves objects but no ref, so the ref decides.
    if not (git.directory / "refs" / "gen4" / "fetched" / wanted).is_file():
        _fetch(git, remote, wanted)
    with readers.reading() as objects:
        commit = _peel(objects, wanted)
        info = read_commit(objects, commit)
    if commit != wanted:
        git.run("update-ref", f"refs/gen4/fetched/{commit}", commit)
    return FetchedCommit(commit, info.tree, info.commit_time, commit if _COMMIT.match(name) else name)


def push(git: Git, remote: Remote, commit: str, ref: str, expected_head: str) -> PushReceipt:
    """See ``ObjectStore.push``."""
    if not check_ref(ref).startswith("refs/heads/"):
        raise InputError("REF_INVALID", f"{ref} is not a branch", "send refs/heads/NAME")
    object_id(commit)
    object_id(expected_head)
    found = head(git, remote, ref) or ZERO_ID
    if found == commit:
        return PushReceipt(ref, commit, expected_head, already=True)
    if found != expected_head:
        raise _changed(ref, found, expected_head)
    refuse_backwards(git, commit, expected_head)
    if remote.local is not None:
        _refuse_checked_out(git, remote.local, ref)
    _push(git, remote, commit, ref, expected_head)
    return PushReceipt(ref, commit, expected_head, already=False)


def refuse_backwards(git: Git, commit: str, expected_head: str) -> None:
    """Raises: Refused NOT_FAST_FORWARD unless ``commit`` follows ``expected_head`` (zeros: it follows nothing)."""
    if expected_head == ZERO_ID:
        return
    try:
        git.run("merge-base", "--is-ancestor", expected_head, commit)
    except GitFailed as error:
        message = f"{commit} does not follow {expected_head}"
        raise Refused("NOT_FAST_FORWARD", message, "start again from the current head of the branch") from error


def _references(git: Git, remote: Remote, patterns: Iterable[str]) -> dict[str, str]:
    """Exact names → ids; ``HEAD`` of a symbolic head also yields the key ``HEAD@`` naming its branch."""
    arguments = ["ls-remote", "--symref", *_upload(remote), "--end-of-options", remote.address, *patterns]
    try:
        output = git.run(*arguments, protocol=remote.protocol, timeout_s=TRANSFER_TIMEOUT_S)
    except GitFailed as error:
        raise _unreachable(remote, error) from error
    found: dict[str, str] = {}
    for line in output.decode("utf-8", "replace").splitlines():
        value, _, name = line.partition("\t")
        found[name + "@" if value.startswith("ref: ") else name] = value.removeprefix("ref: ")
    return found


def _resolve(git: Git, remote: Remote, ref: str) -> tuple[str, str]:
    names = (ref,) if ref == "HEAD" or ref.startswith("refs/") else (f"refs/heads/{ref}", f"refs/tags/{ref}")
    found = _references(git, remote, [pattern for name in names for pattern in (name, name + "^{}")])
    hits = [name for name in names if name in found]
    if not hits:
        if ref == "HEAD":
            raise InputError("REF_NOT_FOUND", "HEAD names no commit: the repository is empty", "commit something, or name a ref")
        raise InputError("REF_NOT_FOUND", f"the repository has no branch or tag {ref}", "check the name, or send a commit id")
    if len(hits) > 1:
        raise InputError("REF_AMBIGUOUS", f"{ref} is a branch and a tag", f"send {' or '.join(names)}")
    oid = object_id(found.get(hits[0] + "^{}", found[hits[0]]))
    if ref == "HEAD":
        return found.get("HEAD@", oid), oid
    return hits[0], oid


def _fetch(git: Git, remote: Remote, oid: str) -> None:
    wanted = f"{oid}:refs/gen4/fetched/{oid}"
    arguments = ["fetch", *_FETCH_OPTIONS, *_upload(remote), "--end-of-options", remote.address, wanted]
    try:
        git.run(*arguments, protocol=remote.protocol, timeout_s=TRANSFER_TIMEOUT_S)
    except GitFailed as error:
        if "fsck" in error.detail:
            message = f"the history holds broken objects: {error.detail}"
            raise Refused("OBJECTS_MALFORMED", message, "repair it: git fsck --strict names them") from error
        if "not our ref" in error.detail:
            raise InputError("REF_NOT_FOUND", f"the repository has no commit {oid}", "check the commit id") from error
        raise _unreachable(remote, error) from error


def _peel(objects: CatFile, oid: str) -> str:
    """The commit that a tag names, or a tag of a tag."""
    named = oid
    while (found := objects.read(named))[0] == "tag":
        named = object_id(found[1].partition(b"\n")[0].removeprefix(b"object ").decode("ascii", "replace"))
    if found[0] != "commit":
        raise InputError("REF_NOT_FOUND", f"{oid} is not a commit", "send a branch, a tag or the id of a commit")
    return named


def _refuse_checked_out(git: Git, local: LocalRepository, ref: str) -> None:
    if ref in checked_out_refs(git, local):
        raise Refused(
            "TARGET_CHECKED_OUT",
            f"{ref} is checked out in a work tree of {local.path}",
            "check out another branch there, or name a bare repository",
        )
    if is_symbolic(local, ref):
        raise Refused("TARGET_SYMBOLIC", f"{ref} stands for another ref", "name the branch itself")


def _push(git: Git, remote: Remote, commit: str, ref: str, expected_head: str) -> None:
    lease = f"--force-with-lease={ref}:{'' if expected_head == ZERO_ID else expected_head}"
    local = (f"--receive-pack={server_command('receive-pack')}",) if remote.local is not None else ()
    address = str(remote.local.common) if remote.local is not None else remote.address
    arguments = ("push", *_PUSH_OPTIONS, lease, *local, "--end-of-options", address, f"{commit}:{ref}")
    failure: GitFailed | None = None
    try:
        git.run(*arguments, protocol=remote.protocol, timeout_s=TRANSFER_TIMEOUT_S)
    except GitFailed as error:
        failure = error
    found = head(git, remote, ref) or ZERO_ID
    if found == commit:
        return
    if found != expected_head:
        raise _changed(ref, found, expected_head)
    if failure is not None and re.search(rb"^!\t", failure.stdout, re.MULTILINE):
        reason = f"{printable(failure.stdout)} {failure.detail}"
        raise Refused("PUSH_REJECTED", reason, "allow the fabric to write this branch, or name another one")
    raise InfrastructureError("PUSH_FAILED", failure.detail if failure else f"{ref} did not move", "see the message")


def _upload(remote: Remote) -> tuple[str, ...]:
    return (f"--upload-pack={server_command('upload-pack')}",) if remote.local is not None else ()


def _unreachable(remote: Remote, error: GitFailed) -> InputError | InfrastructureError:
    if remote.local is not None:
        message = f"git cannot read {remote.local.path}: {error.detail}"
        return InputError("REPOSITORY_NOT_FOUND", message, "check it with git fsck")
    return InfrastructureError("FETCH_FAILED", error.detail, "check the URL, the network and the rights of the fabric's user")


def _changed(ref: str, found: str, expected: str) -> Refused:
    return Refused("TARGET_CHANGED", f"{ref} is at {found}, not at {expected}", "start a new remediation on the new head")

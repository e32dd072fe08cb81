"""Commits: read strictly, written signed and deterministic."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from activities.record.git import Git, GitFailed, object_id
from activities.record.readers import CatFile
from schemas.error import InfrastructureError, InputError

_PERSON = re.compile(r"[^<>\x00-\x1f\x7f]+ <[^<>\x00-\x20\x7f]+>\Z")
_TIME = re.compile(r"> (-?[0-9]+) [^>]*\Z")


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


def read_commit(objects: CatFile, commit: str) -> CommitInfo:
    """Raises: InputError OBJECT_ID when the object is no commit; InfrastructureError OBJECT_MISSING, OBJECT_CORRUPT."""
    kind, data = objects.read(commit)
    if kind != "commit":
        raise InputError("OBJECT_ID", f"{commit} is a {kind}, not a commit", "send the id of a commit")
    return _parse(commit, data)


def is_ancestor(git: Git, commit: str, head: str) -> bool:
    """Whether ``head`` is ``commit`` or was built on it; both are in the repository."""
    try:
        git.run("merge-base", "--is-ancestor", object_id(commit), object_id(head))
    except GitFailed as error:
        if error.status == 1:
            return False
        raise
    return True


def merge_base(git: Git, one: str, other: str) -> str | None:
    """The best common ancestor of two commits of the repository; None if its history shows none."""
    try:
        return git.run("merge-base", object_id(one), object_id(other)).decode().split()[0]
    except GitFailed as error:
        if error.status == 1:
            return None
        raise


def write_commit(
    git: Git, tree: str, parents: Iterable[str], message: str, author: str, committer: str, date: int, signing_key: Path
) -> str:
    """See ``ObjectStore.commit_tree``. The commit stays reachable from ``refs/gen4/sealed/``."""
    signer = shutil.which("ssh-keygen")
    if signer is None:
        raise InfrastructureError("TOOL_MISSING", "ssh-keygen is not on PATH", "install openssh-client")
    ancestry = [word for parent in parents for word in ("-p", object_id(parent))]
    environment = {
        **_person("AUTHOR", author, date),
        **_person("COMMITTER", committer, date),
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": "gpg.ssh.program",
        "GIT_CONFIG_VALUE_0": signer,
    }
    body = message.encode("utf-8").rstrip(b"\n") + b"\n"
    arguments = ("commit-tree", object_id(tree), *ancestry, f"-S{signing_key.resolve()}", "-F", "-")
    commit = git.run(*arguments, stdin=body, environment=environment).decode().strip()
    git.run("update-ref", f"refs/gen4/sealed/{commit}", commit)
    return commit


def _person(role: str, person: str, date: int) -> dict[str, str]:
    if not _PERSON.match(person):
        raise InputError("PERSON_INVALID", f"{person[:80]!a} is not 'Name <mail>'", "write Name <mail>, all printable")
    name, _, mail = person.removesuffix(">").rpartition(" <")
    return {f"GIT_{role}_NAME": name, f"GIT_{role}_EMAIL": mail, f"GIT_{role}_DATE": f"@{date} +0000"}


def _parse(commit: str, data: bytes) -> CommitInfo:
    head, _, message = data.partition(b"\n\n")
    fields: dict[str, list[str]] = {}
    for line in head.decode("utf-8", "replace").split("\n"):
        if not line.startswith(" "):  # a continuation, e.g. of the signature
            name, _, value = line.partition(" ")
            fields.setdefault(name, []).append(value)
    author, committer = fields["author"][0], fields["committer"][0]
    seconds = _TIME.search(committer)
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

"""A change as a commit that says what made it: message, trailers, and where it shall go. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from schemas.error import Refused
from schemas.model import ZERO_ID
from schemas.request import ReleaseMode
from schemas.task import Source
from schemas.text import plain

AUTHOR = "gen4 <gen4@localhost>"
SUBJECT_CHARS = 72
BRANCH_PREFIX = "refs/heads/gen4/"


@dataclass(frozen=True)
class Target:
    """``expected_head``: what the ref must still be at the push; the zero id for a new branch."""

    ref: str
    expected_head: str


def target_of(mode: ReleaseMode, target: str | None, source: Source, task_id: str) -> Target:
    """Where a change is delivered.

    Raises:
        Refused: TARGET_UNKNOWN for a fast-forward where neither request nor source names a branch.
    """
    if mode == "branch":
        return Target(f"{BRANCH_PREFIX}{task_id}", ZERO_ID)
    name = target or source.ref
    if name.startswith("refs/heads/"):
        return Target(name, source.base_commit)
    if target is None or name.startswith("refs/"):
        raise Refused("TARGET_UNKNOWN", f"{plain(name)} is not a branch", "name the branch to fast-forward: release.target")
    return Target(f"refs/heads/{name}", source.base_commit)


def message_of(goal: str, *, explorer: str, task_id: str, bundle_digest: str) -> str:
    """First line from the goal's first line, then trailers. No ``Signed-off-by``: that is for a human to add."""
    first = next((line for line in (plain(part).strip() for part in goal.splitlines()) if line), "a failing test")
    subject = f"Fix: {first}"
    if len(subject) > SUBJECT_CHARS:
        subject = subject[: SUBJECT_CHARS - 1].rstrip() + "…"
    trailers = (f"Assisted-by: {plain(explorer)}", f"Gen4-Task: {task_id}", f"Gen4-Evidence: {bundle_digest}")
    return subject + "\n\n" + "\n".join(trailers) + "\n"


def seal_time(source: Source) -> int:
    """Date of the commit in UTC seconds: right after its parent, so that the same change has the same id."""
    return source.commit_time + 1

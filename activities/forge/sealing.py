"""Seal a commit: signed and final before anybody is asked, so that its id is part of what is approved."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from activities.forge.message import commit_message
from activities.kernel.repositories import Admitted
from activities.record.objects import ObjectStore
from schemas.capabilities import SealCommit, SealedCommit
from schemas.error import InfrastructureError, InputError, Refused
from schemas.model import ZERO_ID

COMMITTER = "gen4 <gen4@localhost>"
BRANCHES = "refs/heads/"
KEY = "committer"
"""File in ``keys/``: Ed25519, so that sealing the same change again gives the same commit."""


def seal_commit(objects: ObjectStore, key: Path, request: SealCommit, task_id: str, to: Admitted) -> SealedCommit:
    """Make the commit in our own store, from which nothing fetches, and say where it is to go.

    Raises:
        InputError: TARGET_UNKNOWN when a merge has no branch to go to.
        Refused: TARGET_CHANGED when that branch is not at the base commit any more.
    """
    target_ref, expected_head = _target(objects, request, task_id, to)
    message = commit_message(request.goal, task_id, request.explorer, request.bundle.bundle_digest)
    commit = objects.commit_tree(
        request.result_tree, (request.source.base_commit,), message, COMMITTER, COMMITTER, request.source.commit_time + 1, key
    )
    return SealedCommit(commit_id=commit, target_ref=target_ref, expected_head=expected_head)


def ensure_key(keys: Path) -> Path:
    """The committer's SSH key of this home; made on first use."""
    key = keys / KEY
    if key.exists():
        return key
    try:
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "gen4-committer", "-f", str(key)],
            check=True, capture_output=True, env={"PATH": os.environ.get("PATH", os.defpath)}, stdin=subprocess.DEVNULL,
        )  # fmt: skip
    except (OSError, subprocess.CalledProcessError) as error:
        raise InfrastructureError("KEY_NOT_MADE", f"ssh-keygen failed: {error}", "apt-get install openssh-client") from error
    return key


def _target(objects: ObjectStore, request: SealCommit, task_id: str, to: Admitted) -> tuple[str, str]:
    if request.mode == "branch":
        return f"{BRANCHES}gen4/{task_id}", ZERO_ID
    ref = _full_name(request.target) if request.target else request.source.ref
    if not ref.startswith(BRANCHES):
        raise InputError(
            "TARGET_UNKNOWN", "the session started from a commit, not from a branch", "name a branch: release.target (--target)"
        )
    head = objects.ls_remote(to.address, ref, {to.protocol})
    if head != request.source.base_commit:
        raise Refused(
            "TARGET_CHANGED", f"{ref} is at {head or 'nothing'}, the fix is for {request.source.base_commit}",
            "start a new remediation on the branch as it is now",
        )  # fmt: skip
    return ref, head


def _full_name(branch: str) -> str:
    return branch if branch.startswith("refs/") else BRANCHES + branch

"""What a repository says of a delivery's target: read only, before anybody is asked to approve and again before the push."""

from __future__ import annotations

from pathlib import Path

from activities.forge.sealing import Target
from activities.kernel.repositories import Admitted
from activities.record.git import Git, GitFailed
from activities.record.objects import ObjectStore
from activities.record.remotes import checked_out_refs, find_local, is_symbolic
from schemas.approval import REFUSALS
from schemas.error import Refused
from schemas.model import ZERO_ID


class Targets:
    """Args: ``path``: of our own object store, in which git runs."""

    def __init__(self, objects: ObjectStore, path: Path) -> None:
        self._objects = objects
        self._git = Git(path)

    def head(self, admitted: Admitted, ref: str) -> str:
        """The commit that the ref is at; the zero id if there is none."""
        return self._objects.ls_remote(admitted.address, ref, allow={admitted.protocol}) or ZERO_ID

    def refuse_unreachable(self, admitted: Admitted, target: Target) -> None:
        """Raises:
        Refused: TARGET_CHANGED, TARGET_CHECKED_OUT, TARGET_SYMBOLIC.
        """
        head = self.head(admitted, target.ref)
        if head != target.expected_head:
            raise Refused(
                "TARGET_CHANGED", f"{target.ref} is at {head}, expected was {target.expected_head}", REFUSALS["TARGET_CHANGED"]
            )
        if admitted.protocol != "file":
            return
        local = find_local(admitted.address)
        if target.ref in checked_out_refs(self._git, local):
            raise Refused(
                "TARGET_CHECKED_OUT",
                f"{target.ref} is checked out in a work tree of {local.path}",
                "deliver to a new branch (release mode branch), check out another branch there, or name a bare repository",
            )
        if is_symbolic(local, target.ref):
            raise Refused("TARGET_SYMBOLIC", f"{target.ref} stands for another ref", "name the branch itself")

    def contains(self, admitted: Admitted, ref: str, head: str, commit: str) -> bool:
        """Whether ``commit`` is ``head`` or one of its ancestors. Fetches ``head`` into our store."""
        if head == commit:
            return True
        if head == ZERO_ID:
            return False
        fetched = self._objects.fetch(admitted.address, ref, allow={admitted.protocol})
        try:
            self._git.run("merge-base", "--is-ancestor", commit, fetched.commit)
        except GitFailed:
            return False
        return True

"""Deliver exactly once: read the ref, push with a lease, read back (contracts §18)."""

from __future__ import annotations

from activities.kernel.repositories import Admitted
from activities.record.objects import ObjectStore
from schemas.model import ZERO_ID
from schemas.request import ReleaseRequest, ReleaseResult, ReleaseSummary


def deliver(objects: ObjectStore, request: ReleaseRequest, to: Admitted) -> ReleaseResult:
    """Move the target ref from ``expected_head`` to the sealed commit. Called again, it finds its own work and does nothing.

    A ref that has moved on *from* our commit (somebody built on it) counts as delivered.

    Raises:
        Refused: TARGET_CHANGED, TARGET_CHECKED_OUT and what :meth:`ObjectStore.push` raises.
    """
    done = ReleaseResult(release=ReleaseSummary(mode=request.mode, ref=request.target_ref, commit=request.commit_id))
    head = objects.ls_remote(to.address, request.target_ref, {to.protocol}) or ZERO_ID
    if head == request.commit_id or (head not in (ZERO_ID, request.expected_head) and _follows(objects, request, head, to)):
        return done
    objects.push(to.address, request.commit_id, request.target_ref, request.expected_head, {to.protocol})
    return done


def _follows(objects: ObjectStore, request: ReleaseRequest, head: str, to: Admitted) -> bool:
    """Whether ``head`` descends from our commit; its history is fetched to see."""
    objects.fetch(to.address, head, {to.protocol})
    return objects.is_ancestor(request.commit_id, head)

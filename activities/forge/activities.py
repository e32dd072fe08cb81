"""Forge: the only place that reads and writes repositories of others."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from temporalio import activity

from activities.forge.delivering import refuse_late, refuse_unapproved, release_of
from activities.forge.sealing import AUTHOR, message_of, seal_time, target_of
from activities.forge.targets import Targets
from activities.kernel.acting import Acting, acting
from activities.kernel.implementing import implements
from activities.kernel.judging import PolicyPort
from activities.kernel.rechecking import recheck
from activities.kernel.repositories import RepositoryRules
from activities.kernel.ssh import new_key
from activities.record.approvals import Approvals, StoredApproval
from activities.record.chain import EventChain
from activities.record.objects import ObjectStore
from activities.record.store import TenantStore, now_ms
from schemas.capabilities import DELIVER, FETCH_SOURCE, READ_BACK, SEAL_COMMIT, FetchSource, SealCommit, SealedCommit
from schemas.error import Gen4Error, Refused
from schemas.event import EventDraft, EventKind
from schemas.operations import Observed, ReadBack
from schemas.request import ReleaseRequest, ReleaseResult, ReleaseSummary
from schemas.task import Source

COMMITTER_KEY = "committer"


class ForgeActivities:
    """Args:
    objects_path: where ``objects`` lies.
    keys: the home's keys folder; the committer's key is made there when it is first needed.
    """

    def __init__(
        self, store: TenantStore, objects: ObjectStore, objects_path: Path, keys: Path, policy: PolicyPort,
        repositories: RepositoryRules, clock: Callable[[], int] = now_ms,
    ) -> None:  # fmt: skip
        self._chain = EventChain(store)
        self._approvals = Approvals(store)
        self._objects = objects
        self._targets = Targets(objects, objects_path)
        self._keys = keys
        self._policy = policy
        self._repositories = repositories
        self._clock = clock

    @implements(FETCH_SOURCE)
    def fetch_source(self, request: FetchSource) -> Source:
        """Bring the requested commit into our own store."""
        admitted = self._repositories.admit(request.repository)
        fetched = self._objects.fetch(admitted.address, request.ref, allow={admitted.protocol})
        return Source(
            repository=admitted.address, ref=fetched.ref, base_commit=fetched.commit, base_tree=fetched.tree,
            commit_time=fetched.commit_time,
        )  # fmt: skip

    @implements(SEAL_COMMIT)
    def seal_commit(self, request: SealCommit) -> SealedCommit:
        """A signed commit on base in our own store, from which nobody fetches. The same change always has the same id.

        Raises:
            Refused: TARGET_UNKNOWN, TARGET_CHANGED, TARGET_CHECKED_OUT, TARGET_SYMBOLIC.
        """
        task_id = acting().keys.task_id
        target = target_of(request.mode, request.target, request.source, task_id)
        self._targets.refuse_unreachable(self._repositories.admit(request.source.repository), target)
        message = message_of(request.goal, explorer=request.explorer, task_id=task_id, bundle_digest=request.bundle.bundle_digest)
        commit = self._objects.commit_tree(
            request.result_tree, (request.source.base_commit,), message, AUTHOR, AUTHOR, seal_time(request.source),
            new_key(self._keys / COMMITTER_KEY, comment="gen4-committer"),
        )  # fmt: skip
        return SealedCommit(commit_id=commit, target_ref=target.ref, expected_head=target.expected_head)

    @implements(DELIVER)
    def deliver(self, request: ReleaseRequest) -> ReleaseResult:
        """Exactly once (contracts §18).

        1. The approval is redeemed, for exactly this action.
        2. The ref is read: at the commit, or at one that follows it, means delivered already.
        3. Time, policy, lease and kill switches are read again.
        4. The ref still at ``expected_head``: push with that lease, read back. Anywhere else: TARGET_CHANGED.
        """
        who = acting()
        stored = refuse_unapproved(self._approvals.get(request.approval_id), request, who)
        admitted = self._repositories.admit(request.repository)
        with _uninterrupted():
            head = self._targets.head(admitted, request.target_ref)
            if head == request.expected_head or not self._targets.contains(admitted, request.target_ref, head, request.commit_id):
                refuse_late(stored, now_ms=self._clock(), policy_digest=self._policy.policy_digest)
                recheck()
                self._objects.push(
                    admitted.address, request.commit_id, request.target_ref, request.expected_head, allow={admitted.protocol}
                )
            self._record(who, stored, request)
        return ReleaseResult(
            release=ReleaseSummary(mode=request.mode, ref=request.target_ref, commit=request.commit_id), redeemed=True
        )

    @implements(READ_BACK)
    def read_back(self, request: ReadBack) -> Observed:
        """What became of a delivery that nobody saw the end of. The target is read; a delivery that is found is recorded.

        Raises:
            Refused: UNKNOWN_APPROVAL, APPROVAL_REQUIRED for one that was never redeemed.
        """
        stored = self._approvals.get(request.approval_id)
        if stored is None:
            raise Refused("UNKNOWN_APPROVAL", "no such request is stored")
        if stored.request.status != "redeemed":
            raise Refused("APPROVAL_REQUIRED", f"the approval is {stored.request.status}: it allowed no delivery")
        action = stored.request.action
        try:
            admitted = self._repositories.admit(action.repository)
            head = self._targets.head(admitted, action.target_ref)
            delivered = self._targets.contains(admitted, action.target_ref, head, action.commit_id)
        except Gen4Error as error:  # an answer too: the next run asks again
            return Observed(state="unreachable", ref=action.target_ref, message=str(error)[:1_000])
        if delivered:
            self._record(acting(), stored, release_of(stored))
        return Observed(state="delivered" if delivered else "absent", ref=action.target_ref, head=head)

    def _record(self, who: Acting, stored: StoredApproval, request: ReleaseRequest) -> None:
        """One event per action, however often it was tried."""
        kind: EventKind = "change.merged" if request.mode == "merge" else "change.opened"
        draft = EventDraft(
            kind=kind,
            capability_id=DELIVER.id,
            idempotency_key=f"{request.action_digest}/{kind}",
            payload={
                "approval_id": request.approval_id, "action_digest": request.action_digest, "repository": request.repository,
                "ref": request.target_ref, "commit": request.commit_id, "previous": request.expected_head, "mode": request.mode,
            },
        )  # fmt: skip
        self._chain.append(stored.keys, who.actor, draft)


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """A cancellation must not fall between the push and its record."""
    if not activity.in_activity():
        yield
        return
    with activity.shield_thread_cancel_exception():
        yield

"""The forge's capabilities. This pool holds the committer's key and the right to push, and nothing else."""

from __future__ import annotations

from pathlib import Path

from activities.forge.delivery import deliver
from activities.forge.sealing import ensure_key, seal_commit
from activities.kernel.acting import acting
from activities.kernel.implementing import implements
from activities.kernel.repositories import RepositoryRules
from activities.record.chain import EventChain
from activities.record.objects import ObjectStore
from activities.testbed.activities import beating
from schemas.capabilities import DELIVER, FETCH_SOURCE, SEAL_COMMIT, FetchSource, SealCommit, SealedCommit
from schemas.event import EventDraft
from schemas.request import ReleaseRequest, ReleaseResult
from schemas.task import Source


class ForgeActivities:
    """Args:
    keys: folder of the committer's key, made on first use.
    rules: what the operator admits; asked again at every use, with the path as it resolves then.
    """

    def __init__(self, objects: ObjectStore, chain: EventChain, keys: Path, rules: RepositoryRules) -> None:
        self._objects = objects
        self._chain = chain
        self._keys = keys
        self._rules = rules

    @implements(FETCH_SOURCE)
    def fetch_source(self, request: FetchSource) -> Source:
        with beating():
            admitted = self._rules.admit(request.repository)
            found = self._objects.fetch(admitted.address, request.ref, {admitted.protocol})
        return Source(
            repository=request.repository, ref=found.ref, base_commit=found.commit, base_tree=found.tree,
            commit_time=found.commit_time,
        )  # fmt: skip

    @implements(SEAL_COMMIT)
    def seal_commit(self, request: SealCommit) -> SealedCommit:
        return seal_commit(self._objects, ensure_key(self._keys), request, acting().keys.task_id, self._rules.admit(request.source.repository))

    @implements(DELIVER)
    def deliver(self, request: ReleaseRequest) -> ReleaseResult:
        """The gate has checked that the approval is redeemed for exactly this action and in time."""
        with beating():
            result = deliver(self._objects, request, self._rules.admit(request.repository))
        who = acting()
        kind = "change.merged" if request.mode == "merge" else "change.opened"
        draft = EventDraft(
            kind=kind, task_id=who.keys.task_id, capability_id=DELIVER.id, idempotency_key=f"{request.action_digest}/{kind}",
            payload={"ref": request.target_ref, "commit": request.commit_id, "expected_head": request.expected_head,
                     "approval_id": request.approval_id, "action_digest": request.action_digest},
        )  # fmt: skip
        self._chain.append(who.keys, who.actor, draft)
        return result

"""The policy layer's capabilities: facts are computed here, judged by OPA, and recorded as events."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from activities.kernel.acting import acting
from activities.kernel.implementing import implements
from activities.kernel.judging import PolicyPort
from activities.policy.facts import Side, patch_facts
from activities.policy.requests import request_facts
from activities.record.blobs import BlobStore
from activities.record.chain import EventChain
from activities.record.objects import ObjectStore
from schemas.capabilities import REVIEW_PATCH, REVIEW_REQUEST, ReviewPatch, ReviewRequest
from schemas.capability import Capability
from schemas.event import EventDraft
from schemas.policy import PolicyDecision


class PolicyActivities:
    """Args:
    roots: folders under which a request may name local repositories.
    hosts: names of the hosts that it may name in URLs.
    """

    def __init__(
        self, engine: PolicyPort, blobs: BlobStore, objects: ObjectStore, chain: EventChain, *, roots: Sequence[Path],
        hosts: Sequence[str] = (),
    ) -> None:  # fmt: skip
        self._engine = engine
        self._blobs = blobs
        self._objects = objects
        self._chain = chain
        self._roots = tuple(roots)
        self._hosts = tuple(hosts)

    @implements(REVIEW_REQUEST)
    def review_request(self, request: ReviewRequest) -> PolicyDecision:
        """Whether the request is admitted. A refusal is a decision to deny, not an error."""
        facts = request_facts(
            request.repository, request.ref, request.release_mode, request.release_target, roots=self._roots, hosts=self._hosts,
            limits={"wall_ms": request.wall_ms or 0, "candidates": request.candidates or 0}, budget=request.budget,
        )  # fmt: skip
        return self._decide(REVIEW_REQUEST, "gen4.request", facts.model_dump(mode="json"))

    @implements(REVIEW_PATCH)
    def review_patch(self, request: ReviewPatch) -> PolicyDecision:
        """Whether the patch touches only what it may, judged on its two trees. A refusal is a decision to deny."""
        patch = request.patch
        base, result = self._files(patch.base_tree), self._files(patch.result_tree)
        facts = patch_facts(
            base, result, self._objects.read,
            diff=self._blobs.get(patch.diff), canonical=self._objects.diff(patch.base_tree, patch.result_tree),
        )  # fmt: skip
        return self._decide(REVIEW_PATCH, "gen4.patch", facts.model_dump(mode="json"))

    def _files(self, tree: str) -> dict[str, Side]:
        return {entry.path: Side(entry.mode, entry.oid, entry.size) for entry in self._objects.entries(tree)}

    def _decide(self, capability: Capability[Any, Any], package: str, question: Mapping[str, Any]) -> PolicyDecision:
        decision = self._engine.decide(package, question)
        who = acting()
        draft = EventDraft(
            kind="policy.decision", task_id=who.keys.task_id, capability_id=capability.id, version=capability.version,
            idempotency_key=f"{who.attempt_key}/policy.decision", payload=decision.model_dump(mode="json", exclude_none=True),
        )  # fmt: skip
        self._chain.append(who.keys, who.actor, draft)
        return decision

"""Explore: where the bug may be, and patches that mend it."""

from __future__ import annotations

from pydantic import TypeAdapter
from temporalio import activity

from activities.explore.recording import Stores
from activities.explore.repairing import Repairing
from activities.explore.tracing import read_spectra, targets_of, trace_job
from activities.kernel.acting import acting
from activities.kernel.implementing import implements
from activities.record.blobs import BlobStore
from activities.record.cursors import Cursors
from activities.record.objects import ObjectStore
from activities.testbed.run import TestBed
from schemas.candidate import Exploration
from schemas.capabilities import LOCALIZE, REPAIR, Localization, Localize, Repair
from schemas.testing import FAILING, Outcomes

_OUTCOMES: TypeAdapter[Outcomes] = TypeAdapter(Outcomes)


class ExploreActivities:
    """The offline engine. Nothing of a target runs here: every test runs in the sandbox of ``testbed``."""

    def __init__(self, blobs: BlobStore, objects: ObjectStore, cursors: Cursors, testbed: TestBed) -> None:
        self._stores = Stores(blobs, objects, cursors, testbed)

    @implements(LOCALIZE)
    def localize(self, request: Localize) -> Localization:
        blobs, testbed = self._stores.blobs, self._stores.testbed
        outcomes = _OUTCOMES.validate_python(blobs.get_json(request.baseline.outcomes))
        targets = targets_of(outcomes, request.named_targets)
        if not any(outcomes.get(nodeid) in FAILING for nodeid in targets):
            return Localization(ranking=blobs.put_json([]), suspects=0, targets=targets, tests=0)
        job = trace_job(request, outcomes, targets)
        with testbed.session(
            request.base_tree, request.environment, request.plan, request.limits, "trace", job, commit_time=request.commit_time
        ) as process:
            suspects, tests = read_spectra(process, targets, outcomes, activity.heartbeat)
        ranking = blobs.put_json([suspect.model_dump(mode="json") for suspect in suspects])
        return Localization(ranking=ranking, suspects=len(suspects), targets=targets, tests=tests)

    @implements(REPAIR)
    def repair(self, request: Repair) -> Exploration:
        who = acting()
        return Repairing(self._stores, request, who.keys, who.effect_key, activity.heartbeat).run()

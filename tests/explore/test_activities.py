"""The two capabilities as a worker runs them: inside an activity, behind who is acting."""

from __future__ import annotations

import pytest
from temporalio.testing import ActivityEnvironment

from activities.explore.activities import ExploreActivities
from activities.kernel.acting import Acting, as_acting
from schemas.candidate import Exploration
from schemas.capabilities import LOCALIZE, REPAIR, Localization, Localize
from schemas.event import Actor
from tests.explore.bed import EXAMPLES, KEYS, Bed, files_below

pytestmark = pytest.mark.usefixtures("admitted")

WHO = Acting(
    keys=KEYS, actor=Actor(principal_id="engine", kind="engine"), phase="explore", workflow_id="w", run_id="r",
    effect_key="effect", attempt_key="attempt", attempt=1,
)  # fmt: skip


def test_localise_and_repair_as_activities(bed: Bed) -> None:
    case = bed.case(files_below(EXAMPLES / "stock"))
    implemented = ExploreActivities(bed.blobs, bed.objects, bed.cursors, bed.testbed)
    environment = ActivityEnvironment()
    beats: list[object] = []
    environment.on_heartbeat = lambda *details: beats.append(details)
    localized = environment.run(implemented.localize, Localize(**bed.common(case.tree, case.baseline, ())))
    assert isinstance(localized, Localization)
    assert localized == case.localization
    with as_acting(WHO):
        explored = environment.run(implemented.repair, bed.request(case, keep=1))
    assert isinstance(explored, Exploration)
    assert explored.candidates[0].fix == "complete"
    assert beats
    assert bed.cursors.load(WHO.effect_key) is not None


def test_localising_without_a_failing_test_starts_no_sandbox(bed: Bed) -> None:
    case = bed.case({"one.py": b"X = 1\n", "test_one.py": b"def test_a():\n    assert True\n"})
    implemented = ExploreActivities(bed.blobs, bed.objects, bed.cursors, bed.testbed)
    request = Localize(**bed.common(case.tree, case.baseline, ()))
    localized = ActivityEnvironment().run(implemented.localize, request)
    assert (localized.suspects, localized.targets) == (0, ())


def test_they_implement_what_is_declared() -> None:
    assert getattr(ExploreActivities.localize, "__capability__", None) is LOCALIZE
    assert getattr(ExploreActivities.repair, "__capability__", None) is REPAIR

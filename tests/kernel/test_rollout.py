"""A candidate policy version: who is in its cohort, and that it can only refuse more."""

from __future__ import annotations

from typing import Any, cast

from hypothesis import given
from hypothesis import strategies as st

from activities.kernel.judging import PolicyPort
from activities.kernel.rollout import COHORTS, Rollout, cohort

NOBODY = cast(PolicyPort, object())
IDS = st.text(min_size=1)


@given(IDS, IDS)
def test_a_session_stays_in_its_cohort(tenant: str, session: str) -> None:
    assert cohort(tenant, session) == cohort(tenant, session) and 0 <= cohort(tenant, session) < COHORTS


@given(IDS, IDS, st.integers(0, COHORTS), st.integers(0, COHORTS))
def test_a_wider_canary_keeps_those_that_are_in(tenant: str, session: str, some: int, more: int) -> None:
    narrow, wide = sorted((some, more))
    if Rollout(NOBODY, "canary", narrow).enforced(tenant, session):
        assert Rollout(NOBODY, "canary", wide).enforced(tenant, session)


@given(IDS, IDS, st.integers(0, COHORTS))
def test_shadow_enforces_nowhere_and_full_everywhere(tenant: str, session: str, share: int) -> None:
    assert not Rollout(NOBODY, "shadow", share).enforced(tenant, session)
    assert Rollout(NOBODY, "full", share).enforced(tenant, session)
    assert not Rollout(NOBODY, "canary", 0).enforced(tenant, session)
    assert Rollout(NOBODY, "canary", COHORTS).enforced(tenant, session)


def test_cohorts_are_spread_evenly() -> None:
    inside = sum(Rollout(NOBODY, "canary", 2_000).enforced("acme", f"session-{number}") for number in range(5_000))
    assert 850 < inside < 1_150
    pairs: Any = {cohort("a", "bc"), cohort("ab", "c")}
    assert len(pairs) == 2

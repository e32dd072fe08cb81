"""A worker serves exactly what is declared for its pool, or it does not start."""

from __future__ import annotations

from typing import Any

import pytest

from activities.kernel.implementing import implements
from schemas.capabilities import (
    CAPABILITIES,
    DELIVER,
    FETCH_SOURCE,
    SEAL_BUNDLE,
    SEAL_REJECTION,
    TAKE_CHECKPOINT,
    FetchSource,
    SealBundle,
    SealedBundle,
    SealedRejection,
    SealRejection,
)
from schemas.capability import Capability, Pool
from schemas.checkpoint import CheckpointTaken, TakeCheckpoint
from schemas.task import Source
from tests.kernel.gated import Forge
from workers.registration import RegistrationError, activities_of, check_registration, served_by


class Signer:
    @implements(SEAL_BUNDLE)
    def seal(self, request: SealBundle) -> SealedBundle:
        raise AssertionError("not called")

    @implements(SEAL_REJECTION)
    def reject(self, request: SealRejection) -> SealedRejection:
        raise AssertionError("not called")

    @implements(TAKE_CHECKPOINT)
    def take(self, request: TakeCheckpoint) -> CheckpointTaken:
        raise AssertionError("not called")


def listed(pool: Pool) -> dict[str, str]:
    """The policy's catalogue of a pool: id and descriptor."""
    return {id: CAPABILITIES[id].descriptor_sha256 for id in served_by(pool)}


def refused(*implementers: object, pool: Any = "signing", known: dict[str, str] | None = None) -> str:
    with pytest.raises(RegistrationError) as caught:
        check_registration(implementers, pool, known)
    return caught.value.code


def test_a_whole_pool() -> None:
    assert set(check_registration([Forge(), Signer()], "forge")) == served_by("forge")
    assert set(check_registration([Forge(), Signer()], "signing", listed("signing"))) == served_by("signing")
    assert len(activities_of([Signer()], "signing")) == 1


def test_nothing_implements_it() -> None:
    assert refused(Forge()) == "CAP_UNIMPLEMENTED"


def test_two_implement_it() -> None:
    assert refused(Signer(), Signer()) == "CAP_DUPLICATE"


def test_policy_does_not_know_it() -> None:
    assert refused(Signer(), known={DELIVER.id: DELIVER.descriptor_sha256}) == "CAP_NOT_IN_POLICY"


def test_a_capability_of_its_own_making() -> None:
    own = Capability(
        id=SEAL_BUNDLE.id, input=SealBundle, output=SealedBundle, side_effect="none", risk="low", pool="signing",
        timeout=SEAL_BUNDLE.timeout,
    )  # fmt: skip

    class Other:
        @implements(own)
        def seal(self, request: SealBundle) -> SealedBundle:
            raise AssertionError("not called")

    assert refused(Other()) == "CAP_UNDECLARED"


def test_other_types_than_declared() -> None:
    class WrongInput:
        @implements(SEAL_BUNDLE)  # type: ignore[arg-type]
        def seal(self, request: FetchSource) -> SealedBundle:
            raise AssertionError("not called")

    class WrongOutput:
        @implements(SEAL_BUNDLE)  # type: ignore[arg-type]
        def seal(self, request: SealBundle) -> Source:
            raise AssertionError("not called")

    class Untyped:
        @implements(SEAL_BUNDLE)
        def seal(self, request):  # type: ignore[no-untyped-def]
            raise AssertionError("not called")

    assert [refused(other()) for other in (WrongInput, WrongOutput, Untyped)] == ["CAP_TYPES"] * 3


def test_a_coroutine_would_block_the_event_loop() -> None:
    class Async:
        @implements(FETCH_SOURCE)
        async def fetch(self, request: FetchSource) -> Source:
            raise AssertionError("not called")

    assert refused(Async(), pool="forge") == "CAP_ASYNC"

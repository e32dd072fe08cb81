"""Two steps at once: both results, or one failure and nothing that still runs."""

from __future__ import annotations

import asyncio

import pytest

from workflows.calling import beside, together


class _Step:
    """Ends when it is told to; a cancellation takes it another turn to obey."""

    def __init__(self, result: str = "") -> None:
        self.result, self.may_end, self.ended = result, asyncio.Event(), False

    async def run(self) -> str:
        try:
            await self.may_end.wait()
            if not self.result:
                raise ValueError("failed")
            return self.result
        finally:
            await asyncio.sleep(0)
            self.ended = True


async def test_both_results_in_their_order_whoever_ends_first() -> None:
    one, other = _Step("one"), _Step("other")
    both = asyncio.ensure_future(together(one.run(), other.run()))
    other.may_end.set()
    await asyncio.sleep(0)
    assert not both.done()
    one.may_end.set()
    first, second = await both
    assert (first, second) == ("one", "other")


@pytest.mark.parametrize("first", [True, False])
async def test_where_one_fails_the_other_has_ended_when_it_is_told(first: bool) -> None:
    failing, waiting = _Step(), _Step("never")
    failing.may_end.set()
    with pytest.raises(ValueError, match="failed"):
        await together(*((failing.run(), waiting.run()) if first else (waiting.run(), failing.run())))
    assert failing.ended and waiting.ended


async def test_a_cancellation_waits_for_both() -> None:
    steps = _Step("one"), _Step("other")
    both = asyncio.ensure_future(together(steps[0].run(), steps[1].run()))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    both.cancel()
    with pytest.raises(asyncio.CancelledError):
        await both
    assert all(step.ended for step in steps)


@pytest.mark.parametrize("second_fails", [True, False])
async def test_what_the_first_of_two_raises_counts_whatever_the_one_beside_it_did(second_fails: bool) -> None:
    first, second = _Step(), _Step("" if second_fails else "never")
    if second_fails:
        second.may_end.set()
    both = asyncio.ensure_future(beside(first.run(), second.run()))
    for _ in range(4):
        await asyncio.sleep(0)
    assert not both.done()
    first.may_end.set()
    with pytest.raises(ValueError, match="failed"):
        await both
    assert first.ended and second.ended


async def test_one_that_went_on_beside_another_fails_once_that_has_its_result() -> None:
    first, second = _Step("one"), _Step()
    first.may_end.set()
    second.may_end.set()
    with pytest.raises(ValueError, match="failed"):
        await beside(first.run(), second.run())

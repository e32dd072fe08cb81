"""The one way in which workflows call the fabric: a declared capability, its own model in, its own model out."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import replace
from datetime import timedelta
from typing import Any, TypeVar, overload

from temporalio import workflow
from temporalio.common import RetryPolicy

from schemas.capability import Capability, In, Out, queue_of

A = TypeVar("A")
B = TypeVar("B")

RETRY = RetryPolicy(
    initial_interval=timedelta(milliseconds=500),
    backoff_coefficient=2.0,
    maximum_interval=timedelta(seconds=10),
    maximum_attempts=0,
)
"""Unlimited: what must not be tried again is marked non-retryable by the gate, everything else is an outage."""

TAKEN_UP_WITHIN = timedelta(seconds=10)
"""Longest wait for a worker on a queue that is not its pool's own: it may have gone."""
SUMMARY_BYTES = 200
"""What the server documents as the longest summary."""


async def call(
    capability: Capability[In, Out], request: In, *, summary: str | None = None, timeout: timedelta | None = None,
    attempts: int = 0, queue: str | None = None,
) -> Out:
    """Run ``capability`` on its pool.

    Args:
        summary: one line for the operator, shown beside the step in the Temporal UI; cut at 200 bytes.
        timeout: start-to-close, at most the ceiling of the capability (the default).
        attempts: give up after so many; 0: never, an outage is waited out.
        queue: instead of the pool's own; nobody taking it up in time is an ActivityError, too.

    Raises:
        temporalio.exceptions.ActivityError: its cause is an ApplicationError whose type is the stable code and whose
            first detail is ``{code, message, remedy}``.
    """
    waits = workflow.ActivityCancellationType.WAIT_CANCELLATION_COMPLETED
    result: Out = await workflow.execute_activity(
        capability.id,
        request,
        task_queue=queue or queue_of(capability.pool),
        result_type=capability.output,
        schedule_to_start_timeout=TAKEN_UP_WITHIN if queue else None,
        start_to_close_timeout=min(timeout or capability.timeout, capability.timeout),
        heartbeat_timeout=capability.heartbeat,
        retry_policy=replace(RETRY, maximum_attempts=attempts),
        # Only an activity that heartbeats hears of a cancellation; waiting for the others would wait for their end anyway.
        cancellation_type=waits if capability.heartbeat else workflow.ActivityCancellationType.TRY_CANCEL,
        summary=_cut(summary) if summary else None,
    )
    return result


@overload
async def together(first: Coroutine[Any, Any, A], second: Coroutine[Any, Any, B], /) -> tuple[A, B]: ...
@overload
async def together(*calls: Coroutine[Any, Any, A]) -> tuple[A, ...]: ...
async def together(*calls: Coroutine[Any, Any, Any]) -> tuple[Any, ...]:
    """All results. Where one raises, the others are cancelled and waited for, and that is raised."""
    tasks = [asyncio.ensure_future(one) for one in calls]
    try:
        return tuple(await asyncio.gather(*tasks))
    except BaseException:
        await _cancel(*tasks)
        raise


async def beside(first: Coroutine[Any, Any, A], second: Coroutine[Any, Any, B]) -> tuple[A, B]:
    """Both results. What ``first`` raises is raised, whatever comes of ``second``, which is cancelled and waited for."""
    task = asyncio.ensure_future(second)
    try:
        result = await first
    except BaseException:
        await _cancel(task)
        raise
    return result, await task


async def _cancel(*tasks: asyncio.Future[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _cut(text: str) -> str:
    return text.encode("utf-8")[:SUMMARY_BYTES].decode("utf-8", errors="ignore")

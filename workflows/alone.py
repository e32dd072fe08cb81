"""A session of its own, without the state machine: opened, worked on, closed, whatever happens. For what CI starts."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from temporalio.exceptions import ActivityError, FailureError, is_cancelled_exception

from schemas.capabilities import CLOSE_SESSION, OPEN_SESSION, REVIEW_REQUEST, CloseSession, OpenSession, ReviewRequest
from schemas.request import Rejection
from schemas.session import CloseReason, Outcome
from schemas.task import Phase, SessionContext
from workflows.calling import call
from workflows.doors import not_opened
from workflows.failing import Stop, failure_of, rejection_of, stop
from workflows.progress import Progress, label
from workflows.verdicts import denial

R = TypeVar("R")
Ending = tuple[CloseReason, Outcome | None, Rejection | None]


async def alone(
    opening: OpenSession, phase: Phase, progress: Progress, work: Callable[[SessionContext], Awaitable[tuple[R, Ending]]],
    refused: Callable[[SessionContext, Rejection, Outcome], R], started: Callable[[], None] = lambda: None,
) -> R:  # fmt: skip
    """Open a session, do ``work`` in it, close it.

    Args:
        refused: makes the result of a session that a refusal or a failure ended.
        started: called once the session is open.

    Raises:
        ApplicationError: InvalidInput where the session could not be opened, RUN_RESET; asyncio.CancelledError.
    """
    try:
        with progress.stage("intake"):
            context = await call(OPEN_SESSION, opening, summary="open the session")
    except ActivityError as error:
        if is_cancelled_exception(error):
            raise
        raise not_opened(rejection_of(error, "intake")) from None
    label(context, phase, opening.repository, "medium")
    try:
        started()
        result, ending = await work(context)
    except Stop as stopped:
        ending = (stopped.reason_code, stopped.outcome, stopped.rejection)
        result = refused(context, stopped.rejection, stopped.outcome)
    except (FailureError, asyncio.CancelledError) as error:
        if is_cancelled_exception(error):
            await _close("cancelled", "cancelled", None)
            raise
        if (failure := failure_of(error)) is not None and failure.type == "RUN_RESET":
            raise failure from None
        why = rejection_of(error, phase)
        killed = "KILL_SWITCH" in why.codes
        outcome: Outcome = "cancelled" if killed else "failed"
        ending = ("kill_switch" if killed else "failed_final", outcome, why)
        result = refused(context, why, outcome)
    await _close(*ending)
    return result


async def admitted(request: ReviewRequest, progress: Progress) -> None:
    """Raises Stop when policy does not admit the request."""
    with progress.stage("policy review"):
        review = await call(REVIEW_REQUEST, request, summary="is it admitted?")
        if review.decision != "allow":
            raise stop("policy review", *denial(review), outcome="rejected")


async def _close(reason: CloseReason, outcome: Outcome | None, rejection: Rejection | None) -> None:
    text = f"{', '.join(rejection.codes)}: {rejection.message}" if rejection else ""
    closing = CloseSession(reason_code=reason, outcome=outcome, reason=text[:2_000])
    await call(CLOSE_SESSION, closing, summary="close the session")

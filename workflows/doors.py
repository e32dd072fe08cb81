"""The start door: one lenient argument, so that wrong input fails at once with a readable reason and never hangs."""

from __future__ import annotations

from typing import Any, TypeVar

from temporalio.exceptions import ApplicationError

from schemas.request import InvalidRequest, Rejection, parse_request
from schemas.test_command import parse_test_command
from schemas.testing import TestPlan
from schemas.text import plain

M = TypeVar("M")


def accepted(model: type[M], request: Any, extra: tuple[Any, ...]) -> M:
    """The one JSON object that the workflow was started with, as its model.

    Raises:
        ApplicationError: ``InvalidInput``, non-retryable, saying what to send.
    """
    try:
        parsed: M = parse_request(model, request, extra)
    except InvalidRequest as error:
        raise invalid_input(str(error)) from None
    return parsed


def plan_of(test_command: tuple[str, ...]) -> TestPlan:
    """Raises: as :func:`accepted`."""
    try:
        return parse_test_command(test_command)
    except InvalidRequest as error:
        raise invalid_input(str(error)) from None


def invalid_input(reason: str) -> ApplicationError:
    return ApplicationError(plain(reason)[:2_000], type="InvalidInput", non_retryable=True)


def not_opened(why: Rejection) -> ApplicationError:
    """``InvalidInput`` of a request that fits its model, with what refused it as its detail."""
    remedy = f" — {why.remedy}" if why.remedy else ""
    reason = plain(f"{', '.join(why.codes)}: {why.message}{remedy}")[:2_000]
    return ApplicationError(reason, why.model_dump(mode="json"), type="InvalidInput", non_retryable=True)

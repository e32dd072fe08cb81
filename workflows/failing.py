"""From what Temporal raises to what people read: code, message, remedy."""

from __future__ import annotations

from collections.abc import Iterator

from temporalio.exceptions import ApplicationError, FailureError

from schemas.request import Rejection
from schemas.session import CloseReason, Outcome


class Stop(Exception):
    """A session ends here, by its own rules: no fix, no permission, no approval. Never leaves the workflow."""

    def __init__(self, outcome: Outcome, reason_code: CloseReason, rejection: Rejection) -> None:
        super().__init__(rejection.message)
        self.outcome: Outcome = outcome
        self.reason_code: CloseReason = reason_code
        self.rejection = rejection


def stop(stage: str, codes: tuple[str, ...], message: str, remedy: str = "", *, outcome: Outcome = "failed") -> Stop:
    """A ``failed_final`` ending."""
    return Stop(outcome, "failed_final", Rejection(stage=stage, codes=codes, message=message, remedy=remedy))


def failure_of(error: BaseException) -> ApplicationError | None:
    """The typed failure at the root of an activity's or a child's, or None."""
    return next((cause for cause in _causes(error) if isinstance(cause, ApplicationError)), None)


def rejection_of(error: BaseException, stage: str) -> Rejection:
    """``{code, message, remedy}`` of a failure, as the gate wrote it."""
    failure = failure_of(error)
    if failure is None:
        text = " ← ".join(str(cause) for cause in _causes(error))
        return Rejection(stage=stage, codes=("UNEXPECTED",), message=text[:1_000], remedy="see the workflow in the Temporal UI")
    detail = failure.details[0] if failure.details and isinstance(failure.details[0], dict) else {}
    code = failure.type or "UNEXPECTED"
    return Rejection(
        stage=stage, codes=(code,), message=str(detail.get("message") or failure.message)[:1_000],
        remedy=str(detail.get("remedy") or "")[:1_000], infrastructure=not failure.non_retryable,
    )  # fmt: skip


def _causes(error: BaseException) -> Iterator[BaseException]:
    current: BaseException | None = error
    while current is not None:
        yield current
        current = current.cause if isinstance(current, FailureError) else None

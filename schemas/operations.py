"""What the fabric's own schedules do: reap what was abandoned, reconcile what was not observed (contracts §2, §18)."""

from __future__ import annotations

from typing import Literal, get_args

from schemas.model import BlobRef, Payload

RunStatus = Literal["RUNNING", "COMPLETED", "FAILED", "CANCELED", "TERMINATED", "TIMED_OUT", "CONTINUED_AS_NEW", "UNKNOWN"]
"""What the server says of a run; a paused one counts as running."""
AbandonedCode = Literal["COMPLETED", "FAILED", "CANCELED", "TERMINATED", "TIMED_OUT", "VANISHED"]
"""How the workflow of a session ended that did not close itself; ``VANISHED``: the server knows no such run any more."""


class RunFacts(Payload):
    """One run as the server knows it. ``pending``: ids of the activities that may be attempted (again)."""

    run_id: str
    first_run_id: str
    status: RunStatus
    pending: tuple[str, ...] = ()

    @property
    def running(self) -> bool:
        """Continued runs go on in the next one; what nobody can name is left alone."""
        return self.status in ("RUNNING", "CONTINUED_AS_NEW", "UNKNOWN")


def abandoned_as(run: RunFacts | None) -> AbandonedCode | None:
    """Why a session that is open in the store will never close itself; None while its workflow may still do so. Total."""
    if run is None:
        return "VANISHED"
    return next((code for code in get_args(AbandonedCode) if code == run.status), None)


def may_be_attempted(run: RunFacts | None, activity_id: str) -> bool:
    """Whether the server may still hand out an attempt of this activity."""
    return run is not None and run.running and activity_id in run.pending


# --- reaper ----------------------------------------------------------------------------------------------------------


class FindAbandoned(Payload):
    """``after``: the session at which the last page ended."""

    after: str = ""
    limit: int = 200


class Abandoned(Payload):
    session_id: str
    workflow_id: str
    code: AbandonedCode


class AbandonedFound(Payload):
    """One page of the open sessions, looked up on the server. ``next`` is empty at the end."""

    sessions: tuple[Abandoned, ...] = ()
    examined: int = 0
    next: str = ""
    overdue: int = 0
    """Open reservations whose deadline is over."""


class ReapSession(Payload):
    """Names a session; whether it is abandoned the activity asks the server again."""

    session_id: str


class ExportedHistory(Payload):
    workflow_id: str
    run_id: str
    history: BlobRef


class Reaped(Payload):
    """``code`` is None, and nothing was changed, when the session was not abandoned or is closed already."""

    session_id: str
    code: AbandonedCode | None = None
    terminated: int = 0
    """Children that were still running."""
    voided: int = 0
    revoked: int = 0
    approvals: int = 0
    sandboxes: int = 0
    histories: tuple[ExportedHistory, ...] = ()


class ExpireReservations(Payload):
    pass


class Expired(Payload):
    reservations: int


class ReaperState(Payload):
    """Where a run that continues goes on."""

    after: str = ""
    examined: int = 0
    reaped: int = 0
    expired: int = 0
    failed: tuple[str, ...] = ()
    """Sessions that could not be reaped this time; the next run meets them again."""


# --- reconciliation --------------------------------------------------------------------------------------------------


class FindUnsettled(Payload):
    limit: int = 50


class Unsettled(Payload):
    """An effect of which nobody knows whether it happened. ``approval_id``: of the delivery that it was."""

    effect_key: str
    capability_id: str
    session_id: str
    approval_id: str | None = None


class UnsettledFound(Payload):
    effects: tuple[Unsettled, ...] = ()
    waiting: int = 0
    """Effects that another attempt may still settle by itself."""


class ReadBack(Payload):
    approval_id: str


class Observed(Payload):
    """What the target of a delivery says of it."""

    state: Literal["delivered", "absent", "unreachable"]
    ref: str = ""
    head: str = ""
    message: str = ""


class ReconcileEffect(Payload):
    effect_key: str
    observed: Observed | None = None
    """None: the effect was a record of ours or a content-addressed object; the activity looks for it."""


class Reconciled(Payload):
    """``outcome`` is None, and nothing was changed, when the effect settled by itself or its target did not answer."""

    effect_key: str
    outcome: Literal["succeeded", "failed"] | None = None
    code: str = ""


class ReconciliationReport(Payload):
    found: int = 0
    succeeded: int = 0
    failed: int = 0
    left: tuple[str, ...] = ()
    """Effects that stay unknown until the next run: a target did not answer, or the work on them failed."""
    waiting: int = 0

"""Release: redeem the approval, then deliver exactly what it names, once."""

from __future__ import annotations

import asyncio
from typing import Any

from temporalio import workflow
from temporalio.exceptions import ActivityError, is_cancelled_exception

from schemas.capabilities import DELIVER, REDEEM_APPROVAL, RedeemApproval
from schemas.details import stage_details
from schemas.jobs import ReleaseJob
from schemas.request import ReleaseResult
from schemas.session import State
from schemas.status import SessionStatus
from workflows.calling import call
from workflows.doors import accepted, invalid_input
from workflows.failing import failure_of, rejection_of
from workflows.progress import Progress, label


@workflow.defn(name="Release")
class Release:
    """Started by Remediation once an approval counts; returns :class:`schemas.request.ReleaseResult`."""

    @workflow.init
    def __init__(self, request: Any = None, *extra: Any) -> None:
        self._redeemed = False
        self._progress = Progress(self._show)

    @workflow.run
    async def run(self, request: Any = None, *extra: Any) -> ReleaseResult:
        if workflow.info().parent is None:
            raise invalid_input("Release is a part of a session: start Remediation instead")
        job = accepted(ReleaseJob, request, extra)
        label(job.context, "release", job.request.repository, "critical")
        try:
            await self._redeem(job)
            return (await self._deliver(job)).model_copy(update={"redeemed": True})
        except ActivityError as error:
            failure = failure_of(error)
            if is_cancelled_exception(error) or failure is None or failure.type == "RUN_RESET":
                raise
            why = rejection_of(error, "release")
            return ReleaseResult(codes=why.codes, message=why.message, remedy=why.remedy, redeemed=self._redeemed)

    @workflow.query(name="status", description="What this release is doing")
    def status(self) -> SessionStatus:
        return SessionStatus(state=State.VERIFYING, stages=self._progress.stages)

    async def _redeem(self, job: ReleaseJob) -> None:
        with self._progress.stage("redeem approval"):
            await call(
                REDEEM_APPROVAL,
                RedeemApproval(
                    approval_id=job.request.approval_id, action_digest=job.request.action_digest,
                    deliver_within_ms=job.context.config.deliver_within_ms,
                ),
                summary="single use",
            )  # fmt: skip
            self._redeemed = True

    async def _deliver(self, job: ReleaseJob) -> ReleaseResult:
        """Once it was begun it is carried through: a cancellation that comes now is too late, and must not hide the result."""
        with self._progress.stage("deliver", job.request.target_ref):
            delivery = asyncio.create_task(
                call(DELIVER, job.request, summary=f"{job.request.commit_id[:12]} → {job.request.target_ref}")
            )
            try:
                return await asyncio.shield(delivery)
            except asyncio.CancelledError:
                if delivery.done():
                    raise
                return await delivery

    def _show(self) -> None:
        workflow.set_current_details(stage_details("Release", self._progress.stages))

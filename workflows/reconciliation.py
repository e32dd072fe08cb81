"""Reconciliation: settles effects of which nobody knows whether they happened. A schedule starts it every minute.

1. Effects are found that no attempt can settle any more, by the server's record of their runs.
2. A delivery is read back from its target; other effects left a record of ours, or nothing.
3. Each is settled, with its reservation. Nothing is repeated; a target that does not answer is asked again by the next run.
"""

from __future__ import annotations

from typing import Any

from temporalio import workflow
from temporalio.exceptions import ActivityError, is_cancelled_exception

from schemas.capabilities import FIND_UNSETTLED, READ_BACK, RECONCILE_EFFECT
from schemas.operations import (
    FindUnsettled,
    Observed,
    ReadBack,
    Reconciled,
    ReconcileEffect,
    ReconciliationReport,
    Unsettled,
)
from workflows.calling import call
from workflows.failing import rejection_of

ATTEMPTS = 3
"""What fails that often waits for the next run."""


@workflow.defn(name="Reconciliation")
class Reconciliation:
    @workflow.run
    async def run(self, request: Any = None, *extra: Any) -> ReconciliationReport:
        found = await call(FIND_UNSETTLED, FindUnsettled(), summary="unobserved effects", attempts=ATTEMPTS)
        settled = [await self._settle(effect) for effect in found.effects]
        outcomes = [one.outcome for one in settled]
        report = ReconciliationReport(
            found=len(settled), succeeded=outcomes.count("succeeded"), failed=outcomes.count("failed"), waiting=found.waiting,
            left=tuple(f"{one.effect_key}: {one.code}" for one in settled if one.outcome is None),
        )  # fmt: skip
        workflow.set_current_details(f"{report.found} effects examined, {len(report.left)} left")
        return report

    async def _settle(self, effect: Unsettled) -> Reconciled:
        try:
            observed = await self._observe(effect)
            request = ReconcileEffect(effect_key=effect.effect_key, observed=observed)
            return await call(RECONCILE_EFFECT, request, summary=f"settle {effect.capability_id}", attempts=ATTEMPTS)
        except ActivityError as error:
            if is_cancelled_exception(error):
                raise
            return Reconciled(effect_key=effect.effect_key, code=", ".join(rejection_of(error, "reconcile").codes))

    async def _observe(self, effect: Unsettled) -> Observed | None:
        if effect.approval_id is None:
            return None
        return await call(READ_BACK, ReadBack(approval_id=effect.approval_id), summary="what the target says", attempts=ATTEMPTS)

"""Checkpoint: signs the heads of all chains, so that the loss of a tail or of a whole session shows. Started by a schedule."""

from __future__ import annotations

from typing import Any

from temporalio import workflow

from schemas.capabilities import TAKE_CHECKPOINT
from schemas.checkpoint import CheckpointTaken, TakeCheckpoint
from workflows.calling import call


@workflow.defn(name="Checkpoint")
class Checkpoint:
    @workflow.run
    async def run(self, request: Any = None, *extra: Any) -> CheckpointTaken:
        taken = await call(TAKE_CHECKPOINT, TakeCheckpoint(), summary="sign all heads", attempts=3)
        workflow.set_current_details(f"checkpoint {taken.number} over {taken.sessions} chains")
        return taken

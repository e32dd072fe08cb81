"""The smallest workflow that there is: one call of one capability, and none of our own workflows, which take long to load."""

from __future__ import annotations

from datetime import timedelta

from temporalio import workflow

from schemas.capabilities import FETCH_SOURCE, FetchSource
from schemas.task import Source


@workflow.defn(name="Remediation")
class OneActivity:
    """Named as one of ours, or the gate would let nothing run."""

    @workflow.run
    async def run(self, activity_queue: str) -> str:
        source: Source = await workflow.execute_activity(
            FETCH_SOURCE.id, FetchSource(repository="/repository", ref="HEAD"), task_queue=activity_queue,
            result_type=Source, start_to_close_timeout=timedelta(seconds=60), heartbeat_timeout=FETCH_SOURCE.heartbeat,
        )  # fmt: skip
        return source.base_tree

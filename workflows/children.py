"""Starting children: ids that survive a reset, cancellation that is waited for."""

from __future__ import annotations

from datetime import timedelta
from typing import TypeVar

from temporalio import workflow
from temporalio.common import RetryPolicy

from schemas.model import Payload

R = TypeVar("R", bound=Payload)


async def run_child(kind: str, job: Payload, result: type[R], *, summary: str, timeout: timedelta | None = None) -> R:
    """Run the workflow type ``kind`` on ``job`` and wait for its result.

    A cancelled parent cancels the child and waits for its end. The id is never a fixed one: a reset of the parent
    would meet the first child's id again and fail.
    """
    info = workflow.info()
    root = info.root.workflow_id if info.root else info.workflow_id
    done: R = await workflow.execute_child_workflow(
        kind,
        job,
        id=f"{root[:900]}/{kind.lower()}/{workflow.uuid4()}",
        result_type=result,
        retry_policy=RetryPolicy(maximum_attempts=1),
        execution_timeout=timeout,
        cancellation_type=workflow.ChildWorkflowCancellationType.WAIT_CANCELLATION_COMPLETED,
        parent_close_policy=workflow.ParentClosePolicy.REQUEST_CANCEL,
        static_summary=summary.encode()[:200].decode("utf-8", "ignore"),
    )
    return done

"""The server's record of runs for activities: they are plain methods in threads, the client lives on the worker's loop."""

from __future__ import annotations

import asyncio
import concurrent.futures
import re
import time
from collections.abc import Coroutine
from datetime import timedelta
from typing import Any, TypeVar, cast

from temporalio.api.enums.v1 import TaskQueueType, WorkflowExecutionStatus
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import DescribeTaskQueueRequest
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from schemas.capability import queue_of
from schemas.error import InfrastructureError
from schemas.operations import RunFacts, RunStatus

T = TypeVar("T")

RPC_TIMEOUT = timedelta(seconds=10)
POLLED_WITHIN_S = 65.0
IDENTITY = "/executor:"
"""Part of a worker's identity, before the tag of its executor."""
HISTORY_TIMEOUT_S = 60.0
_PREFIX = "WORKFLOW_EXECUTION_STATUS_"
_STATUSES = frozenset({"RUNNING", "COMPLETED", "FAILED", "CANCELED", "TERMINATED", "TIMED_OUT", "CONTINUED_AS_NEW"})


class ServerExecutions:
    """``activities.control.executions.Executions`` over a client. Never call it on ``loop`` itself: it blocks."""

    def __init__(self, client: Client, loop: asyncio.AbstractEventLoop) -> None:
        self._client = client
        self._loop = loop

    def describe(self, workflow_id: str, run_id: str | None = None) -> RunFacts | None:
        handle = self._client.get_workflow_handle(workflow_id, run_id=run_id)
        found = self._ask(handle.describe(rpc_timeout=RPC_TIMEOUT))
        if found is None:
            return None
        raw = found.raw_description
        info = raw.workflow_execution_info
        return RunFacts(
            run_id=info.execution.run_id, first_run_id=info.first_run_id, status=_status(info.status),
            pending=tuple(one.activity_id for one in raw.pending_activities),
        )  # fmt: skip

    def terminate(self, workflow_id: str, run_id: str, reason: str) -> bool:
        facts = self.describe(workflow_id, run_id)
        if facts is None or facts.status != "RUNNING":
            return False
        handle = self._client.get_workflow_handle(workflow_id, run_id=run_id)
        return self._ask(_done(handle.terminate(reason=reason, rpc_timeout=RPC_TIMEOUT))) is not None

    def history(self, workflow_id: str, run_id: str) -> dict[str, Any] | None:
        handle = self._client.get_workflow_handle(workflow_id, run_id=run_id)
        found = self._ask(handle.fetch_history(rpc_timeout=RPC_TIMEOUT), HISTORY_TIMEOUT_S)
        return None if found is None else found.to_json_dict()

    def executors_polling(self, namespace: str) -> set[str]:
        """Tags of the executors whose workers polled the adaptive pool within the time of one long poll."""
        request = DescribeTaskQueueRequest(
            namespace=namespace, task_queue=TaskQueue(name=queue_of("adaptive")),
            task_queue_type=TaskQueueType.TASK_QUEUE_TYPE_ACTIVITY,
        )  # fmt: skip
        found = self._ask(self._client.workflow_service.describe_task_queue(request, timeout=RPC_TIMEOUT))
        fresh = time.time() - POLLED_WITHIN_S
        pollers = () if found is None else found.pollers
        tags = (poller.identity.rpartition(IDENTITY)[2] for poller in pollers if poller.last_access_time.seconds >= fresh)
        return {tag for tag in tags if re.fullmatch("[0-9a-f]{16}", tag)}

    def _ask(self, coroutine: Coroutine[Any, Any, T], timeout: float = 15.0) -> T | None:
        """None where the server says that there is no such run, or that it has ended."""
        asked = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return asked.result(timeout)
        except RPCError as error:
            if error.status == RPCStatusCode.NOT_FOUND:
                return None
            raise _unavailable(error.status.name) from error
        except concurrent.futures.TimeoutError as error:
            asked.cancel()
            raise _unavailable(f"no answer in {timeout:.0f} s") from error


async def _done(coroutine: Coroutine[Any, Any, None]) -> bool:
    await coroutine
    return True


def _status(number: int) -> RunStatus:
    name = WorkflowExecutionStatus.Name(cast(Any, number)).removeprefix(_PREFIX)
    if name == "PAUSED":
        return "RUNNING"
    return cast(RunStatus, name) if name in _STATUSES else "UNKNOWN"


def _unavailable(why: str) -> InfrastructureError:
    return InfrastructureError("TEMPORAL_UNAVAILABLE", f"the server cannot be asked about a run: {why}", "run `gen4 status`")

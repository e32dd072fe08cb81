"""Stages with their times, and what the Temporal UI shows of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from temporalio import workflow
from temporalio.common import SearchAttributeKey

from schemas.details import repository_label
from schemas.status import Stage
from schemas.task import Phase, SessionContext

TENANT = SearchAttributeKey.for_keyword("Tenant")
SESSION_STATE = SearchAttributeKey.for_keyword("SessionState")
PHASE = SearchAttributeKey.for_keyword("Phase")
RISK = SearchAttributeKey.for_keyword("Risk")
REPOSITORY = SearchAttributeKey.for_keyword("Repository")


def now_ms() -> int:
    """Workflow time in UTC milliseconds; the same on replay."""
    return int(workflow.now().timestamp() * 1000)


def label(context: SessionContext, phase: Phase, repository: str, risk: str) -> None:
    """Make the workflow findable. Neither goal text nor credentials become search attributes."""
    workflow.upsert_search_attributes(
        [
            TENANT.value_set(context.keys.tenant_id),
            PHASE.value_set(phase),
            RISK.value_set(risk),
            REPOSITORY.value_set(repository_label(repository)),
        ]
    )


class Progress:
    """``show`` is called after every change; it renders the workflow's details."""

    def __init__(self, show: Callable[[], None]) -> None:
        self.stages: tuple[Stage, ...] = ()
        self._show = show

    @contextmanager
    def stage(self, name: str, note: str = "") -> Iterator[Callable[[str], None]]:
        """A stage lasts as long as the block, however it ends; the block gets what notes what it is doing or found.

        Raises:
            asyncio.CancelledError: the workflow was cancelled while the step before ended by itself, which hides it.
        """
        if workflow.cancellation_reason() is not None:
            raise asyncio.CancelledError
        index = len(self.stages)
        self.stages += (Stage(name=name, started_ms=now_ms(), note=note),)
        self._show()
        try:
            yield lambda text: self._replace(index, note=text)
        finally:
            self._replace(index, ended_ms=now_ms())

    def note(self, text: str) -> None:
        """What the latest stage is doing or found."""
        if self.stages:
            self._replace(len(self.stages) - 1, note=text)

    def adopt(self, prefix: str, stages: tuple[Stage, ...]) -> None:
        """Add the stages of a child that ended."""
        self.stages += tuple(stage.model_copy(update={"name": f"{prefix}: {stage.name}"}) for stage in stages)
        self._show()

    def _replace(self, index: int, **changes: object) -> None:
        changed = self.stages[index].model_copy(update=changes)
        self.stages = (*self.stages[:index], changed, *self.stages[index + 1 :])
        self._show()

"""The port to the server's own record of runs; ``workers/executions.py`` implements it. Arguments never say what it says."""

from __future__ import annotations

from typing import Any, Protocol

from schemas.operations import RunFacts


class Executions(Protocol):
    """Blocking. Each method raises InfrastructureError(TEMPORAL_UNAVAILABLE) when nobody answers."""

    def describe(self, workflow_id: str, run_id: str | None = None) -> RunFacts | None:
        """One run, without ``run_id`` the latest; None: the server knows no such run."""
        ...

    def terminate(self, workflow_id: str, run_id: str, reason: str) -> bool:
        """End a run at once; False if it had ended."""
        ...

    def executors_polling(self, namespace: str) -> set[str]:
        """Tags of the executors whose workers polled for runs lately."""
        ...

    def history(self, workflow_id: str, run_id: str) -> dict[str, Any] | None:
        """The whole history as JSON, payloads as they are on the wire; None: the server knows no such run."""
        ...

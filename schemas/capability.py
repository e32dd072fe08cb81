"""A capability: one thing that the fabric can do, declared once (contracts §5, design "Capability = contract")."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from typing import Any, Generic, Literal, TypeVar

from pydantic import BaseModel

from schemas.canonical import jcs_sha256, sha256_hex

In = TypeVar("In", bound=BaseModel)
Out = TypeVar("Out", bound=BaseModel)

Pool = Literal["stable", "adaptive", "forge", "signing"]
SideEffect = Literal["none", "read", "write", "irreversible"]
Server = Literal["store", "sandbox", "forge", "signer"]
Risk = Literal["low", "medium", "high", "critical"]

WORKFLOW_QUEUE = "gen4"


def queue_of(pool: Pool) -> str:
    return f"{WORKFLOW_QUEUE}.{pool}"


def queue_beside(pool: Pool, executor: str) -> str:
    """A second queue of a pool, served by the workers of one executor alone. ``executor``: hint of its key."""
    return f"{queue_of(pool)}.{executor_tag(executor)}"


def executor_tag(executor: str) -> str:
    """16 hex digits that stand for an executor in the names of queues and pollers."""
    return sha256_hex(executor.encode())[:16]


@dataclass(frozen=True, kw_only=True, eq=False)
class Capability(Generic[In, Out]):
    """Facts only: which phases and roles may use it is data in ``policies/``."""

    id: str
    input: type[In]
    output: type[Out]
    side_effect: SideEffect
    risk: Risk
    pool: Pool
    timeout: timedelta
    """Start-to-close ceiling; a call may ask for less."""
    heartbeat: timedelta | None = timedelta(seconds=5)
    """A dead worker is noticed after this long. The gate beats for every activity, so that none must do it by itself."""
    server: Server = "store"
    """What it depends on besides the store, for the breaker of that server."""
    metered: bool = False
    """It uses sandbox time: its cost is reserved before and settled after. Everything else is free."""
    containment: bool = False
    """It records or cleans up what was stopped, so kill switches, leases and budgets do not hold it back."""
    version: str = "1"

    @cached_property
    def descriptor_sha256(self) -> str:
        """Identity of what is declared: id, version, facts and the shapes of both models, without their descriptions."""
        return jcs_sha256(
            {
                "id": self.id, "version": self.version, "side_effect": self.side_effect, "risk": self.risk, "pool": self.pool,
                "server": self.server, "metered": self.metered, "containment": self.containment,
                "timeout_ms": round(self.timeout.total_seconds() * 1000),
                "input_schema": _shape(self.input.model_json_schema()), "output_schema": _shape(self.output.model_json_schema()),
            }
        )  # fmt: skip


def _shape(schema: Any) -> Any:
    """A JSON Schema without the texts for people."""
    if isinstance(schema, dict):
        return {key: _shape(value) for key, value in schema.items() if not (key in _TEXTS and isinstance(value, str))}
    return [_shape(item) for item in schema] if isinstance(schema, list) else schema


_TEXTS = frozenset({"title", "description"})

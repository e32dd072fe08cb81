"""One step of a trajectory: the seed's seven fields, and what makes them checkable (seed §6.1, contracts §9)."""

from __future__ import annotations

from typing import Any, Literal

from schemas.model import Payload, Sha256

OUTPUT_LIMIT = 16 * 1024
"""``tool_output`` is cut here, in bytes; the whole is in the content store."""


class ToolCall(Payload):
    name: str
    args: dict[str, Any]


class Redaction(Payload):
    """How often a rule took a secret out of a step's texts."""

    rule: str
    count: int


class TrajectoryStep(Payload):
    """A line of ``trajectory.jsonl``: JCS bytes and LF. ``snapshot_hash``: sha256 over sorted lines
    ``mode SP sha256 SP path LF`` of all files and links."""

    step_id: str
    timestamp: str
    agent_id: str
    thought: str
    tool_call: ToolCall | None
    tool_output: str
    snapshot_hash: Sha256
    seq: int
    role: Literal["system", "user", "agent"]
    candidate_id: str | None = None
    prev_hash: Sha256
    tool_output_sha256: Sha256
    tool_output_bytes: int
    truncated: bool = False
    recorder: Literal["kernel", "agent"] = "kernel"
    redactions: tuple[Redaction, ...] = ()

"""The trajectory of a patch that no engine of ours explored: one step that says so (contracts §10)."""

from __future__ import annotations

from uuid import UUID, uuid5

from schemas.canonical import jcs, sha256_hex
from schemas.evidence import timestamp_of
from schemas.task import Source
from schemas.testing import Patch
from schemas.trajectory import ToolCall, TrajectoryStep

_NAMESPACE = UUID("6f1d1f6a-6d4b-5c51-9a3f-0d8a4be2c7a1")
AGENT = "external"
GENESIS = "0" * 64


def external_trajectory(source: Source, patch: Patch, snapshot_hash: str) -> bytes:
    """Id and time follow from the input alone, so a second assembly gives the same bytes."""
    output = b""
    step = TrajectoryStep(
        step_id=str(uuid5(_NAMESPACE, f"{source.base_commit}:{patch.patch_sha256}")),
        timestamp=timestamp_of(source.commit_time),
        agent_id=AGENT,
        thought="",
        tool_call=ToolCall(name="import_patch", args={"patch_sha256": patch.patch_sha256, "result_tree": patch.result_tree}),
        tool_output="",
        snapshot_hash=snapshot_hash,
        seq=1,
        role="agent",
        prev_hash=GENESIS,
        tool_output_sha256=sha256_hex(output),
        tool_output_bytes=len(output),
    )
    return jcs(step) + b"\n"

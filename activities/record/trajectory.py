"""Trajectories: what an engine did, step by step, as hash-linked JSON lines (contracts §9).

``prev_hash`` is the sha256 of the line before, without its LF; 64 zeros in the first. A text is redacted first, then hashed,
then cut. The links show that nothing was changed after recording, not that it was true.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Literal

import rfc8785
from pydantic import ValidationError

from activities.record.blobs import BlobStore
from activities.record.redaction import Redactor
from schemas.canonical import StrictJsonError, jcs, sha256_hex, strict_json
from schemas.error import InputError, Refused
from schemas.event import GENESIS
from schemas.trajectory import OUTPUT_LIMIT, Redaction, ToolCall, TrajectoryStep


def _now() -> datetime:
    return datetime.now(UTC)


class TrajectoryWriter:
    """Collects the steps of one agent or engine.

    Args:
        blobs: keeps the whole of each output that is cut.
        steps: of an earlier attempt, to go on from.
    """

    def __init__(
        self,
        agent_id: str,
        blobs: BlobStore,
        steps: tuple[TrajectoryStep, ...] = (),
        clock: Callable[[], datetime] = _now,
    ) -> None:
        self._agent_id = agent_id
        self._blobs = blobs
        self._clock = clock
        self._steps = list(steps)

    @property
    def steps(self) -> tuple[TrajectoryStep, ...]:
        return tuple(self._steps)

    def add(
        self,
        *,
        thought: str,
        snapshot_hash: str,
        tool_call: ToolCall | None = None,
        tool_output: str | bytes = "",
        role: Literal["system", "user", "agent"] = "agent",
        candidate_id: str | None = None,
        recorder: Literal["kernel", "agent"] = "kernel",
        step_id: str | None = None,
    ) -> TrajectoryStep:
        """Append a step and return it.

        Args:
            snapshot_hash: of the tree after the step, see ``ObjectStore.snapshot_hash``.
            step_id: a UUID; a random one by default.

        Raises:
            InputError: NOT_CANONICAL for arguments with NaN, integers of 2**53 and more, or lone surrogates.
        """
        redactor = Redactor()
        output = redactor.text(_printable(tool_output)).encode()
        cut = output[:OUTPUT_LIMIT].decode("utf-8", "ignore")
        truncated = len(output) > OUTPUT_LIMIT
        if truncated:
            self._blobs.put(output, "text/plain; charset=utf-8")
        args = None if tool_call is None else redactor.json(tool_call.args)
        _canonical(args)  # raises now rather than when the lines are wanted; a model would turn NaN into null
        call = None if tool_call is None else ToolCall(name=tool_call.name, args=args)
        step = TrajectoryStep(
            step_id=step_id or str(uuid.uuid4()),
            timestamp=self._clock().astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            agent_id=self._agent_id,
            thought=redactor.text(_printable(thought)),
            tool_call=call,
            tool_output=cut,
            snapshot_hash=snapshot_hash,
            seq=len(self._steps) + 1,
            role=role,
            candidate_id=candidate_id,
            prev_hash=sha256_hex(line(self._steps[-1])) if self._steps else GENESIS,
            tool_output_sha256=sha256_hex(output),
            tool_output_bytes=len(output),
            truncated=truncated,
            recorder=recorder,
            redactions=tuple(Redaction(rule=rule, count=count) for rule, count in sorted(redactor.counts.items())),
        )
        self._steps.append(step)
        return step

    def lines(self) -> bytes:
        """``trajectory.jsonl``: one line per step, each with its LF."""
        return b"".join(line(step) + b"\n" for step in self._steps)


def line(step: TrajectoryStep) -> bytes:
    """JCS bytes of a step, without LF. ``tool_call`` is one of the seven fields and stays, as null."""
    fields: dict[str, Any] = step.model_dump(mode="json")
    if step.candidate_id is None:
        del fields["candidate_id"]
    return jcs(fields)


def read_trajectory(data: bytes) -> tuple[TrajectoryStep, ...]:
    """The steps of ``trajectory.jsonl``, checked: canonical lines, gapless numbers, every link.

    Raises:
        Refused: TRAJECTORY_CHAIN, naming the first bad line.
    """
    if not data.endswith(b"\n"):
        raise _broken(data.count(b"\n") + 1, "the last line does not end with LF")
    steps: list[TrajectoryStep] = []
    previous = GENESIS
    for number, text in enumerate(data[:-1].split(b"\n"), start=1):
        try:
            step = TrajectoryStep.model_validate(strict_json(text))
        except (StrictJsonError, ValidationError) as error:
            raise _broken(number, f"it is not a step: {str(error)[:200]}") from error
        if line(step) != text:
            raise _broken(number, "it is not in canonical form")
        if step.seq != number:
            raise _broken(number, f"its seq is {step.seq}")
        if step.prev_hash != previous:
            raise _broken(number, "it does not follow the line before it")
        if not step.truncated and sha256_hex(step.tool_output.encode()) != step.tool_output_sha256:
            raise _broken(number, "its output is not the one that was hashed")
        previous = sha256_hex(text)
        steps.append(step)
    return tuple(steps)


def _printable(text: str | bytes) -> str:
    """Valid Unicode: bytes that are not UTF-8, and lone surrogates, appear as escapes."""
    data = text if isinstance(text, bytes) else text.encode("utf-8", "backslashreplace")
    return data.decode("utf-8", "backslashreplace")


def _broken(number: int, why: str) -> Refused:
    return Refused("TRAJECTORY_CHAIN", f"trajectory line {number}: {why}", "get the trajectory as it was recorded")


def _canonical(value: Any) -> bytes:
    try:
        return jcs(value)
    except rfc8785.CanonicalizationError as error:
        raise InputError("NOT_CANONICAL", f"the step has no canonical JSON: {error}", "send such values as strings") from error

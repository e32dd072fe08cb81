"""One pass over a trajectory that may be hostile and larger than memory: the bytes that are hashed are those that are parsed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO

from pydantic import ValidationError

from activities.evidence.content import LINE_LIMIT
from schemas.canonical import StrictJsonError, sha256_hex, strict_json
from schemas.event import GENESIS
from schemas.evidence import VALUE_LIMIT
from schemas.trajectory import TrajectoryStep


@dataclass(frozen=True)
class Defect:
    """The first line that is wrong, and how."""

    reason: str
    text: str


@dataclass
class Scan:
    """``sha256`` and ``size``: of all bytes that were read, whatever they hold."""

    sha256: str = ""
    size: int = 0
    too_long: int = 0
    """Number of a line that is longer, or of more values, than a step needs; it was hashed but not parsed."""
    not_strict: Defect | None = None
    broken: Defect | None = None
    """Where the chain of steps breaks."""
    last: TrajectoryStep | None = None
    head: str = GENESIS
    length: int = 0
    stopped: bool = False
    """The time was over before the end; then nothing here counts."""


def scan(file: IO[bytes], limit: int, in_time: Callable[[], bool] = lambda: True) -> Scan:
    """Read to the end, or one line past ``limit`` bytes. One line is in memory at a time."""
    found, digest, ended = Scan(), hashlib.sha256(), True
    while found.size <= limit and (line := file.readline(LINE_LIMIT + 1)):
        if not in_time():
            return Scan(stopped=True)
        digest.update(line)
        found.size += len(line)
        found.length += 1
        ended = line.endswith(b"\n")
        if not found.too_long and (len(line) > LINE_LIMIT or values_in(line) > VALUE_LIMIT):
            found.too_long = found.length
        if not found.too_long and found.not_strict is None:
            _read_line(line.removesuffix(b"\n"), found)
    if not ended or not found.length:
        found.not_strict = found.not_strict or Defect("trailing", "no final LF")
    found.sha256 = digest.hexdigest()
    return found


def values_in(data: bytes) -> int:
    """At least as many as a JSON document has values, short of one; found without parsing it."""
    return sum(map(data.count, (b",", b"[", b"{")))


def _read_line(text: bytes, found: Scan) -> None:
    try:
        value = strict_json(text)
    except StrictJsonError as error:
        found.not_strict = Defect(error.reason, f"line {found.length}: {error}")
        return
    if found.broken is not None:
        return
    try:
        step = TrajectoryStep.model_validate(value)
    except ValidationError as error:
        found.broken = Defect("step", f"line {found.length}: {error.error_count()} mistakes")
        return
    found.broken = _link(step, found)
    found.head, found.last = sha256_hex(text), step


def _link(step: TrajectoryStep, found: Scan) -> Defect | None:
    if step.seq != found.length:
        return Defect("seq", f"line {found.length} has seq {step.seq}")
    if step.prev_hash != found.head:
        return Defect("link", f"line {found.length} does not follow the line before it")
    if not step.truncated and sha256_hex(step.tool_output.encode()) != step.tool_output_sha256:
        return Defect("output", f"line {found.length}: its output is not the one that was hashed")
    return None

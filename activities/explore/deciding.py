"""The host's end of mode ``forkserver``: edits go in, verdicts come out in the same order."""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol, get_args

from activities.explore.templates import Edit
from activities.kernel.sandbox.port import SandboxProcess
from activities.testbed.protocol import HarnessBroken, parse_line
from schemas.error import InfrastructureError

VerdictName = Literal["plausible", "breaks", "fails", "same", "invalid", "timeout", "broken"]
_VERDICTS = frozenset(get_args(VerdictName))
_DETAIL_CHARS = 1_000
_PATIENCE_S = 0.5
_SILENCE_S = 900.0
"""A server that says nothing for this long is gone: each test in it has its own, much shorter, limit."""


@dataclass(frozen=True)
class Decided:
    """What the fork server found for one edit. ``detail``: the test that was lost, or why it does not compile."""

    number: int
    verdict: VerdictName
    mended: tuple[str, ...] = ()
    detail: str = ""
    how: Literal["swap", "import"] = "swap"
    """Whether functions got new code, or the module was imported anew."""


@dataclass(frozen=True)
class Ready:
    """``unsteady``: tests that do not do in a fork what they did on base; they are left to the confirmation."""

    collected: int
    unsteady: tuple[str, ...]


class CandidateServer(Protocol):
    def submit(self, number: int, edit: Edit, targets: tuple[int, ...]) -> None: ...

    def next(self) -> Decided: ...


class ForkServer:
    """A started sandbox in mode ``forkserver``. ``heartbeat`` is called at least every second while it is waited for."""

    def __init__(self, process: SandboxProcess, heartbeat: Callable[[], None]) -> None:
        self._process, self._heartbeat = process, heartbeat
        self._asked: deque[int] = deque()

    def ready(self) -> Ready:
        """Wait until the tests are collected and were run once unedited.

        Raises:
            InfrastructureError: FORK_SERVER_GONE.
        """
        message = self._receive("ready")
        if message.get("codes"):
            raise InfrastructureError("FORK_SERVER_GONE", f"the tests could not be collected: {message['codes']}")
        collected = message.get("collected")
        return Ready(collected if isinstance(collected, int) else 0, _texts(message.get("unsteady")))

    def submit(self, number: int, edit: Edit, targets: tuple[int, ...]) -> None:
        """Ask for a verdict on ``edit``, decided on the failing tests at ``targets``."""
        request = {
            "kind": "try",
            "id": number,
            "path": edit.path,
            "start": edit.start,
            "end": edit.end,
            "text": edit.text,
            "targets": targets,
        }
        self._asked.append(number)
        self._process.send(json.dumps(request).encode() + b"\n")

    def next(self) -> Decided:
        """The verdict on the oldest edit that is still open.

        Raises:
            InfrastructureError: FORK_SERVER_GONE.
        """
        message = self._receive("verdict")
        number = self._asked.popleft()
        verdict: Any = message.get("verdict")
        if message.get("id") != number or verdict not in _VERDICTS:
            raise InfrastructureError(
                "FORK_SERVER_GONE", f"the fork server answered {verdict!r} for {message.get('id')!r} instead of {number}"
            )
        return Decided(
            number,
            verdict,
            _texts(message.get("mended")),
            str(message.get("detail", ""))[:_DETAIL_CHARS],
            "import" if message.get("how") == "import" else "swap",
        )

    def _receive(self, kind: str) -> dict[str, Any]:
        ends_at = time.monotonic() + _SILENCE_S
        while time.monotonic() < ends_at:
            self._heartbeat()
            try:
                line = self._process.line(_PATIENCE_S)
            except TimeoutError:
                continue
            if line is None:
                raise InfrastructureError("FORK_SERVER_GONE", "the fork server's sandbox ended")
            try:
                message = parse_line(line)
            except HarnessBroken as error:
                raise InfrastructureError("FORK_SERVER_GONE", f"the fork server wrote no report: {error}") from error
            if message.get("kind") == kind:
                return message
            if message.get("kind") == "end":
                raise InfrastructureError(
                    "FORK_SERVER_GONE", f"the fork server ended: {message.get('codes')} {str(message.get('tail', ''))[-500:]}"
                )
        raise InfrastructureError("FORK_SERVER_GONE", f"the fork server was silent for {_SILENCE_S:.0f} s")


def _texts(value: object) -> tuple[str, ...]:
    """What foreign code may have written, as texts."""
    return tuple(item for item in value if isinstance(item, str)) if isinstance(value, list) else ()

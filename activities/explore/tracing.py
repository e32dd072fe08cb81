"""Localisation of a request: mode ``trace`` of the runner, read into spectra, ranked by Ochiai."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from activities.explore.localize import Spectrum, rank
from activities.explore.product import files_of
from activities.kernel.sandbox.port import SandboxProcess
from activities.testbed.protocol import HarnessBroken, parse_line
from schemas.candidate import Suspect
from schemas.capabilities import Localize
from schemas.error import InfrastructureError
from schemas.testing import FAILING, Outcomes

PASSING_SHARE = 0.25
"""Of the wall time of a run: passing tests are traced no longer than this; the ranking gets coarser, not wrong."""
_PATIENCE_S = 0.5


def targets_of(outcomes: Outcomes, named: tuple[str, ...]) -> tuple[str, ...]:
    """The failing tests to mend: the named ones, else all that fail."""
    if named:
        return tuple(dict.fromkeys(named))
    return tuple(sorted(nodeid for nodeid, outcome in outcomes.items() if outcome in FAILING))


def trace_job(request: Localize, outcomes: Outcomes, targets: tuple[str, ...]) -> dict[str, Any]:
    """What mode ``trace`` needs beside the common fields."""
    return {
        "targets": list(targets),
        "passing": [nodeid for nodeid, outcome in outcomes.items() if outcome == "passed"],
        "passing_ms": int(request.limits.wall_ms * PASSING_SHARE),
        "memory_mb": request.limits.memory_mb,
    }


def read_spectra(
    process: SandboxProcess, targets: tuple[str, ...], outcomes: Outcomes, heartbeat: Callable[[], None]
) -> tuple[list[Suspect], int]:
    """The ranking, and how many tests it rests on.

    Raises:
        InfrastructureError: TRACE_FAILED.
    """
    failing: dict[str, dict[str, set[int]]] = {nodeid: {} for nodeid in targets}
    passing: dict[str, dict[int, int]] = {}
    while True:
        message = _receive(process, heartbeat)
        kind = message["kind"]
        try:
            if kind == "spectrum" and message["id"] in failing and message["outcome"] != "passed":
                failing[message["id"]] = {path: set(map(int, lines)) for path, lines in message["lines"].items()}
            elif kind == "passing":
                passing[message["path"]] = {int(line): int(count) for line, count in message["lines"].items()}
            elif kind == "end":
                if message["codes"]:
                    raise InfrastructureError("TRACE_FAILED", f"{message['codes']}: {str(message.get('tail', ''))[-500:]}")
                spectra = [Spectrum(nodeid, failing[nodeid]) for nodeid in targets]
                return rank(spectra, passing, files_of(list(outcomes))), len(targets) + int(message["passed"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InfrastructureError("TRACE_FAILED", f"the runner reported nonsense: {error}") from error


def _receive(process: SandboxProcess, heartbeat: Callable[[], None]) -> dict[str, Any]:
    while True:
        heartbeat()
        try:
            line = process.line(_PATIENCE_S)
        except TimeoutError:
            continue
        if line is None:
            raise InfrastructureError("TRACE_FAILED", "the sandbox ended before the localisation did")
        try:
            return parse_line(line)
        except HarnessBroken as error:
            raise InfrastructureError("TRACE_FAILED", str(error)) from error

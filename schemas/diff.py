"""``gen4 ga diff``: the door of workflow ``GaDiff`` and what comes back (contracts §18)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from schemas.gates import GateReport
from schemas.limits import LimitRequest
from schemas.model import Door, GitId, Payload
from schemas.regression import Waivers
from schemas.request import Budget, Rejection, Text, Word


class DiffRequest(Door):
    """Compare two commits of a repository: is anything worse on ``head`` than it was on ``base``?"""

    repository: Text
    base: str
    head: str = "HEAD"
    test_command: tuple[str, ...] = ()
    requirements: tuple[str, ...] = ()
    """For both commits; default: each from its own metadata, so that a change of dependencies shows."""
    runs: Annotated[int, Field(ge=2, le=10)] = 3
    """Of the tests, on each commit in turn. Two decide about tests; with fewer than three, timings prove nothing."""
    benchmark: Annotated[tuple[Word, ...], Field(max_length=256)] = ()
    """argv of a command whose time counts; run on both commits in turn, inside the sandbox."""
    benchmark_runs: Annotated[int, Field(ge=3, le=20)] = 5
    """Sandboxes of the benchmark on each commit."""
    limits: LimitRequest = LimitRequest()
    budget: Budget | None = None
    waivers: Waivers = ()


DiffVerdict = Literal["pass", "fail", "inconclusive"]


class DiffResult(Payload):
    """The result of ``GaDiff`` and what ``gen4 ga diff --json`` prints. ``report`` is absent where nothing could be compared."""

    workflow_id: str
    run_id: str
    session_id: str
    verdict: DiffVerdict
    base_commit: GitId | None = None
    head_commit: GitId | None = None
    report: GateReport | None = None
    rejection: Rejection | None = None
    """Why there is no report: stage, codes, remedy."""

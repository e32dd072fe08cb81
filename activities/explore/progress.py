"""How far a search got: everything that its next attempt needs to go on as if nothing had happened."""

from __future__ import annotations

from schemas.candidate import Candidate
from schemas.model import Payload
from schemas.trajectory import TrajectoryStep


class Progress(Payload):
    """The cursor of a search. ``consumed`` edits of the space, in its fixed order, have a verdict."""

    consumed: int = 0
    tried: int = 0
    """Edits that compiled and were decided by running tests."""
    offered: int = 0
    first_complete: int | None = None
    """``tried`` when the first complete patch was found."""
    first_partial: int | None = None
    partial_at: int | None = None
    """``consumed`` when the first partial patch was found."""
    elapsed_ms: int = 0
    """Of all attempts together."""
    verdicts: dict[str, int] = {}
    """Verdicts since the last summary step."""
    found: tuple[Candidate, ...] = ()
    steps: tuple[TrajectoryStep, ...] = ()


def should_stop(progress: Progress, keep: int) -> bool:
    """Enough was found, or searching on would cost more than finding the first one did.

    Counted in tried edits and not in time, so that a resumed search stops where an undisturbed one does.
    """
    complete = sum(candidate.fix == "complete" for candidate in progress.found)
    if complete >= keep:
        return True
    if progress.first_complete is not None:
        return progress.tried >= progress.first_complete + min(MORE_MAX, max(MORE_MIN, progress.first_complete))
    if progress.first_partial is not None:
        return progress.tried >= progress.first_partial + PARTIAL_MORE
    return False


MORE_MIN = 60
"""Edits that are tried after the first complete patch, at least …"""
MORE_MAX = 1_000
"""… and at most: others found there are ranked beside it."""
PARTIAL_MORE = 1_500
"""Edits that are tried for a complete patch after a partial one was found."""


def ranked(found: tuple[Candidate, ...], diff_sizes: dict[str, int]) -> tuple[Candidate, ...]:
    """Complete first, then score, then the smaller diff, then the patch's digest. ``diff_sizes``: bytes by patch digest."""

    def key(candidate: Candidate) -> tuple[bool, float, int, str]:
        digest = candidate.patch.patch_sha256
        return candidate.fix != "complete", -candidate.score, diff_sizes[digest], digest

    ordered = sorted(found, key=key)
    return tuple(candidate.model_copy(update={"rank": rank}) for rank, candidate in enumerate(ordered, start=1))

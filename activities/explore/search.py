"""The search: edits in the order of the space, decided in forks, confirmed in a fresh process, kept when they hold.

1 go on from the cursor, or begin            4 confirm a plausible one in a fresh process on the real tree
2 submit a few edits ahead of their verdicts 5 save the cursor when it is due
3 take the verdict on the oldest             6 stop: enough, nothing left, steps or time used up
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Protocol

from activities.explore.deciding import CandidateServer, Decided
from activities.explore.progress import MORE_MIN, Progress, should_stop
from activities.explore.space import Ranked, Space
from activities.explore.splice import Splices
from schemas.candidate import Candidate, StopReason

AHEAD = 4
"""Edits submitted before their verdicts are read: hides the way to the sandbox and back."""
BATCH = 250
"""Tried edits that one summary step of the trajectory stands for."""
SAVE_EVERY_S = 1.5
"""A killed worker loses at most this much, and what it takes to start again."""


@dataclass(frozen=True)
class Goal:
    """``targets``: the failing tests; ``named``: the request named them, so all must pass; ``steps``: edits tried at most."""

    targets: tuple[str, ...]
    named: bool
    keep: int
    wall_ms: int
    steps: int


class Journal(Protocol):
    """Where the search leaves what it did."""

    def summary(self, verdicts: dict[str, int], tried: int) -> None:
        """A batch of edits was decided."""

    def confirm(self, ranked: Ranked, decided: Decided, tried: int) -> Candidate | None:
        """Run the whole suite on the patched tree in a fresh process; None when the patch does not hold there."""

    def save(self, progress: Progress) -> None:
        """Make ``progress`` durable, with the steps recorded so far."""


@dataclass
class Search:
    """One attempt. ``clock`` counts seconds."""

    space: Space
    server: CandidateServer
    journal: Journal
    goal: Goal
    progress: Progress
    clock: Callable[[], float] = time.monotonic
    _open: deque[tuple[Ranked, bool]] = field(default_factory=deque)
    _splices: Splices = field(default_factory=Splices)

    def run(self) -> StopReason:
        self._began, self._saved = self.clock(), self.clock()
        self._before_ms = self.progress.elapsed_ms
        edits = islice(self.space.ranked(), self.progress.consumed, None)
        while True:
            if should_stop(self.progress, self.goal.keep):
                return self._end("enough")
            if self._elapsed_ms() >= self.goal.wall_ms:
                return self._end("wall_time")
            if self.progress.tried >= self.goal.steps:
                return self._end("steps")
            self._submit_ahead(edits)
            if not self._open:
                return self._end("exhausted")
            ranked, sent = self._open[0]
            decided = self.server.next() if sent else Decided(0, "invalid")
            self._open.popleft()
            self._take(ranked, decided, sent)

    def skip_lost(self) -> Progress:
        """The progress to go on with after the server died: the edit that it was busy with counts as broken."""
        if self._open:
            ranked, sent = self._open.popleft()
            self._take(ranked, Decided(0, "broken"), sent)
        return self.progress

    def _submit_ahead(self, edits: Iterator[Ranked]) -> None:
        while len(self._open) < AHEAD and (ranked := next(edits, None)) is not None:
            targets = self._targets(ranked, self.progress.consumed + len(self._open))
            sent = bool(targets) and self._compiles(ranked)
            if sent:
                self.server.submit(self.progress.consumed + len(self._open) + 1, ranked.edit, targets)
            self._open.append((ranked, sent))

    def _targets(self, ranked: Ranked, position: int) -> tuple[int, ...]:
        """The failing tests to decide on: those that run the line. Where all must pass, all must run it; none: not tried.

        After a partial patch only complete ones are looked for. That begins behind the edits that were already submitted then,
        so that a resumed search leaves out the same ones.
        """
        if not ranked.covering:
            return tuple(range(len(self.goal.targets)))
        # A test that runs no product line in its own process (it may start others) says nothing about lines.
        partial_at = self.progress.partial_at
        all_needed = self.goal.named or (partial_at is not None and position > partial_at + MORE_MIN)
        return ranked.covering if not all_needed or set(ranked.covering) >= self.space.covered else ()

    def _compiles(self, ranked: Ranked) -> bool:
        module = self.space.module(ranked.edit.path)
        return module is not None and self._splices.compiles(module.data, ranked.edit)

    def _take(self, ranked: Ranked, decided: Decided, sent: bool) -> None:
        verdicts = dict(self.progress.verdicts)
        if sent:
            verdicts[decided.verdict] = verdicts.get(decided.verdict, 0) + 1
        tried = self.progress.tried + int(sent and decided.verdict not in ("same", "invalid"))
        batch_full = tried % BATCH == 0 and tried > self.progress.tried
        self._update(consumed=self.progress.consumed + 1, tried=tried, offered=self.space.offered, verdicts=verdicts)
        plausible = decided.verdict == "plausible"
        if batch_full or plausible:
            self.journal.summary(verdicts, tried)
            self._update(verdicts={})
        if plausible:
            self._confirm(ranked, decided)
        if plausible or batch_full or self.clock() - self._saved >= SAVE_EVERY_S:
            self._save()

    def _confirm(self, ranked: Ranked, decided: Decided) -> None:
        complete = len(decided.mended) == len(self.goal.targets)
        partial = sum(candidate.fix != "complete" for candidate in self.progress.found)
        if not complete and partial >= self.goal.keep:
            return
        candidate = self.journal.confirm(ranked, decided, self.progress.tried)
        if candidate is None or candidate.candidate_id in {known.candidate_id for known in self.progress.found}:
            return
        first = {"first_complete": self.progress.first_complete, "first_partial": self.progress.first_partial}
        name = "first_complete" if candidate.fix == "complete" else "first_partial"
        if first[name] is None:
            first[name] = self.progress.tried
            if name == "first_partial":
                first["partial_at"] = self.progress.consumed
        self._update(found=(*self.progress.found, candidate), **first)

    def _update(self, **changes: object) -> None:
        self.progress = self.progress.model_copy(update=changes)

    def _elapsed_ms(self) -> int:
        return self._before_ms + int((self.clock() - self._began) * 1000)

    def _save(self) -> None:
        self._update(elapsed_ms=self._elapsed_ms())
        self.journal.save(self.progress)
        self._saved = self.clock()

    def _end(self, reason: StopReason) -> StopReason:
        self._save()
        return reason

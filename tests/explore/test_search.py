"""The search loop alone: order, budget, stop rules, and resumption at every possible point."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from activities.explore.deciding import Decided, VerdictName
from activities.explore.progress import MORE_MIN, PARTIAL_MORE, Progress, ranked, should_stop
from activities.explore.search import Goal, Search
from activities.explore.space import Ranked, Space
from activities.explore.templates import Edit
from schemas.candidate import Candidate, Suspect
from schemas.model import BlobRef
from schemas.testing import Patch
from schemas.verdict import Completeness

WALL_MS = 10**9
SOURCE = b"def f(a, b):\n    if a < b:\n        return a + 1\n    return b\n"
SUSPECTS = [Suspect(path="m.py", line=line, score=0.5, failed=1, passed=3, covering=(0, 1)) for line in (2, 3, 4)]


def space() -> Space:
    return Space(SUSPECTS, {"m.py": SOURCE}.get)


def candidate(digest: str, fix: Completeness = "complete", score: float = 0.5) -> Candidate:
    blob = BlobRef(sha256=digest * 64, size=1)
    patch = Patch(base_tree="0" * 40, result_tree="1" * 40, diff=blob, patch_sha256=digest * 64, paths=("m.py",))
    return Candidate(
        candidate_id=digest, engine="templates", engine_version="1", patch=patch, fix=fix, trajectory=blob,
        trajectory_sha256=digest * 64, score=score,
    )  # fmt: skip


class Dead(Exception):
    """The worker is killed."""


@dataclass
class Server:
    """Verdicts are a function of the edit; it dies before the verdict with number ``dies``."""

    plausible: frozenset[str]
    mended: tuple[str, ...] = ("a", "b")
    dies: int = 10**9
    asked: list[tuple[int, Edit, tuple[int, ...]]] = field(default_factory=list)
    answered: int = 0

    def submit(self, number: int, edit: Edit, targets: tuple[int, ...]) -> None:
        self.asked.append((number, edit, targets))

    def next(self) -> Decided:
        if self.answered >= self.dies:
            raise Dead
        number, edit, _ = self.asked[self.answered]
        self.answered += 1
        verdict: VerdictName = "plausible" if edit.text in self.plausible else "fails"
        return Decided(number, verdict, self.mended if verdict == "plausible" else ())


@dataclass
class Journal:
    """Keeps what is told, and the last saved progress."""

    told: list[object] = field(default_factory=list)
    saved: Progress = field(default_factory=Progress)
    saved_told: int = 0
    holds: bool = True

    def summary(self, verdicts: dict[str, int], tried: int) -> None:
        self.told.append((dict(verdicts), tried))

    def confirm(self, ranked: Ranked, decided: Decided, tried: int) -> Candidate | None:
        self.told.append((ranked.edit, tried))
        fix: Completeness = "complete" if len(decided.mended) == 2 else "partial"
        return candidate(f"{tried % 16:x}", fix) if self.holds else None

    def save(self, progress: Progress) -> None:
        self.saved, self.saved_told = progress, len(self.told)


def search(
    server: Server, journal: Journal, progress: Progress | None = None, keep: int = 2, named: bool = False, steps: int = 10_000
) -> Search:
    # Two seconds pass between any two looks at the clock, so the cursor is saved behind every verdict.
    clock = itertools.count(0.0, 2.0).__next__
    return Search(space(), server, journal, Goal(("a", "b"), named, keep, WALL_MS, steps), progress or Progress(), clock)


def test_edits_are_tried_in_the_order_of_the_space_until_it_is_empty() -> None:
    server, journal = Server(frozenset()), Journal()
    done = search(server, journal)
    assert done.run() == "exhausted"
    order = [ranked.edit for ranked in space().ranked()]
    assert [edit for _, edit, _ in server.asked] == [edit for edit in order if edit in [asked for _, asked, _ in server.asked]]
    assert done.progress.consumed == len(order)
    assert done.progress.tried == len(server.asked)


def test_it_stops_when_enough_is_kept() -> None:
    done = search(Server(frozenset({"=", "not a < b"})), Journal(), keep=1)
    assert done.run() == "enough"
    assert len(done.progress.found) == 1


def test_a_patch_that_does_not_hold_in_a_fresh_process_is_not_kept() -> None:
    done = search(Server(frozenset({"="})), Journal(holds=False))
    assert done.run() == "exhausted"
    assert done.progress.found == ()


def test_it_tries_no_more_edits_than_policy_allows_also_over_several_attempts() -> None:
    first = search(Server(frozenset()), Journal(), steps=5)
    assert (first.run(), first.progress.tried) == ("steps", 5)
    again = search(Server(frozenset()), Journal(), first.progress, steps=7)
    assert (again.run(), again.progress.tried) == ("steps", 7)


def test_time_that_an_earlier_attempt_used_counts() -> None:
    done = search(Server(frozenset()), Journal(), Progress(elapsed_ms=WALL_MS))
    assert done.run() == "wall_time"
    assert done.progress.tried == 0


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 600))
def test_killed_anywhere_it_ends_as_if_nothing_had_happened(dies: int) -> None:
    wanted = frozenset({"=", "b", "a - 1"})
    whole = Journal()
    undisturbed = search(Server(wanted), whole)
    reason = undisturbed.run()
    journal = Journal()
    first = search(Server(wanted, dies=dies), journal)
    try:
        first.run()
    except Dead:
        journal.told = journal.told[: journal.saved_told]
    again = search(Server(wanted), journal, journal.saved)
    assert again.run() == reason
    assert journal.told == whole.told
    ended, expected = again.progress, undisturbed.progress
    assert (ended.found, ended.tried, ended.consumed) == (expected.found, expected.tried, expected.consumed)


def test_named_targets_leave_out_statements_that_not_all_of_them_run() -> None:
    suspects = [
        Suspect(path="m.py", line=2, score=0.5, failed=2, passed=0, covering=(0, 1)),
        Suspect(path="m.py", line=3, score=0.9, failed=1, passed=0, covering=(1,)),
    ]
    for named in (True, False):
        server = Server(frozenset())
        goal = Goal(("a", "b"), named, 1, 60_000, 10_000)
        found = Search(Space(suspects, {"m.py": SOURCE}.get), server, Journal(), goal, Progress())
        found.run()
        lines = {edit.line: targets for _, edit, targets in server.asked}
        assert lines.get(3) == (None if named else (1,))
        assert lines[2] == (0, 1)


@pytest.mark.parametrize(
    ("progress", "stops"),
    [
        (Progress(tried=10**6), False),
        (Progress(found=(candidate("a"),), tried=5, first_complete=5), False),
        (Progress(found=(candidate("a"),), tried=5 + MORE_MIN, first_complete=5), True),
        (Progress(found=(candidate("a"), candidate("b")), tried=6, first_complete=5), True),
        (Progress(found=(candidate("a", "partial"), candidate("b", "partial")), tried=6, first_partial=5), False),
        (Progress(found=(candidate("a", "partial"),), tried=5 + PARTIAL_MORE, first_partial=5), True),
    ],
)
def test_when_to_stop(progress: Progress, stops: bool) -> None:
    assert should_stop(progress, keep=2) is stops


def test_ranking_puts_complete_first_then_score_then_size_then_digest() -> None:
    found = (
        candidate("a", "partial", 0.9),
        candidate("d", score=0.3),
        candidate("c", score=0.5),
        candidate("b", score=0.3),
        candidate("e", score=0.3),
    )
    sizes = {digest * 64: size for digest, size in zip("abcde", [1, 10, 99, 10, 5], strict=True)}
    best = ranked(found, sizes)
    assert [one.candidate_id for one in best] == ["c", "e", "b", "d", "a"]
    assert [one.rank for one in best] == [1, 2, 3, 4, 5]

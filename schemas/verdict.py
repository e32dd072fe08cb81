"""The Compile verdict: a pure function of base outcomes, patched outcomes and targets (contracts §10, threats 4.2)."""

from __future__ import annotations

from typing import Literal

from schemas.model import Payload
from schemas.testing import FAILING, Outcomes, TestOutcome

Verdict = Literal["accepted", "rejected", "irreproducible", "infra_error"]
Completeness = Literal["complete", "partial", "none"]
MINIMUM_RUNS = 2
"""Runs of a tree that have to agree: one proves nothing."""
PROBED = 50
"""Mended tests that the raise probe runs, from the first."""
HARNESS_TAMPERED = "HARNESS_TAMPERED"
"""Code of runs that show that something else than the tests decided their outcomes."""
PYTEST_CHANGED = "PYTEST_CHANGED"
"""Code of runs in which parts of pytest, or of what Node's tests rest on, were replaced: some suites do that. A patch that
begins to is HARNESS_TAMPERED."""
INFORMATIVE_CODES = frozenset({"TEST_TIMEOUT", PYTEST_CHANGED})
"""Codes of a run that do not void it: a test that never ends is a failing test."""


class Judgement(Payload):
    """Why a patch is accepted or not. ``fail_to_pass`` are mended targets; ``lost`` passed on base and do not pass now."""

    verdict: Verdict
    codes: tuple[str, ...] = ()
    fix: Completeness
    targets: tuple[str, ...]
    fail_to_pass: tuple[str, ...]
    pass_to_pass: tuple[str, ...]
    still_failing: tuple[str, ...]
    lost: tuple[str, ...]
    waived: tuple[str, ...] = ()
    """Of ``lost``, those that somebody answers for: they make no code."""


def judge(
    base: Outcomes, patched: Outcomes, named_targets: tuple[str, ...] = (), waived: tuple[str, ...] = ()
) -> Judgement:
    """Accept iff every named failing test passes and nothing that passed on base fails.

    Where no target is named the targets are all that fail on base, and mending only some of them is
    *partial*. A named target that is not a failing test of base is a rejection (TARGET_NOT_FAILING).
    A test that vanished, or that is now skipped, xfailed or deselected, counts as lost (REG_TEST_LOST).
    A tree whose tests are all skipped (ALL_SKIPPED), or of which the patch made a file uncollectable (COLLECTION_ERROR), never
    passes.

    A file that could not be collected on base is itself an id with outcome ``error``. It is mended once it is collected
    and its tests show it (see :func:`_mended`); a named test of such a file counts as failing.

    Args:
        waived: ids that may be lost, by waivers that are judged elsewhere.
    """
    failing = {nodeid for nodeid, outcome in base.items() if outcome in FAILING}
    failing |= {nodeid for nodeid in named_targets if nodeid not in base and base.get(_file_of(nodeid)) == "error"}
    targets = tuple(sorted(set(named_targets))) if named_targets else tuple(sorted(failing))
    passing = sorted(nodeid for nodeid, outcome in base.items() if outcome == "passed")
    files = _by_file(patched)
    mended = tuple(nodeid for nodeid in targets if nodeid in failing and _mended(nodeid, patched, files))
    open_targets = tuple(nodeid for nodeid in targets if not _mended(nodeid, patched, files))
    lost = tuple(nodeid for nodeid in passing if patched.get(nodeid) != "passed")
    excused, gone = set(waived), set(lost)
    covered = tuple(nodeid for nodeid in lost if nodeid in excused)
    codes: list[str] = []
    if not base or not patched:
        codes.append("TESTS_NONE_COLLECTED")
    elif _all_skipped(base) or _all_skipped(patched):
        codes.append("ALL_SKIPPED")
    elif not targets:
        codes.append("NO_FAILING_TEST")
    if any(nodeid not in failing for nodeid in targets):
        codes.append("TARGET_NOT_FAILING")
    if broken_files(base, patched):
        codes.append("COLLECTION_ERROR")
    if len(covered) < len(lost):
        codes.append("REG_TEST_LOST")
    if named_targets and open_targets:
        codes.append("TARGET_NOT_FIXED")
    elif targets and not mended:
        codes.append("NOTHING_FIXED")
    fix: Completeness = "none" if not mended else "partial" if open_targets else "complete"
    return Judgement(
        verdict="rejected" if codes else "accepted", codes=tuple(codes), fix=fix, targets=targets, fail_to_pass=mended,
        pass_to_pass=tuple(nodeid for nodeid in passing if nodeid not in gone), still_failing=open_targets, lost=lost,
        waived=covered,
    )


def broken_files(base: Outcomes, patched: Outcomes) -> tuple[str, ...]:
    """What could be collected on base, or was not there, and cannot be collected now: files and folders, without ``::``."""
    return tuple(sorted(id for id, now in patched.items() if now == "error" and "::" not in id and base.get(id) != "error"))


def mended_tests(judgement: Judgement, patched: Outcomes) -> tuple[str, ...]:
    """The tests that show the fix: mended targets, and for a mended file its tests that pass."""
    files = [nodeid for nodeid in judgement.fail_to_pass if "::" not in nodeid and nodeid not in patched]
    shown = {nodeid for nodeid, outcome in patched.items() if outcome == "passed" and _file_of(nodeid) in files}
    return tuple(sorted({*judgement.fail_to_pass, *shown} - {*files}))


def unproven(judgement: Judgement, probe: Outcomes) -> tuple[str, ...]:
    """Mended targets that pass although every function that the patch touches raises (threats 4.1): something else made them
    pass."""
    files = _by_file(probe)
    return tuple(nodeid for nodeid in judgement.fail_to_pass if _mended(nodeid, probe, files))


def tampered(judgement: Judgement) -> Judgement:
    """The same judgement, refused because its runs cannot be believed."""
    return judgement.model_copy(update={"verdict": "rejected", "codes": (*judgement.codes, HARNESS_TAMPERED)})


def _all_skipped(outcomes: Outcomes) -> bool:
    return bool(outcomes) and set(outcomes.values()) == {"skipped"}


def _mended(nodeid: str, patched: Outcomes, files: dict[str, set[TestOutcome]]) -> bool:
    """A test passes; a file that was not collected has no id of its own any more, none of its tests fails, some pass."""
    if "::" in nodeid or nodeid in patched:
        return patched.get(nodeid) == "passed"
    tests = files.get(nodeid, set())
    return "passed" in tests and not FAILING & tests


def _by_file(outcomes: Outcomes) -> dict[str, set[TestOutcome]]:
    """Outcomes of the tests of each file: suites of many thousands are judged in no time, whatever their ids."""
    files: dict[str, set[TestOutcome]] = {}
    for nodeid, outcome in outcomes.items():
        files.setdefault(_file_of(nodeid), set()).add(outcome)
    return files


def _file_of(nodeid: str) -> str:
    return nodeid.partition("::")[0]


def judge_recorded(
    base: Outcomes, patched: Outcomes, targets: tuple[str, ...], waived: tuple[str, ...] = ()
) -> Judgement:
    """Judge recorded outcomes again, given the targets that were judged then.

    Targets that are all failing tests of base need no naming, and a partial fix is one too. Any other set was named,
    so all of it must be mended.
    """
    unnamed = judge(base, patched, waived=waived)
    return unnamed if unnamed.targets == targets else judge(base, patched, targets, waived)

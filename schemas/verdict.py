"""The Compile verdict: a pure function of base outcomes, patched outcomes and targets (contracts §10, threats 4.2)."""

from __future__ import annotations

from typing import Literal

from schemas.model import Payload
from schemas.testing import FAILING, Outcomes

Verdict = Literal["accepted", "rejected", "irreproducible", "infra_error"]
Completeness = Literal["complete", "partial", "none"]


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


def judge(base: Outcomes, patched: Outcomes, named_targets: tuple[str, ...] = ()) -> Judgement:
    """Accept iff every named failing test passes and nothing that passed on base fails.

    Where no target is named the targets are all that fail on base, and mending only some of them is
    *partial*. A named target that is not a failing test of base is a rejection (TARGET_NOT_FAILING).
    A test that vanished, or that is now skipped, xfailed or deselected, counts as lost (REG_TEST_LOST).

    A file that could not be collected on base is itself an id with outcome ``error``. It is mended once it is collected
    and its tests show it (see :func:`_mended`); a named test of such a file counts as failing.
    """
    failing = {nodeid for nodeid, outcome in base.items() if outcome in FAILING}
    failing |= {nodeid for nodeid in named_targets if nodeid not in base and base.get(_file_of(nodeid)) == "error"}
    targets = tuple(sorted(set(named_targets))) if named_targets else tuple(sorted(failing))
    passing = sorted(nodeid for nodeid, outcome in base.items() if outcome == "passed")
    mended = tuple(nodeid for nodeid in targets if nodeid in failing and _mended(nodeid, patched))
    open_targets = tuple(nodeid for nodeid in targets if not _mended(nodeid, patched))
    lost = tuple(nodeid for nodeid in passing if patched.get(nodeid) != "passed")
    codes: list[str] = []
    if not base:
        codes.append("TESTS_NONE_COLLECTED")
    elif not targets:
        codes.append("NO_FAILING_TEST")
    if any(nodeid not in failing for nodeid in targets):
        codes.append("TARGET_NOT_FAILING")
    if lost:
        codes.append("REG_TEST_LOST")
    if named_targets and open_targets:
        codes.append("TARGET_NOT_FIXED")
    elif targets and not mended:
        codes.append("NOTHING_FIXED")
    fix: Completeness = "none" if not mended else "partial" if open_targets else "complete"
    return Judgement(
        verdict="rejected" if codes else "accepted", codes=tuple(codes), fix=fix, targets=targets, fail_to_pass=mended,
        pass_to_pass=tuple(nodeid for nodeid in passing if nodeid not in lost), still_failing=open_targets, lost=lost,
    )


def _mended(nodeid: str, patched: Outcomes) -> bool:
    """A test passes; a file that was not collected has no id of its own any more, none of its tests fails, some pass."""
    if "::" in nodeid or nodeid in patched:
        return patched.get(nodeid) == "passed"
    tests = [outcome for other, outcome in patched.items() if _file_of(other) == nodeid]
    return "passed" in tests and not FAILING & set(tests)


def _file_of(nodeid: str) -> str:
    return nodeid.partition("::")[0]


def judge_recorded(base: Outcomes, patched: Outcomes, targets: tuple[str, ...]) -> Judgement:
    """Judge recorded outcomes again, given the targets that were judged then.

    Targets that are all failing tests of base need no naming, and a partial fix is one too. Any other set was named,
    so all of it must be mended.
    """
    unnamed = judge(base, patched)
    return unnamed if unnamed.targets == targets else judge(base, patched, targets)

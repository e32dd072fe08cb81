"""Determinism Gate: a re-run from the bundle and the content store gives the same members 1-6, byte for byte.

It guards against flaky tests and drift of the environment, not against a hostile patch: two runs that agree may
agree on a forgery (threats 4.4).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import zip_longest

from schemas.canonical import digest_of
from schemas.evidence import CHECKSUMS, STABLE_MEMBERS, TEST_RESULTS
from schemas.gates import Check, GateReport

MINIMUM_RUNS = 2


def determinism_report(first: Mapping[str, bytes], rerun: Mapping[str, bytes], runs: int) -> GateReport:
    """Compare two sets of members 1-6.

    Args:
        runs: real executions of each tree behind ``first``; a cached result is none.
    """
    enough = runs >= MINIMUM_RUNS
    member = first_difference(first, rerun)
    checks = (
        Check(
            code="DET_RUNS",
            ok=enough,
            expected=f"at least {MINIMUM_RUNS} runs of each tree",
            actual=str(runs),
            remedy="" if enough else "run each tree again in a fresh sandbox",
        ),
        _digest_check(first, rerun, member),
    )
    return GateReport(gate="determinism", verdict="pass" if enough and member is None else "fail", checks=checks)


def first_difference(first: Mapping[str, bytes], rerun: Mapping[str, bytes]) -> str | None:
    """The first member, in bundle order, that differs or is missing on either side."""
    for name in STABLE_MEMBERS:
        if name not in first or name not in rerun or first[name] != rerun[name]:
            return name
    extra = sorted((first.keys() | rerun.keys()) - set(STABLE_MEMBERS))
    return extra[0] if extra else None


def _digest_check(first: Mapping[str, bytes], rerun: Mapping[str, bytes], member: str | None) -> Check:
    if member is None:
        return Check(code="DET_DIGEST", ok=True, expected=digest_of(first[CHECKSUMS]), actual=digest_of(rerun[CHECKSUMS]))
    detail = _first_line(first.get(member), rerun.get(member)) if member != TEST_RESULTS else _first_test(first, rerun)
    return Check(
        code="DET_DIGEST",
        ok=False,
        member=member,
        reason=detail,
        expected=digest_of(first[member]) if member in first else "missing",
        actual=digest_of(rerun[member]) if member in rerun else "missing",
        remedy=f"remove what makes {member} differ between runs (time, order, randomness, network), then start again",
    )


def _first_line(first: bytes | None, rerun: bytes | None) -> str:
    if first is None or rerun is None:
        return "missing on one side"
    for number, (left, right) in enumerate(zip_longest(first.splitlines(), rerun.splitlines()), start=1):
        if left != right:
            return f"line {number} differs"
    return "line ends differ"


def _first_test(first: Mapping[str, bytes], rerun: Mapping[str, bytes]) -> str:
    """The first test id whose outcome differs, in the members of our own making."""
    if TEST_RESULTS not in first or TEST_RESULTS not in rerun:
        return "missing on one side"
    left, right = json.loads(first[TEST_RESULTS]), json.loads(rerun[TEST_RESULTS])
    for one, other in zip(left["suites"], right["suites"], strict=False):
        for nodeid in sorted(one["outcomes"].keys() | other["outcomes"].keys()):
            was, became = one["outcomes"].get(nodeid, "missing"), other["outcomes"].get(nodeid, "missing")
            if was != became:
                return f"{one['name']} {nodeid}: {was}, then {became}"
    return "outcomes are equal; another field differs"

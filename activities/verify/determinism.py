"""Determinism Gate: a re-run from the bundle and the content store gives the same members 1-6, byte for byte.

It guards against flaky tests and drift of the environment, not against a hostile patch: two runs that agree may
agree on a forgery (threats 4.4).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest

from schemas.canonical import digest_of
from schemas.evidence import CHECKSUMS, STABLE_MEMBERS, TEST_RESULTS
from schemas.gates import Check, GateReport
from schemas.policy import PolicyDecision
from schemas.testing import Environment, TestRun
from schemas.verdict import MINIMUM_RUNS

ReusePolicy = Callable[[bool], PolicyDecision]
"""Whether a re-run that was reused (True) or done anew (False) is enough."""


@dataclass(frozen=True)
class Rerun:
    """How the second pass was made, beside its members.

    ``runs``: executions of each tree in the first pass; ``again``: the runs of the second one.
    """

    runs: int
    reused: bool = False
    again: Sequence[TestRun] = ()
    environment: Environment | None = None
    rerun_environment: Environment | None = None


def determinism_report(
    first: Mapping[str, bytes], rerun: Mapping[str, bytes], how: Rerun, policy: ReusePolicy | None = None
) -> GateReport:
    """Compare two sets of members 1-6. Checks in order: the machine held, enough real runs, a re-run that policy takes, the same
    environment, the same bytes."""
    if broken := next((run for run in how.again if run.status == "infra_error"), None):
        return GateReport(gate="determinism", verdict="inconclusive", checks=(_infra_check(broken),))
    checks = (
        _runs_check(how.runs),
        *((_reuse_check(how.reused, policy),) if policy else ()),
        _environment_check(how.environment, how.rerun_environment),
        _digest_check(first, rerun, first_difference(first, rerun)),
    )
    failed = any(check.checked and not check.ok for check in checks)
    return GateReport(gate="determinism", verdict="fail" if failed else "pass", checks=checks)


def executions(runs: Sequence[TestRun]) -> int:
    """How often the tree that was run least was really run: by receipts, of which one is one execution, however often it was
    recalled; by runs that are not recalled where no executor signs."""
    counts: dict[str, set[str]] = {}
    for ordinal, run in enumerate(runs):
        known = counts.setdefault(run.run_key, set())
        if run.receipt is not None:
            known.add(run.receipt.sha256)
        elif not run.cached:
            known.add(str(ordinal))
    return min(map(len, counts.values()), default=0)


def _infra_check(run: TestRun) -> Check:
    return Check(
        code="DET_INFRA",
        ok=False,
        reason=", ".join(run.codes) or run.message,
        remedy="repair what the codes name, then start again; nothing was learnt about the patch",
    )


def _runs_check(runs: int) -> Check:
    enough = runs >= MINIMUM_RUNS
    return Check(
        code="DET_RUNS",
        ok=enough,
        expected=f"at least {MINIMUM_RUNS} runs of each tree",
        actual=str(runs),
        remedy="" if enough else "run each tree again in a fresh sandbox",
    )


def _reuse_check(reused: bool, policy: ReusePolicy) -> Check:
    enough = policy(reused).decision == "allow"
    return Check(
        code="DET_CACHE_ONLY",
        ok=enough,
        expected="a re-run that the policy takes",
        actual="recalled from the run cache" if reused else "run anew",
        remedy="" if enough else "compile without the run cache (--no-cache)",
    )


def _environment_check(first: Environment | None, rerun: Environment | None) -> Check:
    if first is None or rerun is None:
        return Check(code="DET_ENVIRONMENT", ok=False, checked=False)
    same = (first.environment_digest, first.platform) == (rerun.environment_digest, rerun.platform)
    return Check(
        code="DET_ENVIRONMENT",
        ok=same,
        expected=f"{first.environment_digest} on {first.platform}",
        actual=f"{rerun.environment_digest} on {rerun.platform}",
        remedy="" if same else "pin every dependency, so that the base tree gives the same environment each time",
    )


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

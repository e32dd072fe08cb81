"""Security findings that were not there before, and watchers that are there no more."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import get_args

from activities.verify.measuring import WHOLE, Measured, Regression, SecurityRules
from schemas.regression import Finding, Severity

_RANK: dict[Severity, int] = {severity: rank for rank, severity in enumerate(get_args(Severity))}


def compare_findings(
    base: Sequence[Finding], patched: Sequence[Finding], gone: Sequence[str], rules: SecurityRules, controls: Sequence[str]
) -> Measured:
    new = [finding for finding in new_findings(base, patched) if _RANK[finding.severity] >= _RANK[rules.severity]]
    removed = [path for path in gone if any(_matches(path, glob) for glob in controls)]
    worse = [
        Regression(
            "REG_SECURITY", finding.fingerprint,
            f"{finding.path}:{finding.line}: {finding.rule} ({finding.severity}) {finding.message} [{finding.fingerprint}]",
        )
        for finding in new
    ]  # fmt: skip
    worse += [Regression("REG_CONTROL_REMOVED", path, path) for path in removed]
    summary = f"in changed files {len(base)} findings, then {len(patched)}; {len(new)} new count; {len(removed)} controls gone"
    return Measured("security", summary, tuple(worse))


def not_scanned(message: str) -> Measured:
    """The baseline can be scanned and this tree cannot: what a scanner cannot read, it cannot clear."""
    text = f"the patched tree cannot be scanned: {message}"
    return Measured("security", text, (Regression("REG_SECURITY", WHOLE, text),))


def new_findings(base: Sequence[Finding], patched: Sequence[Finding]) -> list[Finding]:
    """Those that base does not have as often. A line that moved is not new, within its file or to another one."""
    left = Counter(finding.fingerprint for finding in base)
    unmatched: list[Finding] = []
    for finding in patched:
        if left[finding.fingerprint] > 0:
            left[finding.fingerprint] -= 1
        else:
            unmatched.append(finding)
    vanished: Counter[str] = Counter()
    for finding in base:
        if left[finding.fingerprint] > 0:
            left[finding.fingerprint] -= 1
            vanished[finding.content] += 1
    new = []
    for finding in unmatched:
        if vanished[finding.content] > 0:
            vanished[finding.content] -= 1
        else:
            new.append(finding)
    return new


def _matches(path: str, glob: str) -> bool:
    """A glob without a slash is for the file's name in any folder."""
    return fnmatchcase((path if "/" in glob else path.rpartition("/")[2]).casefold(), glob.casefold())

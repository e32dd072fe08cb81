"""Checks 1-5: the directory and the form of its files."""

from __future__ import annotations

from activities.evidence.case import Case, Finding
from activities.evidence.content import LINE_LIMIT
from schemas.canonical import StrictJsonError, strict_json
from schemas.evidence import (
    OPTIONAL_MEMBERS,
    POLICY_CHECK,
    PROVENANCE,
    REQUIRED_MEMBERS,
    SBOM,
    SIGSTORE_BUNDLE,
    SIZE_LIMITS,
    STAMP,
    TEST_RESULTS,
    TRAJECTORY,
    VALUE_LIMIT,
)

_DOCUMENTS = (TEST_RESULTS, POLICY_CHECK, SBOM, STAMP, PROVENANCE, SIGSTORE_BUNDLE)


def size_limit(case: Case) -> Finding | None:
    for name, size in case.reading.too_large.items():
        return Finding(reason="size", member=name, expected=f"at most {SIZE_LIMITS[name]} bytes", actual=str(size))
    for name, values in case.reading.too_many.items():
        return Finding(reason="values", member=name, expected=f"at most {VALUE_LIMIT} values", actual=str(values))
    trajectory = case.reading.trajectory
    if trajectory is not None and trajectory.too_long:
        return Finding(
            reason="line",
            member=TRAJECTORY,
            expected=f"lines of at most {LINE_LIMIT} bytes and {VALUE_LIMIT} values",
            actual=f"line {trajectory.too_long}",
        )
    return None


def member_missing(case: Case) -> Finding | None:
    if missing := case.reading.missing:
        return Finding(
            reason="missing", member=missing[0], expected=", ".join(REQUIRED_MEMBERS), actual="without " + ", ".join(missing)
        )
    return None


def member_extra(case: Case) -> Finding | None:
    if extra := case.reading.extra:
        return Finding(
            reason="extra",
            member=extra[0],
            expected=", ".join((*REQUIRED_MEMBERS, *OPTIONAL_MEMBERS)),
            actual=", ".join(extra),
            remedy="a bundle holds its members and nothing else; get an unaltered copy",
        )
    return None


def member_not_regular(case: Case) -> Finding | None:
    for name, reason in sorted(case.reading.not_regular.items()):
        return Finding(reason=reason, member=name, expected="a regular file with one link and a plain name", actual=reason)
    return None


def strict_documents(case: Case) -> Finding | None:
    """Load every JSON member; the first that two parsers could read differently is the finding."""
    finding: Finding | None = None
    for name in _DOCUMENTS:
        if name not in case.reading.files:
            continue
        try:
            case.documents[name] = strict_json(case.reading.files[name])
        except StrictJsonError as error:
            finding = finding or Finding(reason=error.reason, member=name, expected="strict JSON", actual=str(error))
    return finding or _strict_lines(case)


def _strict_lines(case: Case) -> Finding | None:
    trajectory = case.reading.trajectory
    if trajectory is None or trajectory.not_strict is None:
        return None
    defect = trajectory.not_strict
    return Finding(reason=defect.reason, member=TRAJECTORY, expected="strict JSON lines that end with LF", actual=defect.text)

"""Checks 22 and 23: the trajectory is one unbroken chain, and it ends with this patch (threats 5.4).

That a chain holds means that these steps were recorded in this order, never that what they say is true.
"""

from __future__ import annotations

from activities.evidence.case import Case, Finding, NotChecked
from schemas.error import Gen4Error
from schemas.evidence import PATCH, TRAJECTORY
from schemas.trajectory import TrajectoryStep

_TREE_ARGUMENTS = ("result_tree", "tree")


def chain(case: Case) -> Finding | None:
    """22. Every line is a step, numbered without a gap, and names the digest of the line before it."""
    trajectory = case.need_trajectory()
    if trajectory.too_long or trajectory.not_strict is not None:
        raise NotChecked(f"{TRAJECTORY} is not strict JSON lines")
    if (defect := trajectory.broken) is None:
        return None
    return Finding(reason=defect.reason, member=TRAJECTORY, expected="an unbroken chain of steps", actual=defect.text)


def patch(case: Case) -> Finding | None:
    """23. The last step names this patch and its tree; with the repository, its snapshot is that of the patched files."""
    trajectory, stamp = case.need_trajectory(), case.need_stamp()
    if (last := trajectory.last) is None or trajectory.broken is not None:
        raise NotChecked(f"{TRAJECTORY} is not a chain of steps")
    arguments = last.tool_call.args if last.tool_call is not None else {}
    for name, expected in (
        ("patch_sha256", case.need_digest(PATCH).sha256), *((name, stamp.source.result_tree) for name in _TREE_ARGUMENTS),
    ):  # fmt: skip
        if name in arguments and arguments[name] != expected:
            return Finding(reason=name, member=TRAJECTORY, expected=expected, actual=str(arguments[name])[:400])
    if case.objects is not None:
        return _snapshot(case, last, stamp.source.result_tree)
    if "patch_sha256" not in arguments:
        raise NotChecked("the last step names no patch", "give --repository to check its snapshot against the source")
    return None


def _snapshot(case: Case, last: TrajectoryStep, tree: str) -> Finding | None:
    assert case.objects is not None
    try:
        expected = case.objects.snapshot_hash(tree)
    except Gen4Error as error:
        raise NotChecked(f"the patched tree cannot be read: {error.code}") from error
    if last.snapshot_hash == expected:
        return None
    return Finding(reason="snapshot", member=TRAJECTORY, expected=expected, actual=last.snapshot_hash)

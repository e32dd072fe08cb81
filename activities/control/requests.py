"""What an approver is told beside the action itself: how to undo it, and what the evidence cannot show."""

from __future__ import annotations

from typing import Literal

from schemas.approval import Action

_TAMPER_EVIDENT = (
    "tests are evidence, not proof: a patch written to deceive can make tests pass (the tests and their configuration are those "
    "of base), so read the diff"
)
_SINGLE_OPERATOR = (
    "requester, signer and approver act under one user id on this machine: the approval confirms intent, not separation"
)


def rollback_of(action: Action) -> str:
    """In words and as git commands, for people."""
    if action.revert == "delete-branch":
        return f"delete the new branch: git push REMOTE :{action.target_ref}"
    return f"revert the commit: git revert {action.commit_id} (the branch was at {action.expected_head})"


def residual_risk(fix: Literal["complete", "partial"], assurance: Literal["single_operator", "separated"]) -> tuple[str, ...]:
    """Sentences that stay true however green the gates are."""
    partial = ("the fix is partial: some tests that fail on base still fail",) if fix == "partial" else ()
    shared = (_SINGLE_OPERATOR,) if assurance == "single_operator" else ()
    return (*partial, _TAMPER_EVIDENT, *shared)

"""The commit message: one plain line of the goal, and trailers that lead back to task and evidence (ops §4)."""

from __future__ import annotations

from schemas.details import plain

SUBJECT_CHARS = 72


def commit_message(goal: str, task_id: str, explorer: str, bundle_digest: str) -> str:
    """``goal`` is foreign text: only its first line, made inert, and never able to look like a trailer.

    There is no ``Signed-off-by``: that is the approving human's to add.
    """
    return (
        f"{_subject(goal)}\n\n"
        "Found and verified by gen4; the evidence bundle names its tests, environment and gates.\n\n"
        f"Assisted-by: {explorer}\n"
        f"Gen4-Task: {task_id}\n"
        f"Gen4-Evidence: {bundle_digest}\n"
    )


def _subject(goal: str) -> str:
    first = next((line for line in goal.splitlines() if line.strip()), "")
    words = plain(first).strip()
    subject = f"Fix: {words}" if words else "Fix"
    return subject if len(subject) <= SUBJECT_CHARS else subject[: SUBJECT_CHARS - 1].rstrip() + "…"

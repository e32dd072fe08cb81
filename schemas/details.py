"""Markdown for the Temporal UI: what a session is doing and what the next human step is, with the JSON to send.

Foreign text (goals, paths, messages) is rendered inert: control, bidi and zero-width characters are removed, it stands in a
fence longer than any run of backticks inside, and never beside JSON that somebody is asked to paste (threats 6.10).
"""

from __future__ import annotations

import json
import re
import shlex
from datetime import UTC, datetime
from urllib.parse import urlsplit

from schemas.approval import ApprovalRequest, Refusal
from schemas.model import ZERO_ID
from schemas.request import SessionResult
from schemas.session import State
from schemas.status import SessionStatus, Stage
from schemas.text import plain

__all__ = ["escaped", "fenced", "plain", "repository_label", "session_details", "stage_details"]

MAX_BYTES = 16_000
"""The server takes 20,000 bytes of details."""
_QUOTED_CHARS = 1_500
_SHOWN_REFUSALS = 3
_MARKUP = re.compile(r"([\\`*_{}\[\]()<>#+\-.!|~&])")


def escaped(text: str) -> str:
    """``plain`` text in which no character means anything to Markdown."""
    return _MARKUP.sub(r"\\\1", plain(text))


def fenced(text: str, language: str = "") -> str:
    """A code block that its content cannot leave. Line ends are kept, everything else is as in :func:`plain`."""
    lines = [plain(line) for line in text.splitlines()] or [""]
    body = "\n".join(lines)
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall(r"`+", body)), default=0))
    return f"{fence}{language}\n{body}\n{fence}"


def repository_label(repository: str) -> str:
    """A path as it is; a URL without user, password, query and fragment. Fit for a search attribute."""
    if "://" not in repository:
        return plain(repository)[:500]
    try:
        parts = urlsplit(repository)
        host = parts.hostname or ""
        return plain(f"{parts.scheme}://{host}{parts.path}")[:500]
    except ValueError:
        return "invalid URL"


def decision_json(request: ApprovalRequest) -> dict[str, str]:
    """What an approver sends, but for the signature that only he can make."""
    return {"approval_id": request.approval_id, "action_digest": request.action_digest, "reason": "", "signature": ""}


def session_details(status: SessionStatus, *, workflow_id: str, repository: str, goal: str) -> str:
    """The Markdown of a running or closed session."""
    parts = [f"**{status.state}**" + (f" · {escaped(status.next_step)}" if status.next_step else "")]
    waiting = status.approval is not None and status.approval.status == "pending" and status.state is not State.CLOSED
    if waiting and status.refused:
        parts.append(_latest_refusal(status.refused))
    if status.approval is not None and waiting:
        parts.append(_approval(status.approval, workflow_id))
    if status.result is not None:
        parts.append(_result(status.result))
    if status.refused:
        parts.append(_refusals(status.refused))
    parts.append(_stages(status.stages))
    # Foreign text comes last, far from what is to be pasted.
    foreign = f"{repository_label(repository)}\n{goal[:_QUOTED_CHARS]}"
    parts.append("Request, as it was sent (data, not instructions):\n\n" + fenced(foreign))
    return _cut("\n\n".join(part for part in parts if part))


def stage_details(title: str, stages: tuple[Stage, ...], note: str = "") -> str:
    """The Markdown of a child workflow."""
    return _cut("\n\n".join(part for part in (f"**{escaped(title)}**", escaped(note), _stages(stages)) if part))


def _approval(request: ApprovalRequest, workflow_id: str) -> str:
    action = request.action
    document = json.dumps(decision_json(request), indent=2)
    id = shlex.quote(plain(workflow_id))  # whoever started the workflow chose it
    return "\n\n".join(
        (
            f"### A release captain decides\n\nUntil {_time(request.expires_at_ms)}, then the request is rejected. "
            f"{'A partial fix: some failing tests stay.' if request.fix == 'partial' else 'A complete fix.'}",
            "Look at it (this text is a convenience, the command recomputes everything):\n\n"
            + fenced(f"gen4 approvals show {id}", "sh"),
            "Approve it:\n\n" + fenced(f"gen4 approve {id} --digest {request.action_digest}", "sh"),
            "Or send the signal `approve` or `reject` from here. The command with `--print` fills in the signature:\n\n"
            + fenced(document, "json"),
            f"Approvers: {', '.join(escaped(name) for name in request.eligible_approvers)}",
            "What it does:\n\n"
            + fenced(
                f"deliver  {action.commit_id}\nto       {action.target_ref} ({action.mode})\n"
                f"expects  {_head(action.expected_head)}\nevidence {action.bundle_digest}\nundo     {request.rollback}"
            ),
            "\n".join(f"- {escaped(risk)}" for risk in request.residual_risk),
        )
    )


def _latest_refusal(refused: tuple[Refusal, ...]) -> str:
    """Seen without scrolling. Only our own code: messages may quote a sender, and the JSON to paste comes next."""
    return f"The latest decision did not count: `{plain(refused[-1].code)}`; why is below. The session goes on waiting."


def _refusals(refused: tuple[Refusal, ...]) -> str:
    lines = [f"- `{item.code}`: {escaped(item.message[:300])} → {escaped(item.remedy)}" for item in refused[-_SHOWN_REFUSALS:]]
    return f"Decisions that did not count ({len(refused)}), the latest last:\n\n" + "\n".join(lines)


def _head(expected: str) -> str:
    return "no such branch yet" if expected == ZERO_ID else expected


def _result(result: SessionResult) -> str:
    lines = [f"Outcome: {escaped(result.outcome or 'accepted')}"]
    if result.release is not None:
        lines.append(f"Released: {escaped(result.release.commit)} to {escaped(result.release.ref)}")
    if result.bundle is not None:
        lines.append(f"Evidence: {escaped(result.bundle)}")
    if result.rejection is not None:
        codes = ", ".join(f"`{plain(code)}`" for code in result.rejection.codes)
        lines.append(f"Stopped in {escaped(result.rejection.stage)}: {codes} {escaped(result.rejection.message[:600])}")
        if result.rejection.remedy:
            lines.append(f"→ {escaped(result.rejection.remedy[:600])}")
    return "\n\n".join(lines)


def _stages(stages: tuple[Stage, ...]) -> str:
    rows = [
        f"| {escaped(stage.name)} | {'…' if stage.ended_ms is None else f'{stage.seconds:.1f} s'} | {escaped(stage.note[:200])} |"
        for stage in stages[-40:]
    ]
    return "\n".join(("| Stage | Time | |", "|---|---|---|", *rows)) if rows else ""


def _time(time_ms: int) -> str:
    return datetime.fromtimestamp(time_ms // 1000, tz=UTC).strftime("%Y-%m-%d %H:%M UTC")


def _cut(markdown: str) -> str:
    data = markdown.encode("utf-8", "replace")
    return markdown if len(data) <= MAX_BYTES else data[:MAX_BYTES].decode("utf-8", "ignore") + "\n\n…"

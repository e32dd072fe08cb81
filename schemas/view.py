"""What a session looks like now, as its events tell it: a pure reducer, so that any read view can be rebuilt from them alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from schemas.event import Event, EventKind
from schemas.model import Payload

_REFUSED = ("requires_approval", "blocked", "refused")


class SessionView(Payload):
    """``seq``: of the last event in it. Empty texts: not said, or erased."""

    session_id: str
    seq: int
    kind: str = ""
    repository: str = ""
    requester_id: str = ""
    state: str = ""
    stage: str = ""
    outcome: str = ""
    decisions: dict[str, int] = {}
    """How often the gate decided what, by code."""
    refusals: int = 0
    cost_micros: int = 0
    approvals: dict[str, str] = {}
    """Status of each request, by its id."""
    erased: int = 0
    opened_at_ms: int | None = None
    closed_at_ms: int | None = None
    last_kind: EventKind
    last_at_ms: int


def reduce_view(view: SessionView | None, event: Event, payload: Mapping[str, Any]) -> SessionView:
    """``view`` after ``event``, the next of its chain. Total: a payload that lacks what is looked for changes nothing."""
    before = view or SessionView(session_id=event.session_id, seq=0, last_kind=event.kind, last_at_ms=event.recorded_at_ms)
    change: dict[str, Any] = {"seq": event.seq, "last_kind": event.kind, "last_at_ms": event.recorded_at_ms}
    if payload.get("erased") is True:
        change["erased"] = before.erased + 1
    match event.kind:
        case "session.opened":
            change |= {
                "kind": _text(payload, "kind"), "repository": _text(payload, "repository"),
                "requester_id": _text(payload, "requester_id") or event.actor.principal_id, "opened_at_ms": event.recorded_at_ms,
            }  # fmt: skip
        case "session.transition":
            change |= {"state": _text(payload, "to_state") or before.state, "stage": _text(payload, "stage") or before.stage}
        case "session.closed":
            change["outcome"] = _text(payload, "outcome") or _text(payload, "reason_code")
            change["closed_at_ms"] = event.recorded_at_ms
        case "gate.decision":
            code = _text(payload, "code") or _text(payload, "decision") or "unknown"
            change["decisions"] = {**before.decisions, code: before.decisions.get(code, 0) + 1}
            change["refusals"] = before.refusals + (_text(payload, "decision") in _REFUSED)
        case "budget.settled" | "budget.overrun":
            change["cost_micros"] = before.cost_micros + _spent(payload)
        case "approval.requested" | "approval.decided" | "approval.redeemed" | "approval.expired" | "approval.revoked":
            if approval_id := _text(payload, "approval_id"):
                change["approvals"] = {**before.approvals, approval_id: _status(event.kind, payload)}
    return before.model_copy(update=change)


def _text(payload: Mapping[str, Any], name: str) -> str:
    value = payload.get(name)
    return value if isinstance(value, str) else ""


def _status(kind: EventKind, payload: Mapping[str, Any]) -> str:
    """A decision says what was decided; the others are called by what happened."""
    ruling = payload.get("ruling")
    decided = _text(ruling, "kind") if isinstance(ruling, Mapping) else ""
    return decided or _text(payload, "status") or kind.partition(".")[2]


def _spent(payload: Mapping[str, Any]) -> int:
    """Micros that the ledger posted: what was settled, or the excess over what was reserved."""
    entries = payload.get("entries")
    amounts = [entries.get(kind) for kind in ("settle", "overrun")] if isinstance(entries, Mapping) else []
    values = [amount.get("micros") for amount in amounts if isinstance(amount, Mapping)]
    return sum(value for value in values if isinstance(value, int) and not isinstance(value, bool))

"""Read views say what the events say, however often and in whatever steps they were brought up to date."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import text

from activities.record.chain import EventChain
from activities.record.erasure import Erasures
from activities.record.store import Store
from activities.record.views import Views
from schemas.event import Actor, Event, EventDraft, EventKind
from schemas.task import TENANT_CHAIN, UNTRACED, TraceKeys
from schemas.view import SessionView, reduce_view
from tests.record.templates import new_sqlite

ACTOR = Actor(principal_id="uid:1000", kind="human")

SESSION: tuple[tuple[EventKind, dict[str, Any]], ...] = (
    ("session.opened", {"kind": "remediation", "repository": "/r", "requester_id": "uid:7"}),
    ("gate.decision", {"decision": "allow", "code": "ALLOW"}),
    ("session.transition", {"to_state": "PolicyReview", "stage": "policy"}),
    ("gate.decision", {"decision": "blocked", "code": "KILL_SWITCH"}),
    ("gate.decision", {"decision": "requires_approval", "code": "APPROVAL_MISSING"}),
    ("budget.reserved", {"entries": {"reserve": {"micros": 900}}}),
    ("budget.settled", {"entries": {"settle": {"micros": 500, "cpu_ms": 7}}}),
    ("budget.overrun", {"entries": {"overrun": {"micros": 20}}}),
    ("approval.requested", {"approval_id": "a1", "status": "pending"}),
    ("approval.decided", {"approval_id": "a1", "ruling": {"kind": "approve", "accepted": True}}),
    ("session.closed", {"reason_code": "resolved", "outcome": "merged"}),
)


def record(store: Store, session_id: str, *events: tuple[EventKind, dict[str, Any]]) -> None:
    keys = TraceKeys(tenant_id="acme", trace_id="trace", session_id=session_id, task_id="task")
    chain = EventChain(store.tenant("acme"), clock=lambda: 17)
    start = sum(1 for _ in chain.read(session_id))
    drafts = [
        EventDraft(kind=kind, idempotency_key=f"{session_id}/{start + n}", payload=payload)
        for n, (kind, payload) in enumerate(events)
    ]
    chain.append(keys, ACTOR, *drafts)


def views(store: Store) -> Views:
    return Views(store.tenant("acme"), clock=lambda: 18)


def test_a_view_tells_the_session(store: Store) -> None:
    record(store, "s", *SESSION)
    view = views(store).refresh("s")
    assert view == views(store).get("s") == SessionView(
        session_id="s", seq=11, kind="remediation", repository="/r", requester_id="uid:7", state="PolicyReview", stage="policy",
        outcome="merged", decisions={"ALLOW": 1, "KILL_SWITCH": 1, "APPROVAL_MISSING": 1}, refusals=2, cost_micros=520,
        approvals={"a1": "approve"}, opened_at_ms=17, closed_at_ms=17, last_kind="session.closed", last_at_ms=17,
    )  # fmt: skip
    assert views(store).refresh("nobody") is None
    assert Views(store.tenant("other")).refresh("s") is None and list(Views(store.tenant("other")).all()) == []


def test_all_sessions_are_listed_and_brought_up_to_date(store: Store) -> None:
    for session_id in ("b", "a"):
        record(store, session_id, *SESSION[:2])
    for session_id in (TENANT_CHAIN, UNTRACED):
        record(store, session_id, ("auth.refused", {}))
    assert [(view.session_id, view.outcome) for view in views(store).all()] == [("a", ""), ("b", "")]
    record(store, "b", SESSION[-1])
    assert [(view.session_id, view.outcome) for view in views(store).all()] == [("a", ""), ("b", "merged")]


def test_a_view_that_is_gone_or_unreadable_is_made_again(store: Store) -> None:
    record(store, "s", *SESSION)
    made = views(store).refresh("s")
    for change in ("DELETE FROM session_view", "UPDATE session_view SET view_json = '{}', seq = 3"):
        store.write(lambda connection, statement=change: connection.execute(text(statement)))
        assert views(store).get("s") is None and views(store).refresh("s") == made
    store.write(lambda connection: connection.execute(text("UPDATE session_view SET view_json = replace(view_json, '/r', '/x')")))
    assert views(store).rebuild() == 1 and views(store).get("s") == made


def test_what_was_erased_leaves_the_view(store: Store) -> None:
    record(store, "s", *SESSION)
    kept = views(store)
    assert (before := kept.refresh("s")) is not None and before.repository == "/r"
    row = store.read(lambda connection: connection.execute(text("SELECT * FROM session_view")).mappings().one())
    assert Erasures(store.tenant("acme")).erase("s", ACTOR, "request", 19) == len(SESSION) - 3
    assert kept.get("s") is None
    columns = ", ".join(row)
    values = ", ".join(f":{name}" for name in row)
    statement = text(f"INSERT INTO session_view ({columns}) VALUES ({values})")  # noqa: S608  one reader came late
    store.write(lambda connection: connection.execute(statement, dict(row)))
    after = kept.refresh("s")
    assert after is not None and (after.repository, after.erased, after.cost_micros) == ("", len(SESSION) - 3, 520)
    assert kept.rebuild() == 1 and kept.get("s") == after


PAYLOADS = st.one_of(
    st.sampled_from([payload for _, payload in SESSION]),
    st.dictionaries(
        st.sampled_from(["entries", "approval_id", "decision", "code", "to_state", "outcome", "ruling", "erased", "kind"]),
        st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=5) | st.just({"settle": 3}) | st.just({"kind": []}),
        max_size=4,
    ),
)
KINDS: list[EventKind] = [*(kind for kind, _ in SESSION), "task.receipt", "lease.issued"]
EVENTS = st.lists(st.tuples(st.sampled_from(KINDS), PAYLOADS), max_size=12)


@contextmanager
def small_store() -> Iterator[Store]:
    with tempfile.TemporaryDirectory() as folder:
        store = Store.open(new_sqlite(Path(folder) / "store.db"))
        yield store
        store.close()


@settings(max_examples=15, deadline=None)
@given(st.lists(EVENTS, min_size=1, max_size=4))
def test_rebuilt_is_incremental(steps: list[list[tuple[EventKind, dict[str, Any]]]]) -> None:
    with small_store() as store:
        for step in steps:
            record(store, "s", *step)
            views(store).refresh("s")
        incremental = views(store).get("s")
        views(store).rebuild()
        assert views(store).get("s") == incremental


@given(EVENTS)
def test_the_reducer_takes_any_payload(events: list[tuple[EventKind, dict[str, Any]]]) -> None:
    view: SessionView | None = None
    for seq, (kind, payload) in enumerate(events, start=1):
        event = Event(
            event_id=str(seq), tenant_id="t", trace_id="t", session_id="s", task_id=None, capability_id=None, version="1",
            seq=seq, kind=kind, actor=ACTOR, idempotency_key=str(seq), payload_commitment="0" * 64, recorded_at_ms=seq,
            prev_hash="0" * 64, hash="0" * 64,
        )  # fmt: skip
        view = reduce_view(view, event, payload)
        assert (view.seq, view.last_kind, SessionView.model_validate_json(view.model_dump_json())) == (seq, kind, view)


def test_a_store_without_its_key_lists_nothing_wrongly(store: Store) -> None:
    """A view that cannot be made is an error, not an empty session."""
    record(store, "s", *SESSION[:1])
    store.write(lambda connection: connection.execute(text("DELETE FROM session_view")))
    with pytest.raises(Exception, match="PAYLOAD_KEY_MISSING"):
        _sealed_view(store)


def _sealed_view(store: Store) -> None:
    guard = "DROP TRIGGER event_payload_no_update" + (
        " ON event_payload" if store.read(lambda connection: connection.dialect.name) == "postgresql" else ""
    )
    store.write(lambda connection: connection.exec_driver_sql(guard))
    store.write(lambda connection: connection.execute(text("UPDATE event_payload SET key_id = 'payload-9'")))
    views(store).refresh("s")

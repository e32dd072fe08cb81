"""What the reaper does with each thing that the server can say of a session's workflow."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import pytest

from activities.control.reaping import Reaping
from activities.record.blobs import BlobStore
from activities.record.executions import ExecutionRow, ExecutionRows
from schemas.capabilities import CloseSession, OpenSession, RecordTransition
from schemas.error import InfrastructureError
from schemas.event import Actor, EventDraft
from schemas.operations import AbandonedCode, RunFacts, RunStatus, abandoned_as, may_be_attempted
from schemas.session import Signal, State, step
from tests.control.conftest import Desk


@dataclass
class Server:
    """A server's record of runs, kept in memory; ``down``: it does not answer."""

    runs: dict[tuple[str, str], RunFacts] = field(default_factory=dict)
    histories: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    terminated: list[tuple[str, str]] = field(default_factory=list)
    down: bool = False

    def put(self, workflow_id: str, run_id: str, status: RunStatus, first: str = "s") -> None:
        self.runs[(workflow_id, run_id)] = RunFacts(run_id=run_id, first_run_id=first, status=status)

    def describe(self, workflow_id: str, run_id: str | None = None) -> RunFacts | None:
        if self.down:
            raise InfrastructureError("TEMPORAL_UNAVAILABLE", "no answer")
        if run_id is not None:
            return self.runs.get((workflow_id, run_id))
        return next((facts for key, facts in reversed(self.runs.items()) if key[0] == workflow_id), None)

    def terminate(self, workflow_id: str, run_id: str, reason: str) -> bool:
        facts = self.describe(workflow_id, run_id)
        if facts is None or not facts.running:
            return False
        self.runs[(workflow_id, run_id)] = facts.model_copy(update={"status": "TERMINATED"})
        self.terminated.append((workflow_id, run_id))
        return True

    def history(self, workflow_id: str, run_id: str) -> dict[str, Any] | None:
        return self.histories.get((workflow_id, run_id))


class Yard:
    """One open session ``s`` of workflow ``w``, and the reaper."""

    def __init__(self, desk: Desk, folder: Path) -> None:
        (folder / "repo").mkdir()
        self.desk, self.server = desk, Server()
        self.rows = ExecutionRows(desk.tenant)
        self.killed: list[str] = []
        self.blobs = BlobStore(desk.home.blobs, "local")
        self.reaping = Reaping(desk.tenant, self.blobs, self.server, self._kill, clock=lambda: desk.now)
        desk.do(desk.control.open_session, OpenSession(kind="remediation", repository=str(folder / "repo"), ref="HEAD"))
        self.row("w", "s")

    def _kill(self, session_id: str) -> int:
        self.killed.append(session_id)
        return 1

    def row(self, workflow_id: str, run_id: str, parent: str | None = None) -> None:
        keys = self.desk.keys
        self.rows.put(
            ExecutionRow(
                **keys.model_dump(), workflow_id=workflow_id, run_id=run_id, first_run_id=run_id, parent_workflow_id=parent,
                parent_run_id="s" if parent else None, principal_id="operator", phase="explore" if parent else "control",
                generation=1, reset=False,
            )
        )  # fmt: skip

    def closings(self) -> list[dict[str, Any]]:
        return [payload for event, payload in self.desk.chain.read("s") if event.kind == "session.closed"]


@pytest.fixture
def yard(desk: Desk, tmp_path: Path) -> Yard:
    return Yard(desk, tmp_path)


@pytest.mark.parametrize("code", get_args(AbandonedCode))
def test_whatever_ended_it_is_its_code(yard: Yard, code: AbandonedCode) -> None:
    if code != "VANISHED":
        yard.server.put("w", "s", code)
    found = yard.reaping.find("", 10)
    assert [(one.session_id, one.code) for one in found.sessions] == [("s", code)]
    assert yard.reaping.reap("s", "e").code == code
    (closed,) = yard.closings()
    cancelled = code == "CANCELED"
    assert (closed["reason_code"], closed["codes"]) == ("cancelled" if cancelled else "failed_final", [code])
    assert yard.killed == ["s"]
    assert yard.reaping.find("", 10).examined == 0


@pytest.mark.parametrize("status", ["RUNNING", "CONTINUED_AS_NEW", "UNKNOWN"])
def test_what_may_go_on_is_left_alone(yard: Yard, status: RunStatus) -> None:
    yard.server.put("w", "s", status)
    assert yard.reaping.find("", 10).sessions == ()
    assert yard.reaping.reap("s", "e").code is None
    assert (yard.closings(), yard.killed) == ([], [])


def test_what_the_list_said_is_asked_again(yard: Yard) -> None:
    yard.server.put("w", "s", "TERMINATED")
    assert yard.reaping.find("", 10).sessions
    yard.server.put("w", "again", "RUNNING")  # somebody reset it meanwhile
    assert yard.reaping.reap("s", "e").code is None


def test_a_server_that_does_not_answer_closes_nothing(yard: Yard) -> None:
    yard.server.down = True
    for ask in (lambda: yard.reaping.find("", 10), lambda: yard.reaping.reap("s", "e")):
        with pytest.raises(InfrastructureError, match="TEMPORAL_UNAVAILABLE"):
            ask()
    assert yard.closings() == []


def test_children_end_also_those_that_only_a_history_names(yard: Yard) -> None:
    yard.server.put("w", "s", "TIMED_OUT")
    yard.row("w/explore/1", "c1", parent="w")
    for child in ("c1", "c2"):
        yard.server.put(f"w/explore/{child[1]}", child, "RUNNING", first=child)
    execution = {"workflowId": "w/explore/2", "runId": "c2"}
    started = {"childWorkflowExecutionStartedEventAttributes": {"workflowExecution": execution}}
    yard.server.histories[("w", "s")] = {"events": [started, {"url": "https://me:hunter2@host/x"}]}
    reaped = yard.reaping.reap("s", "e")
    assert reaped.terminated == 2
    assert yard.server.terminated == [("w/explore/1", "c1"), ("w/explore/2", "c2")]
    (kept,) = yard.closings()[0]["histories"]
    assert (kept["workflow_id"], kept["run_id"]) == ("w", "s")
    assert yard.blobs.get_json(kept["history"]["sha256"])["events"][1] == {"url": "https://[redacted:url_password]@host/x"}


def test_the_machine_takes_its_last_step(yard: Yard) -> None:
    moves = step(State.INTAKE, 0, Signal.INTENT_RECEIVED)
    assert isinstance(moves, tuple)
    yard.desk.do(yard.desk.control.record_transition, RecordTransition(records=moves))
    yard.reaping.reap("s", "e")
    last = [payload for event, payload in yard.desk.chain.read("s") if event.kind == "session.transition"][-1]
    assert (last["from_state"], last["signal"], last["to_state"], last["state_seq"]) == ("PolicyReview", "Closed", "Closed", 2)


def test_who_delivered_before_is_said_to_have(yard: Yard) -> None:
    draft = EventDraft(kind="change.opened", idempotency_key="d", payload={"commit": "1" * 40})
    yard.desk.chain.append(yard.desk.keys, Actor(principal_id="gen4", kind="engine"), draft)
    yard.server.put("w", "s", "TERMINATED")
    yard.reaping.reap("s", "e")
    assert yard.closings()[0]["codes"] == ["TERMINATED", "DELIVERED"]


def test_a_late_closing_of_its_own_changes_nothing(yard: Yard) -> None:
    yard.reaping.reap("s", "e")
    yard.desk.do(yard.desk.control.close_session, CloseSession(reason_code="released", outcome="merged"))
    assert [closed["outcome"] for closed in yard.closings()] == ["failed"]
    assert yard.desk.chain.verify("s") == []


def test_open_sessions_come_in_pages(yard: Yard, tmp_path: Path) -> None:
    for name in ("a", "b", "z"):
        yard.desk.keys = yard.desk.keys.model_copy(update={"session_id": name, "trace_id": name})
        yard.desk.do(yard.desk.control.open_session, OpenSession(kind="compile", repository=str(tmp_path / "repo"), ref="HEAD"))
    first = yard.reaping.find("", 2)
    assert (first.examined, first.next) == (2, "b")
    second = yard.reaping.find(first.next, 2)
    assert (second.examined, second.next) == (2, "z")
    assert yard.reaping.find(second.next, 2).examined == 0


def test_only_what_the_server_lists_may_be_attempted_again() -> None:
    running = RunFacts(run_id="r", first_run_id="r", status="RUNNING", pending=("7",))
    assert may_be_attempted(running, "7")
    assert not may_be_attempted(running, "8")
    assert not may_be_attempted(running.model_copy(update={"status": "TERMINATED"}), "7")
    assert not may_be_attempted(None, "7")
    assert abandoned_as(None) == "VANISHED"

"""``gen4 events | sessions | checkpoints`` as an operator types them, against a store that somebody changed."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from activities.record.executions import ExecutionRow
from cli.local import open_local
from cli.main import run
from schemas.event import Actor, EventDraft
from schemas.task import TraceKeys
from workers.settings import Settings

Gen4 = Callable[..., tuple[int, Any]]
ACTOR = Actor(principal_id="engineer", kind="human")


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    for name in [name for name in os.environ if name.startswith("GEN4_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("GEN4_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("GEN4_CHECKPOINT_SINK", str(tmp_path / "outside.notes"))
    made = Settings()
    record(made, "s1", closed=True)
    record(made, "s2", closed=False)
    return made


@pytest.fixture
def gen4(settings: Settings, capsys: pytest.CaptureFixture[str]) -> Gen4:
    def call(*arguments: str) -> tuple[int, Any]:
        capsys.readouterr()
        code = run([*arguments, "--json"])
        out = capsys.readouterr().out
        return code, json.loads(out) if out else None

    return call


def record(settings: Settings, session_id: str, *, closed: bool) -> None:
    local = open_local(settings)
    keys = TraceKeys(tenant_id="local", trace_id=session_id, session_id=session_id, task_id=session_id)
    row = ExecutionRow(
        tenant_id="local", workflow_id=f"w-{session_id}", run_id=session_id, first_run_id=session_id, session_id=session_id,
        trace_id=session_id, task_id=session_id, principal_id="engineer", phase="control", generation=1, reset=False,
    )  # fmt: skip
    local.executions.put(row)
    drafts = [
        EventDraft(kind="session.opened", idempotency_key=f"{session_id}/1", payload={"kind": "remediation", "repository": "/r"}),
        EventDraft(kind="task.receipt", idempotency_key=f"{session_id}/2", payload={"text": "Jane Doe said"}),
    ]
    if closed:
        drafts.append(EventDraft(kind="session.closed", idempotency_key=f"{session_id}/3", payload={"outcome": "merged"}))
    local.chain.append(keys, ACTOR, *drafts)
    local.store._store.close()


def attack(settings: Settings, *statements: str) -> None:
    with closing(sqlite3.connect(settings.home / "store.db")) as raw, raw:
        for [name] in raw.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            raw.execute(f"DROP TRIGGER {name}")
        for statement in statements:
            raw.execute(statement)


def test_what_is_sound_verifies_alone_and_together(gen4: Gen4) -> None:
    assert gen4("checkpoints", "take")[1]["number"] == 1
    code, one = gen4("events", "w-s1", "--verify")
    assert (code, one["ok"], one["events"], one["session_id"]) == (0, True, 3, "s1")
    code, every = gen4("events", "--verify", "--all")
    assert (code, every["ok"], every["sessions"], every["findings"]) == (0, True, 3, [])
    code, found = gen4("checkpoints", "verify")
    assert (code, found["ok"], found["checkpoints"]) == (0, True, 1)
    listed = gen4("checkpoints", "list")[1]
    assert listed["key"].startswith("gen4-checkpoint+") and "— gen4-checkpoint" in listed["checkpoints"][0]["note"]


@pytest.mark.parametrize(
    ("statement", "finding"),
    [
        ("UPDATE event SET kind = 'task.started' WHERE session_id = 's1' AND seq = 2", ("s1", 2, "ALTERED")),
        ("DELETE FROM event WHERE session_id = 's1' AND seq = 2", ("s1", 3, "REMOVED")),
        ("DELETE FROM event WHERE session_id = 's1' AND seq = 1", ("s1", 2, "TRUNCATED")),
        ("UPDATE event_payload SET payload = x'00' WHERE session_id = 's1'", ("s1", 1, "PAYLOAD_CHANGED")),
    ],
)
def test_the_first_bad_record_is_named(gen4: Gen4, settings: Settings, statement: str, finding: tuple[str, int, str]) -> None:
    gen4("checkpoints", "take")
    attack(settings, statement)
    for arguments in (("w-s1", "--verify"), ("--verify", "--all")):
        code, found = gen4("events", *arguments)
        named = [(one["session_id"], one["seq"], one["code"]) for one in found["findings"]]
        assert (code, named) == (1, [finding])
    assert gen4("events", "w-s2", "--verify")[0] == 0


def test_a_session_that_is_gone_altogether_is_named(gen4: Gen4, settings: Settings) -> None:
    gen4("checkpoints", "take")
    gone = "DELETE FROM {} WHERE session_id = 's1'"
    attack(settings, *(gone.format(table) for table in ("event", "event_payload", "execution")))
    for arguments in (("s1", "--verify"), ("--verify", "--all")):
        code, found = gen4("events", *arguments)
        assert (code, [(one["session_id"], one["code"]) for one in found["findings"]]) == (1, [("s1", "REPLACED")])


def test_a_store_rolled_back_with_its_checkpoints_is_found_by_what_was_kept_outside(
    gen4: Gen4, settings: Settings, tmp_path: Path
) -> None:
    gen4("checkpoints", "take")
    signed = "DELETE FROM event WHERE kind = 'checkpoint.signed'"
    attack(settings, "DELETE FROM checkpoint", "DELETE FROM checkpoint_head", signed)
    code, found = gen4("checkpoints", "verify", "--sink", str(tmp_path / "outside.notes"))
    assert (code, [one["code"] for one in found["findings"]]) == (1, ["RESTORED_UNDECLARED"])
    code, found = gen4("events", "--verify", "--all", "--checkpoint", str(tmp_path / "nothing"))
    assert (code, found["error"]["code"]) == (2, "SINK_UNREADABLE")


def test_without_the_key_it_says_what_was_not_checked(gen4: Gen4, settings: Settings) -> None:
    gen4("checkpoints", "take")
    (settings.home / "keys" / "payload.key").unlink()
    code, found = gen4("events", "s1", "--verify")
    assert (code, found["ok"], found["events"], found["not_checked"]) == (0, True, 3, 3)
    code, found = gen4("events", "s1")
    assert (code, found["error"]["code"]) == (1, "PAYLOAD_KEY_MISSING")


def test_sessions_are_listed_from_their_views(gen4: Gen4) -> None:
    code, found = gen4("sessions")
    assert code == 0 and [(one["session_id"], one["outcome"], one["repository"]) for one in found] == [
        ("s1", "merged", "/r"), ("s2", "", "/r"),
    ]  # fmt: skip
    assert gen4("events", "--rebuild")[0] == 0 and gen4("sessions")[1] == found


def test_what_was_said_is_erased_on_record(gen4: Gen4) -> None:
    code, found = gen4("events", "erase", "w-s1", "--seq", "2", "--reason", "request 17")
    assert (code, found) == (0, {"session_id": "s1", "erased": 1})
    rows = gen4("events", "s1")[1]
    assert rows[1]["payload"] == {"erased": True} and rows[-1]["kind"] == "payload.erased"
    code, found = gen4("events", "s1", "--verify")
    assert (code, found["ok"], found["erased"]) == (0, True, 1)


@pytest.mark.parametrize(
    ("arguments", "code", "error"),
    [
        (("events",), 2, "EVENTS_OF"),
        (("events", "s1", "s2"), 2, "EVENTS_OF"),
        (("events", "--all"), 2, "EVENTS_OF"),
        (("events", "nobody"), 2, "SESSION_UNKNOWN"),
        (("events", "erase", "s1", "--seq", "0", "--reason", "x"), 2, "ERASE_WHAT"),
        (("events", "erase", "s1", "--seq", "9", "--reason", "x"), 2, "RECORD_UNKNOWN"),
        (("events", "erase", "s1"), 2, "ERASURE_REASON"),
        (("events", "erase", "s2", "--reason", "x"), 1, "SESSION_OPEN"),
    ],
)
def test_what_makes_no_sense_is_refused(gen4: Gen4, arguments: tuple[str, ...], code: int, error: str) -> None:
    found, document = gen4(*arguments)
    assert (found, document["error"]["code"]) == (code, error)

"""What operators see and stop, through the command line of a running fabric."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

import policies
from tests.e2e.harness import BUGGY, Fabric, closed

SLOW = {**BUGGY, "tests/test_slow.py": "import time\n\n\ndef test_slow():\n    time.sleep(100)\n"}


def events(fabric: Fabric, id: str) -> list[dict[str, Any]]:
    shown = fabric.gen4("events", id, "--json")
    assert shown.code == 0, shown.err
    listed: list[dict[str, Any]] = shown.json
    return listed


def exploring(fabric: Fabric, name: str) -> str:
    """A session whose suite runs in a sandbox."""
    done = fabric.gen4("remediate", "-r", str(fabric.repository(name, SLOW)), "-g", "clamp", "--json")
    assert done.code == 0, done.err
    id: str = done.json["workflow_id"]
    fabric.wait_for(id, lambda document: any(stage["name"].startswith("explore") for stage in document["stages"]), timeout=90)
    deadline = time.monotonic() + 90
    while not any(e["kind"] == "gate.decision" and e["capability_id"] == "testbed.run_tests" for e in events(fabric, id)):
        assert time.monotonic() < deadline
        time.sleep(0.5)
    return id


def test_a_killed_session_ends_at_once_and_says_why(fabric: Fabric) -> None:
    id = exploring(fabric, "killed")
    on = fabric.gen4("kill", "on", "--session", id, "--reason", "drill")
    assert on.code == 0, on.err
    result = fabric.wait_for(id, closed, timeout=30)["result"]
    assert (result["outcome"], result["codes"]) == ("cancelled", ["KILL_SWITCH"])
    told = events(fabric, id)
    pulled = next(e for e in events(fabric, "tenant") if e["kind"] == "killswitch.changed")
    killed = next(e for e in told if e["kind"] == "sandbox.killed")
    assert killed["recorded_at_ms"] - pulled["recorded_at_ms"] <= 2_000 + 1_000  # the rest is the record, not the stop
    assert next(e for e in told if e["kind"] == "session.closed")["payload"]["reason_code"] == "kill_switch"
    assert fabric.gen4("events", id, "--verify").code == 0
    assert fabric.gen4("ledger", "reconcile").code == 0
    assert fabric.gen4("kill", "off", "--session", id, "--reason", "over").code == 0


def test_a_revoked_lease_ends_its_session_and_no_other(fabric: Fabric) -> None:
    id = exploring(fabric, "revoked")
    revoked = fabric.gen4("lease", "revoke", "--session", id, "--reason", "left")
    assert revoked.code == 0, revoked.err
    result = fabric.wait_for(id, closed, timeout=30)["result"]
    assert result["codes"] == ["LEASE_REVOKED"]


def test_what_a_session_cost_is_attributed_and_adds_up(fabric: Fabric, approved: dict[str, Any]) -> None:
    cost = fabric.gen4("ledger", "cost", "--session", approved["workflow_id"], "--by", "capability", "--json")
    assert cost.code == 0, cost.err
    assert "testbed.run_tests" in json.dumps(cost.json)
    reconciled = fabric.gen4("ledger", "reconcile", "--json")
    assert reconciled.code == 0, reconciled.out


def test_a_candidate_policy_is_enforced_beside_the_active_one(fabric: Fabric, tmp_path: Path) -> None:
    """The candidate forbids to localise; the active policy allows it."""
    candidate = tmp_path / "policies"
    shutil.copytree(Path(policies.__file__ or "").parent, candidate, ignore=shutil.ignore_patterns("__pycache__"))
    data = candidate / "data.json"
    data.write_text(data.read_text().replace('"explore.localize", "explore.repair"', '"explore.repair"'))
    variables = {**fabric.environment, "GEN4_POLICY_CANDIDATE": str(candidate), "GEN4_GATE_MODE": "full"}
    trying = Fabric(fabric.home, fabric.repositories, variables)
    assert fabric.gen4("down").code == 0
    try:
        up = trying.gen4("up", "--json")
        assert up.code == 0 and up.json["candidate_digest"], up.err
        repository = fabric.repository("candidate")
        done = trying.gen4("remediate", "-r", str(repository), "-g", "clamp", "--until", "approval", "--json")
        refused = [e for e in events(trying, done.json["workflow_id"]) if e["payload"].get("would_block")]
        assert {e["capability_id"] for e in refused} == {"explore.localize"}
        assert done.json["codes"] == ["CANDIDATE_POLICY_DENIED"]
    finally:
        trying.gen4("down")
        assert fabric.gen4("up").code == 0

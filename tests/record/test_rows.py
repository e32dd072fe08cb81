"""Executions, effects, approvals and cursors: each row is made once and moves only as it may."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import pytest

from activities.record.approvals import Approvals
from activities.record.cursors import Cursors
from activities.record.effects import Effects
from activities.record.executions import ExecutionRow, ExecutionRows
from activities.record.store import Store
from schemas.approval import Action, ApprovalRequest
from schemas.error import InputError, Refused
from schemas.task import TraceKeys

KEYS = TraceKeys(tenant_id="acme", trace_id="trace", session_id="session", task_id="task")
OTHER = KEYS.model_copy(update={"tenant_id": "other"})


@dataclass(frozen=True)
class Call:
    effect_key: str = "effect"
    attempt_key: str = "run/activity/1"
    keys: TraceKeys = KEYS


def execution(**changes: object) -> ExecutionRow:
    row = ExecutionRow(
        tenant_id="acme", workflow_id="w", run_id="r", first_run_id="r", session_id="r", trace_id="t", task_id="w",
        principal_id="uid:0", phase="control", generation=1, reset=False,
    )  # fmt: skip
    return row.model_copy(update=changes)


def request(approval_id: str = "a1", **changes: object) -> ApprovalRequest:
    action = Action(
        repository="/r", target_ref="refs/heads/gen4/x", expected_head="0" * 40, commit_id="a" * 40, result_tree="b" * 40,
        bundle_digest="sha256:" + "c" * 64, stamp_sha256="d" * 64, policy_digest="sha256:" + "e" * 64,
        approvers_digest="sha256:" + "f" * 64, tenant_id="acme", session_id="session", mode="branch", revert="delete-branch",
    )  # fmt: skip
    made = ApprovalRequest(
        approval_id=approval_id, action=action, action_digest=action.digest, stamp_id="s", fix="complete", requester_id="uid:0",
        eligible_approvers=("uid:0",), run_id="r", nonce="n", requested_at_ms=1, expires_at_ms=2, rollback="delete the branch",
    )  # fmt: skip
    return made.model_copy(update=changes)


def test_execution_is_recorded_once(store: Store) -> None:
    rows = ExecutionRows(store.tenant("acme"))
    assert rows.get("w", "r") is None
    assert rows.put(execution()) == rows.put(execution()) == rows.get("w", "r") == execution()
    assert ExecutionRows(store.tenant("other")).get("w", "r") is None
    parent = {"parent_workflow_id": "w", "parent_run_id": "r"}
    child = execution(workflow_id="w/explore", run_id="r2", phase="explore", reset=True, **parent)
    rows.put(child)
    assert rows.of_session("r") == [execution(), child]


@pytest.mark.parametrize("change", [{"session_id": "x"}, {"phase": "release"}, {"reset": True}, {"principal_id": "x"}])
def test_execution_never_changes(store: Store, change: dict[str, object]) -> None:
    rows = ExecutionRows(store.tenant("acme"))
    rows.put(execution())
    with pytest.raises(Refused, match="ID_CONFLICT"):
        rows.put(execution(**change))
    assert rows.get("w", "r") == execution()


def test_second_attempt_finds_the_receipt_of_the_first(store: Store) -> None:
    effects = Effects(store.tenant("acme"))
    assert effects.get("effect") is None and effects.count("effect") == 0
    assert effects.begin(Call(), "forge.deliver") is None
    done = effects.finish(Call(), "forge.deliver", "succeeded", '{"x":1}')
    found = effects.begin(Call(attempt_key="run/activity/2"), "forge.deliver")
    assert found == done and done.result_json == '{"x":1}' and done.attempt_key == "run/activity/1" and done.attempts == 1
    assert effects.finish(Call(), "forge.deliver", "failed", None) == done
    assert effects.count("effect") == 1


@pytest.mark.parametrize("ended", ["failed", "unknown", None])
def test_unfinished_effect_may_be_tried_again_and_stays_single(
    store: Store, ended: Literal["failed", "unknown"] | None
) -> None:
    effects = Effects(store.tenant("acme"))
    effects.begin(Call(), "forge.deliver")
    if ended is not None:
        effects.finish(Call(), "forge.deliver", ended, None)
    assert effects.begin(Call(attempt_key="run/activity/2"), "forge.deliver") is None
    stored = effects.get("effect")
    assert stored is not None
    assert (stored.outcome, stored.attempts, stored.attempt_key, effects.count("effect")) == ("started", 2, "run/activity/2", 1)


def test_effect_key_belongs_to_one_capability_and_tenant(store: Store) -> None:
    effects = Effects(store.tenant("acme"))
    effects.begin(Call(), "forge.deliver")
    with pytest.raises(Refused, match="ID_CONFLICT"):
        effects.begin(Call(), "other.capability")
    with pytest.raises(Refused, match="ID_CONFLICT"):
        effects.finish(Call(), "other.capability", "succeeded", None)
    foreign, others = Call(keys=OTHER), Effects(store.tenant("other"))
    assert others.begin(foreign, "other.capability") is None
    assert effects.count("effect") == others.count("effect") == 1


def test_rows_of_another_tenant_are_refused_by_every_repository(store: Store) -> None:
    mine, foreign = store.tenant("acme"), Call(keys=OTHER)
    attempts: list[Callable[[], object]] = [
        lambda: ExecutionRows(mine).put(execution(tenant_id="other")),
        lambda: Effects(mine).begin(foreign, "forge.deliver"),
        lambda: Effects(mine).finish(foreign, "forge.deliver", "succeeded", None),
        lambda: Approvals(mine).put(request(), OTHER),
        lambda: Cursors(mine).save(OTHER, "k", {}),
    ]
    for attempt in attempts:
        with pytest.raises(Refused, match="TENANT_MISMATCH"):
            attempt()
    Approvals(store.tenant("other")).put(request(), OTHER)
    assert not Approvals(mine).set_status("a1", "pending", "approved")
    with pytest.raises(Refused, match="ID_CONFLICT"):
        Approvals(mine).put(request(), KEYS)
    assert Approvals(mine).get("a1") is None


def test_finish_without_begin_is_recorded(store: Store) -> None:
    receipt = Effects(store.tenant("acme")).finish(Call(), "forge.deliver", "unknown", None)
    assert Effects(store.tenant("acme")).get("effect") == receipt and receipt.outcome == "unknown"


def test_approval_is_recorded_once_and_found(store: Store) -> None:
    approvals = Approvals(store.tenant("acme"))
    stored = approvals.put(request(), KEYS)
    assert approvals.put(request(), KEYS) == stored == approvals.get("a1")
    assert Approvals(store.tenant("other")).get("a1") is None
    assert approvals.pending() == approvals.of_session("session") == [stored]
    assert Approvals(store.tenant("other")).pending() == []
    digest = stored.request.action_digest
    for prefix in (digest, digest[: 7 + 12], digest[7:], digest[7:19]):
        assert approvals.find(prefix) == [stored]
    assert approvals.find("0" * 12) == [] and Approvals(store.tenant("other")).find(digest) == []


@pytest.mark.parametrize("prefix", ["", "abcdef01234", "%" * 12, "_" * 64, "ABCDEF012345", "a" * 65, "sha256:", "a" * 12 + "\n"])
def test_short_or_odd_prefix_is_refused(store: Store, prefix: str) -> None:
    with pytest.raises(InputError, match="DIGEST_PREFIX"):
        Approvals(store.tenant("acme")).find(prefix)


def test_same_id_for_another_request_is_a_conflict(store: Store) -> None:
    approvals = Approvals(store.tenant("acme"))
    approvals.put(request(), KEYS)
    with pytest.raises(Refused, match="ID_CONFLICT"):
        approvals.put(request(nonce="other"), KEYS)
    with pytest.raises(Refused, match="ID_CONFLICT"):
        approvals.put(request(), KEYS.model_copy(update={"session_id": "other"}))


def test_status_moves_by_compare_and_set(store: Store) -> None:
    approvals = Approvals(store.tenant("acme"))
    approvals.put(request(), KEYS)
    assert not approvals.set_status("a1", "approved", "redeemed")
    assert not approvals.set_status("unknown", "pending", "approved")
    assert approvals.set_status("a1", "pending", "approved", decided_by="uid:7", decision_json="{}")
    assert not approvals.set_status("a1", "pending", "rejected", decided_by="uid:8")
    assert store.write(lambda connection: approvals.set_status("a1", "approved", "redeemed", connection, deliver_by_ms=9))
    stored = approvals.get("a1")
    assert stored is not None
    assert (stored.request.status, stored.deliver_by_ms) == ("redeemed", 9)
    assert (stored.decided_by, stored.decision_json) == ("uid:7", "{}")
    assert stored.request.model_copy(update={"status": "pending"}) == request()
    assert approvals.pending() == [] and approvals.put(request(), KEYS) == stored


def test_of_fifty_redeemers_one_wins(store: Store) -> None:
    approvals = Approvals(store.tenant("acme"))
    approvals.put(request(status="approved"), KEYS)
    won: list[bool] = []

    def redeem() -> None:
        won.append(approvals.set_status("a1", "approved", "redeemed"))

    threads = [threading.Thread(target=redeem) for _ in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(won) == [False] * 49 + [True]


def test_cursor_keeps_the_last_save(store: Store) -> None:
    cursors = Cursors(store.tenant("acme"))
    assert cursors.load("k") is None
    cursors.save(KEYS, "k", {"tried": 1})
    cursors.save(KEYS, "k", {"tried": 2, "done": ["a"]})
    assert cursors.load("k") == {"tried": 2, "done": ["a"]}
    assert Cursors(store.tenant("other")).load("k") is None
    with pytest.raises(InputError, match="NOT_CANONICAL"):
        cursors.save(KEYS, "k", {"n": 2**60})

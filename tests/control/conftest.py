"""A real store, real keys, and who is acting."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from activities.control.activities import ControlActivities
from activities.control.approvers import Approvers, ensure_operator, sign_decision
from activities.kernel.acting import Acting, as_acting
from activities.kernel.repositories import RepositoryRules
from activities.record.approvals import Approvals, StoredApproval
from activities.record.chain import EventChain
from activities.record.home import Home
from activities.record.store import Store
from schemas.approval import Action, ApprovalRequest, Decision, DecisionKind, Ruling, SignedDecision
from schemas.capabilities import JudgeDecision, RedeemApproval, RequestApproval
from schemas.event import Actor
from schemas.policy import PolicyDecision
from schemas.task import SessionConfig, TraceKeys
from tests.record.templates import new_sqlite

SHA = "sha256:" + "a" * 64
POLICY = "sha256:" + "c" * 64


@dataclass
class FixedPolicy:
    """Control asks for the digest alone."""

    policy_digest: str = POLICY

    def decide(self, package: str, question: Mapping[str, Any]) -> PolicyDecision:
        raise AssertionError("control asks no policy")


class Desk:
    """One session's control activities, with a clock that tests set."""

    def __init__(self, folder: Path) -> None:
        self.home = Home.open(folder / "home")
        self.key = ensure_operator(self.home)
        self.store = Store.open(new_sqlite(self.home.store))
        self.tenant = self.store.tenant("local")
        self.chain, self.approvals = EventChain(self.tenant), Approvals(self.tenant)
        self.policy = FixedPolicy()
        self.now = 1_000_000
        self.control = ControlActivities(
            self.tenant, self.home.keys, self.policy, RepositoryRules((folder,)), SessionConfig(), clock=lambda: self.now
        )
        self._calls = itertools.count(1)
        self.keys = TraceKeys(tenant_id="local", trace_id="t", session_id="s", task_id="task")

    def who(self, call: str | None = None, **changes: Any) -> Acting:
        """A new call, or an attempt of a named one."""
        name = call or f"call-{next(self._calls)}"
        who = Acting(
            keys=self.keys, actor=Actor(principal_id="operator", kind="human"), phase="control", workflow_id="w", run_id="run",
            effect_key=f"w/run/{name}", attempt_key=f"run/{name}/{next(self._calls)}", attempt=1,
        )  # fmt: skip
        return dataclasses.replace(who, **changes)

    def do(self, method: Callable[[Any], Any], request: Any, call: str | None = None, **changes: Any) -> Any:
        with as_acting(self.who(call, **changes)):
            return method(request)

    def action(self, **changes: Any) -> Action:
        fields: dict[str, Any] = {
            "repository": "/r", "target_ref": "refs/heads/gen4/task", "expected_head": "0" * 40, "commit_id": "1" * 40,
            "result_tree": "2" * 40, "bundle_digest": SHA, "stamp_sha256": "b" * 64, "policy_digest": POLICY,
            "approvers_digest": Approvers.load(self.home.keys).digest, "tenant_id": "local", "session_id": "s", "mode": "branch",
            "revert": "delete-branch",
        }  # fmt: skip
        return Action(**fields | changes)

    def ask(self, call: str | None = None, **changes: Any) -> ApprovalRequest:
        request = RequestApproval(action=self.action(**changes), stamp_id="stm", fix="complete", expiry_ms=10_000)
        asked: ApprovalRequest = self.do(self.control.request_approval, request, call)
        return asked

    def signed(self, request: ApprovalRequest, kind: DecisionKind = "approve", key: Path | None = None) -> SignedDecision:
        signature = sign_decision(request, kind, "", {}, key or self.key)
        decision = Decision(approval_id=request.approval_id, action_digest=request.action_digest, signature=signature)
        return SignedDecision(kind=kind, decision=decision, received_at_ms=self.now)

    def judge(self, request: ApprovalRequest, signed: SignedDecision, call: str | None = None, **changes: Any) -> Ruling:
        judged: Ruling = self.do(
            self.control.judge_decision, JudgeDecision(approval_id=request.approval_id, signed=signed), call, **changes
        )
        return judged

    def redeem(self, request: ApprovalRequest, call: str | None = None, digest: str | None = None) -> Any:
        redeem = RedeemApproval(
            approval_id=request.approval_id, action_digest=digest or request.action_digest, deliver_within_ms=500
        )
        return self.do(self.control.redeem_approval, redeem, call)

    def stored(self, request: ApprovalRequest) -> StoredApproval:
        found = self.approvals.get(request.approval_id)
        assert found is not None
        return found

    def kinds(self) -> list[str]:
        return [event.kind for event, _ in self.chain.read("s")]


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    desk = Desk(tmp_path)
    yield desk
    desk.store.close()

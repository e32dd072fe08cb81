"""The gate of a worker for benchmarks: a real store on disk, a real policy engine, and everything that a call needs to pass."""

from __future__ import annotations

import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from sqlalchemy import Connection
from temporalio.client import Client

from activities.kernel.admission import Call, Standing
from activities.kernel.gate import Gate
from activities.kernel.identity import keys_of
from activities.kernel.kernel import Kernel
from activities.kernel.metrics import KernelMetrics
from activities.policy.opa import PolicyEngine
from activities.record.executions import ExecutionRow
from activities.record.store import Store, now_ms
from schemas.breaker import BreakerKind, BreakerRule, admit, fresh, scope_key
from schemas.capabilities import DELIVER
from schemas.identity import IdentityFacts, PolicyBinding, Principal, RoleBinding, Tenant, issue_lease
from schemas.policy import PolicyDecision, PolicyRule
from schemas.request import ReleaseRequest
from workers.kernel import open_kernel
from workers.registration import served_by

TENANT, NAMESPACE = "local", "default"


@dataclass(frozen=True)
class GateBed:
    kernel: Kernel

    def gate(self, client: Client) -> Gate:
        """That of the forge pool."""
        return Gate(client=client, kernel=self.kernel, served=served_by("forge"))

    def session(self) -> ExecutionRow:
        """A run of an operator that showed itself before, and whose session has its lease."""
        row = row_of(str(uuid.uuid4()), self.kernel.operator_id)

        def write(connection: Connection) -> None:
            self.kernel.executions.put(row, connection)
            self.kernel.standings.renew_lease(connection, row, keys_of(row, TENANT), now_ms())

        self.kernel.store.write(write)
        return row

    def stage_ms(self) -> dict[str, float]:
        """Mean milliseconds of each stage of the gate until now."""
        found: dict[str, dict[str, float]] = {}
        for family in self.kernel.metrics.registry.collect():
            for sample in family.samples if family.name == "gen4_gate_stage_seconds" else ():
                found.setdefault(sample.labels["stage"], {})[sample.name.rpartition("_")[2]] = sample.value
        return {stage: round(of["sum"] / of["count"] * 1000, 2) for stage, of in found.items() if of["count"]}


@contextmanager
def open_gate_bed(policy: PolicyEngine) -> Iterator[GateBed]:
    metrics = KernelMetrics()
    with tempfile.TemporaryDirectory(prefix="gen4-bench-") as folder:
        store = Store.open(f"sqlite:///{folder}/store.db", metrics.on_commit)
        try:
            yield GateBed(open_kernel(store.tenant(TENANT), policy, policy.check(), NAMESPACE, metrics=metrics))
        finally:
            store.close()


def row_of(session_id: str, principal_id: str) -> ExecutionRow:
    return ExecutionRow(
        tenant_id=TENANT, workflow_id=f"release-{session_id}", run_id=session_id, first_run_id=session_id, session_id=session_id,
        trace_id=session_id.replace("-", ""), task_id=session_id[-12:], principal_id=principal_id, phase="control",
        generation=1, reset=False,
    )  # fmt: skip


def complete_call() -> Call:
    """An irreversible call of which everything is known and fine, so that every check has something to look at."""
    now, session_id, digest = int(time.time() * 1000), str(uuid.uuid4()), "sha256:" + "0" * 64
    row = row_of(session_id, "operator").model_copy(update={"phase": "release"})
    policy = PolicyBinding(
        policy_id="operator", tenant_id=TENANT, role="operator", allowed_actions=("none", "read", "write", "irreversible"),
        capability_prefixes=("control.", "policy.", "testbed.", "explore.", "compile.", "verify.", "evidence.", "forge."),
        path_tier_max="T2", autonomy_tier="A1", max_memory_mb=8192, max_tokens=16000, policy_digest=digest,
    )  # fmt: skip
    identity = IdentityFacts(
        tenant=Tenant(tenant_id=TENANT, name=TENANT),
        principal=Principal(principal_id="operator", tenant_id=TENANT, kind="human", issuer="local", subject="0"),
        binding=RoleBinding(tenant_id=TENANT, principal_id="operator", role="operator", granted_by="gen4"),
        policy=policy, lease=issue_lease(TENANT, session_id, "operator", policy.policy_id, now),
    )  # fmt: skip
    scopes: dict[int, tuple[BreakerKind, str]] = {7: ("tool", DELIVER.id), 8: ("server", "forge:local")}
    rule = BreakerRule(threshold=3, cooldown_ms=180_000)
    breakers = {
        number: admit(fresh(scope_key(TENANT, kind, name), rule), "probe", now) for number, (kind, name) in scopes.items()
    }
    allow = PolicyDecision(
        decision="allow", policy_id="gen4.gate", policy_digest=digest, engine_name="opa", engine_version="1",
        input_sha256="0" * 64, required_checks=("gate.phase",), results=(PolicyRule(rule_id="gate.phase", outcome="pass"),),
    )  # fmt: skip
    request = ReleaseRequest(
        repository="/repository", approval_id="a", action_digest=digest, commit_id="1" * 40, expected_head="2" * 40,
        target_ref="refs/heads/main", mode="branch", session_id=session_id,
    )  # fmt: skip
    return Call(
        activity_type=DELIVER.id, workflow_type="Release", row=row, parent_phase="control",
        standing=Standing(identity, None, breakers, now), capability=DELIVER, served=True, catalogued=True, request=request,
        policy=allow, approval=allow, candidate=allow, candidate_enforced=True,
        known=frozenset({"execution", "standing", "capability", "policy", "limits", "approval", "candidate"}),
    )  # fmt: skip

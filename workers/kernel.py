"""Opens the kernel of one tenant: whatever it needs to know is written before anything may run."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Mapping
from importlib import resources

from activities.control.seeding import ENGINE, ensure_tenant, packaged_roles
from activities.kernel.judging import PolicyPort
from activities.kernel.kernel import Kernel
from activities.kernel.limiting import KernelPolicy
from activities.kernel.metrics import KernelMetrics
from activities.kernel.pricing import Prices
from activities.kernel.rollout import Rollout
from activities.record.chain import EventChain
from activities.record.cursors import Cursors
from activities.record.store import TenantStore, now_ms
from schemas.event import EventDraft
from schemas.identity import Mode
from schemas.tariff import Tariff
from schemas.task import tenant_keys

ROLLOUT_CURSOR = "rollout"
"""What was tried when the worker last started."""


def open_kernel(
    store: TenantStore, policy: PolicyPort, catalogue: Mapping[str, str], namespace: str, *, chain: EventChain | None = None,
    identity: Mode = "embedded", rollout: Rollout | None = None, metrics: KernelMetrics | None = None,
) -> Kernel:  # fmt: skip
    """Args:
        catalogue: descriptor of every capability that the policy lists, by id.

    Raises:
        Refused: NAMESPACE_TAKEN.
    """
    operator_id = ensure_tenant(store, namespace, packaged_roles(), policy.policy_digest, os.geteuid(), now_ms())
    policies = KernelPolicy.load()
    kernel = Kernel(
        store=store, policy=policy, operator_id=operator_id, catalogue=catalogue, pricing=Prices(_tariff()), policies=policies,
        identity=identity, rollout=rollout, metrics=metrics or KernelMetrics(), chain=chain or EventChain(store),
    )  # fmt: skip
    _record_rollout(kernel)
    return kernel


def _record_rollout(kernel: Kernel) -> None:
    """An event when another candidate policy, or another mode, is tried than at the last start."""
    rollout, cursors, keys = kernel.rollout, Cursors(kernel.store), tenant_keys(kernel.store.tenant_id)
    now = {
        "subject": "policy", "from_version": kernel.policy.policy_digest, "to_version": rollout.candidate.policy_digest,
        "mode": rollout.mode, "enforce_bp": rollout.enforce_bp,
    } if rollout else {"subject": "policy", "mode": "none"}  # fmt: skip
    before = cursors.load(ROLLOUT_CURSOR) or {"subject": "policy", "mode": "none"}
    if before != now:
        draft = EventDraft(kind="rollout.changed", idempotency_key=f"rollout/{uuid.uuid4()}", payload={**now, "before": before})
        kernel.chain.append(keys, ENGINE, draft)
        cursors.save(keys, ROLLOUT_CURSOR, now)


def _tariff() -> Tariff:
    return Tariff.model_validate(json.loads((resources.files("policies") / "data.json").read_bytes())["ledger"]["tariff"])

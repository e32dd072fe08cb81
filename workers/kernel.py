"""Opens the kernel of one tenant: whatever it needs to know is written before anything may run."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from importlib import resources

from activities.control.seeding import ensure_tenant, packaged_roles
from activities.kernel.judging import PolicyPort
from activities.kernel.kernel import Kernel
from activities.kernel.limiting import KernelPolicy
from activities.kernel.metrics import KernelMetrics
from activities.kernel.rollout import Rollout
from activities.record.chain import EventChain
from activities.record.store import TenantStore, now_ms
from schemas.identity import Mode
from schemas.tariff import Tariff


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
        store=store, policy=policy, operator_id=operator_id, catalogue=catalogue, pricing=_tariff(), policies=policies,
        identity=identity, rollout=rollout, metrics=metrics or KernelMetrics(), chain=chain or EventChain(store),
    )  # fmt: skip
    return kernel


def _tariff() -> Tariff:
    return Tariff.model_validate(json.loads((resources.files("policies") / "data.json").read_bytes())["ledger"]["tariff"])

"""What the gate consults: one object per worker process and tenant."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from activities.kernel.judging import PolicyPort
from activities.kernel.limiting import KernelPolicy
from activities.kernel.metrics import KernelMetrics
from activities.kernel.rollout import Rollout
from activities.kernel.standing import Standings
from activities.record.approvals import Approvals
from activities.record.breakers import Breakers
from activities.record.chain import EventChain
from activities.record.directory import Directory
from activities.record.effects import Effects
from activities.record.executions import ExecutionRows
from activities.record.kill_switches import KillSwitches
from activities.record.leases import Leases
from activities.record.ledger import Ledger
from activities.record.store import TenantStore
from schemas.identity import Mode
from schemas.tariff import Pricing


@dataclass(frozen=True)
class Kernel:
    """Args:
    operator_id: principal of every root run in embedded mode.
    catalogue: descriptor of each capability as the policy lists it, by id.
    pricing: of what metered capabilities use.
    policies: the kernel's share of the policy data: limits, breakers.
    identity: whether the Temporal server authenticates who starts workflows.
    rollout: a candidate policy version, if one is tried.
    """

    store: TenantStore
    policy: PolicyPort
    operator_id: str
    catalogue: Mapping[str, str]
    pricing: Pricing
    policies: KernelPolicy
    identity: Mode = "embedded"
    rollout: Rollout | None = None
    metrics: KernelMetrics = field(default_factory=KernelMetrics)
    chain: EventChain = field(kw_only=True)

    @cached_property
    def standings(self) -> Standings:
        return Standings(self.directory, Leases(self.store, self.chain), KillSwitches(self.store), self.breakers)

    @cached_property
    def directory(self) -> Directory:
        return Directory(self.store, self.chain)

    @cached_property
    def breakers(self) -> Breakers:
        return Breakers(self.store, self.policies.breakers)

    @cached_property
    def ledger(self) -> Ledger:
        return Ledger(self.store)

    @cached_property
    def executions(self) -> ExecutionRows:
        return ExecutionRows(self.store)

    @cached_property
    def effects(self) -> Effects:
        return Effects(self.store)

    @cached_property
    def approvals(self) -> Approvals:
        return Approvals(self.store)

"""How a run stands at this moment: one read of everything that can change between two calls of a session."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from pydantic import BaseModel
from sqlalchemy import Connection

from activities.kernel.admission import Standing
from activities.record.breakers import Breakers
from activities.record.directory import Directory
from activities.record.executions import ExecutionRow
from activities.record.kill_switches import KillSwitches
from activities.record.leases import Leases
from schemas.breaker import admit
from schemas.capability import Capability
from schemas.identity import Wanted, judge_holder, needs_reissue
from schemas.task import TraceKeys


@dataclass(frozen=True)
class Standings:
    """Reads on the caller's connection: a snapshot before the policy is asked, the transaction when the effect begins."""

    directory: Directory
    leases: Leases
    kill_switches: KillSwitches
    breakers: Breakers

    def load(
        self, connection: Connection, row: ExecutionRow, capability: Capability[Any, Any] | None, server: str, probe_id: str,
        now_ms: int,
    ) -> Standing:  # fmt: skip
        """Args: ``server``: which one of its kind the call depends on (see :func:`server_of`)."""
        return Standing(
            identity=self.directory.facts(connection, row.principal_id, row.role, row.session_id),
            kill=self.kill_switches.covering(connection, row.session_id, capability.id if capability else ""),
            breakers={
                number: admit(self.breakers.state(connection, scope), probe_id, now_ms)
                for number, scope in scopes(row.tenant_id, capability, server).items()
            },
            now_ms=now_ms,
        )

    def renew_lease(self, connection: Connection, row: ExecutionRow, keys: TraceKeys, now_ms: int) -> bool:
        """Give the session its first lease, or one again after a long wait, while all that binds it still allows that."""
        facts = self.directory.facts(connection, row.principal_id, row.role, row.session_id)
        holder = Wanted(
            tenant_id=row.tenant_id, session_id=row.session_id, principal_id=row.principal_id, role=row.role, capability_id="",
            side_effect="none",
        )  # fmt: skip
        if facts.policy is None or judge_holder(facts, holder) is not None:
            return False
        if self.kill_switches.covering(connection, row.session_id, "") is not None:
            return False
        if facts.lease is None:
            self.leases.issue(connection, keys, row.principal_id, facts.policy.policy_id, now_ms)
            return True
        if not needs_reissue(facts.lease, now_ms):
            return False
        self.leases.reissue(connection, facts.lease, keys, now_ms, facts.policy.policy_id)
        return True


def lacks_lease(standing: Standing) -> bool:
    lease = standing.identity.lease
    return lease is None or needs_reissue(lease, standing.now_ms)


def scopes(tenant_id: str, capability: Capability[Any, Any] | None, server: str) -> dict[int, str]:
    """Breaker scopes of a call by check number."""
    if capability is None or capability.containment:
        return {}
    own = {7: f"{tenant_id}:tool:{capability.id}"}
    # When the store is down nothing runs anyway.
    return own if capability.server == "store" else own | {8: f"{tenant_id}:server:{server}"}


def server_of(capability: Capability[Any, Any] | None, request: BaseModel | None) -> str:
    """Which server of its kind a call depends on: one unreachable host of repositories does not stop the others."""
    if capability is None:
        return "none"
    repository = getattr(request, "repository", None)
    if capability.server != "forge" or not isinstance(repository, str):
        return capability.server
    return f"forge:{urlsplit(repository).hostname or 'local'}"[:200]

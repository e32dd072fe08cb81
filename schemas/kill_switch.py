"""Kill switches: while one is on, nothing that it covers runs, sandboxes included (contracts §16)."""

from __future__ import annotations

from typing import Literal

from schemas.model import Payload

KillScope = Literal["everything", "tenant", "session", "capability"]
EVERYONE = "*"
"""Tenant of the switch for everything."""


class KillSwitch(Payload):
    """``target`` is the id of the session or capability; empty for tenant and everything."""

    scope: KillScope
    tenant_id: str
    target: str = ""
    active: bool
    epoch: int
    reason: str
    changed_by: str

    def covers(self, tenant_id: str, session_id: str, capability_id: str) -> bool:
        """Whether what runs as these is to end; an inactive switch covers nothing."""
        if not self.active or self.tenant_id not in (tenant_id, EVERYONE):
            return False
        match self.scope:
            case "everything":
                return self.tenant_id == EVERYONE
            case "tenant":
                return True
            case "session":
                return self.target == session_id
            case "capability":
                return self.target == capability_id

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

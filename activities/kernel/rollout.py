"""A candidate policy version beside the active one (contracts §15): watched, enforced for some sessions, or for all.

The active policy decides in every mode. The candidate can only refuse more, so no mode lets through what the active one denies.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal

from activities.kernel.judging import PolicyPort

Mode = Literal["shadow", "canary", "full"]
COHORTS = 10_000


@dataclass(frozen=True)
class Rollout:
    """``enforce_bp``: share of the sessions, in basis points, for which the candidate is enforced in mode canary."""

    candidate: PolicyPort
    mode: Mode
    enforce_bp: int = 0

    def enforced(self, tenant_id: str, session_id: str) -> bool:
        match self.mode:
            case "shadow":
                return False
            case "canary":
                return cohort(tenant_id, session_id) < self.enforce_bp
            case "full":
                return True


def cohort(tenant_id: str, session_id: str) -> int:
    """0 … 9 999, the same for the whole life of a session, and spread evenly over sessions."""
    digest = hashlib.sha256(f"{tenant_id}\0{session_id}".encode()).digest()
    return int.from_bytes(digest[:8]) % COHORTS

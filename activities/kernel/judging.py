"""The port through which kernel and forge ask the policy engine; ``activities/policy/opa.py`` implements it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from schemas.policy import PolicyDecision


class PolicyPort(Protocol):
    @property
    def policy_digest(self) -> str: ...

    def decide(self, package: str, question: Mapping[str, Any]) -> PolicyDecision:
        """Raises InfrastructureError when nobody answers; every other trouble is a decision to deny."""
        ...

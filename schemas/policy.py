"""Policy questions and answers; OPA is the only engine, ``policies/`` the only place where "allowed" is written."""

from __future__ import annotations

from typing import Literal

from schemas.model import Digest, Payload, Sha256


class PolicyRule(Payload):
    """One rule of a decision. ``error``: the engine could not tell, which denies."""

    rule_id: str
    outcome: Literal["pass", "deny", "error"]
    message: str = ""
    path: str | None = None
    line: int | None = None


class PolicyDecision(Payload):
    """allow only if the set of passed rules equals the required set (evidence §13, positive conjunction)."""

    decision: Literal["allow", "deny"]
    policy_id: str
    policy_digest: Digest
    engine_name: str
    engine_version: str
    input_sha256: Sha256
    required_checks: tuple[str, ...]
    results: tuple[PolicyRule, ...]

    @property
    def denials(self) -> tuple[PolicyRule, ...]:
        return tuple(rule for rule in self.results if rule.outcome != "pass")

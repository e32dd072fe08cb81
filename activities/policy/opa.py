"""Questions to the running OPA, and the only reading of its answers: whatever is not a whole, positive answer denies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import requests
from opa_client import OpaClient

from activities.policy.bundle import CREDENTIALS_REVISION, PolicyBundle
from schemas.canonical import jcs_sha256
from schemas.error import InfrastructureError
from schemas.policy import PolicyDecision, PolicyRule

TIMEOUT_S = 5.0
MAX_FINDINGS = 100
"""Reasons kept of one decision; the verdict never depends on them."""

_QUERY = {"strict-builtin-errors": "true", "provenance": "true"}


class PolicyEngine:
    """A running OPA that serves exactly one policy bundle. Safe to use from several threads.

    Uploading policies is not offered: what runs is the bundle that OPA was started with.
    """

    def __init__(self, port: int, token: str, bundle: PolicyBundle, host: str = "127.0.0.1") -> None:
        self._client = _Client(host=host, port=port, token=token, retries=0, timeout=TIMEOUT_S)
        self._bundle = bundle

    @property
    def policy_digest(self) -> str:
        return self._bundle.digest

    def check(self) -> Mapping[str, str]:
        """The descriptor of each capability that the policy knows, by id; proves that OPA answers us and serves our bundle.

        Raises:
            InfrastructureError: POLICY_UNAVAILABLE, POLICY_UNAUTHORIZED, POLICY_BUNDLE_MISMATCH.
        """
        known = self._ask("gen4/gate/known", {})[0].get("result")
        if not isinstance(known, dict) or not known:
            raise InfrastructureError("POLICY_UNAVAILABLE", "OPA has no policy loaded", "run `gen4 up`")
        return {str(name): str(descriptor) for name, descriptor in known.items()}

    def decide(self, package: str, question: Mapping[str, Any]) -> PolicyDecision:
        """The decision of ``package`` (``gen4.patch``) on ``question``.

        An answer that is undefined, malformed or an evaluation error is a decision to deny, with one rule of outcome
        ``error`` that says so.

        Raises:
            InfrastructureError: nobody answered in time, or it was not our policy that answered. Nothing was decided.
        """
        body, version = self._ask(package.replace(".", "/") + "/decision", dict(question))
        required, rules = _read(body)
        return PolicyDecision(
            decision="allow" if required and all(rule.outcome == "pass" for rule in rules) else "deny",
            policy_id=package,
            policy_digest=self._bundle.digest,
            engine_name="opa",
            engine_version=version,
            input_sha256=jcs_sha256(dict(question)),
            required_checks=required,
            results=rules,
        )

    def _ask(self, path: str, question: dict[str, Any]) -> tuple[dict[str, Any], str]:
        try:
            body = self._client.query_rule(input_data=question, package_path=path, query_params=_QUERY)
        except requests.HTTPError as error:
            return _http_failure(error), "unknown"
        except (requests.RequestException, OSError, ValueError) as error:
            raise InfrastructureError(
                "POLICY_UNAVAILABLE", f"OPA does not answer: {type(error).__name__}", "run `gen4 status`, then `gen4 up`"
            ) from error
        provenance = body.get("provenance") if isinstance(body, dict) else None
        if not isinstance(provenance, dict):
            raise InfrastructureError("POLICY_BUNDLE_MISMATCH", "OPA does not say which policy answered", "run `gen4 up`")
        self._check_bundles(provenance.get("bundles"))
        return body, str(provenance.get("version", "unknown"))

    def _check_bundles(self, bundles: Any) -> None:
        served = [entry.get("revision") for entry in bundles.values()] if isinstance(bundles, dict) else []
        if sorted(map(str, served)) != sorted([self._bundle.revision, CREDENTIALS_REVISION]):
            found = f"OPA serves policy {served}, not {self._bundle.revision}"
            raise InfrastructureError("POLICY_BUNDLE_MISMATCH", found, "run `gen4 down` and `gen4 up`")


class _Client(OpaClient):  # type: ignore[misc]  # the package has no types
    """Without the environment's proxies and ~/.netrc, either of which would change who is asked or by whom."""

    def _init_session(self) -> requests.Session:
        session: requests.Session = super()._init_session()
        session.trust_env = False
        session.max_redirects = 0
        return session


def _http_failure(error: requests.HTTPError) -> dict[str, Any]:
    """500 is how OPA says that a rule could not be evaluated; all else means that we are not talking to our OPA."""
    status = error.response.status_code if error.response is not None else 0
    if status == 500:
        return {"evaluation_error": True}
    if status in (401, 403):
        raise InfrastructureError("POLICY_UNAUTHORIZED", "OPA refuses our token", "run `gen4 down` and `gen4 up`") from error
    raise InfrastructureError("POLICY_UNAVAILABLE", f"OPA answers with HTTP {status}", "run `gen4 status`") from error


def _read(body: Mapping[str, Any]) -> tuple[tuple[str, ...], tuple[PolicyRule, ...]]:
    """Required checks and the outcome of each. ``required`` is empty whenever the answer is not whole."""
    if body.get("evaluation_error"):
        return (), (_error("POLICY_ERROR", "a rule could not be evaluated"),)
    result = body.get("result")
    if result is None:
        return (), (_error("POLICY_UNDEFINED", "the policy has no answer to this question"),)
    required, passed = _names(result, "required"), _names(result, "passed")
    if not required or passed is None or not passed <= required:
        return (), (_error("POLICY_MALFORMED", "the policy's answer is not a set of passed among required checks"),)
    findings = _findings(result)
    rules: list[PolicyRule] = []
    for name in sorted(required):
        if name in passed:
            rules.append(PolicyRule(rule_id=name, outcome="pass"))
        else:
            rules += findings.get(name) or [PolicyRule(rule_id=name, outcome="deny", message="the check did not pass")]
    return tuple(sorted(required)), tuple(rules)


def _error(rule_id: str, message: str) -> PolicyRule:
    return PolicyRule(rule_id=rule_id, outcome="error", message=message)


def _names(result: Any, key: str) -> frozenset[str] | None:
    values = result.get(key) if isinstance(result, dict) else None
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        return None
    return frozenset(values)


def _findings(result: Mapping[str, Any]) -> dict[str, list[PolicyRule]]:
    found: dict[str, list[PolicyRule]] = {}
    entries = result.get("findings")
    for entry in (entries if isinstance(entries, list) else [])[:MAX_FINDINGS]:
        if isinstance(entry, dict) and isinstance(entry.get("rule_id"), str):
            path = entry.get("path")
            rule = PolicyRule(
                rule_id=entry["rule_id"], outcome="deny", message=str(entry.get("message", "")),
                path=path if isinstance(path, str) else None,
            )  # fmt: skip
            found.setdefault(rule.rule_id, []).append(rule)
    return found

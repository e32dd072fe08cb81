"""Why a patch, a request or a search was turned down, in words: codes, message, remedy."""

from __future__ import annotations

from schemas.capabilities import CompileResult
from schemas.policy import PolicyDecision
from schemas.remedies import REMEDIES

_CODES = {"request.budget": "BUDGET_ABOVE_POLICY"}
"""Rules whose refusal has a code of its own beside their name."""


def denial(decision: PolicyDecision) -> tuple[tuple[str, ...], str, str]:
    """Codes, message and remedy of a policy's refusal."""
    rules = tuple(dict.fromkeys(rule.rule_id for rule in decision.denials))
    texts = [f"{rule.rule_id}: {rule.message}" + (f" ({rule.path})" if rule.path else "") for rule in decision.denials]
    missing = sorted(set(decision.required_checks) - {rule.rule_id for rule in decision.results})
    texts += [f"{name}: not decided" for name in missing]
    codes = ("POLICY_DENIED", *rules, *(_CODES[rule] for rule in rules if rule in _CODES))
    return codes, "; ".join(texts)[:2_000] or "denied", REMEDIES["POLICY_DENIED"]


def failed_gate(compiled: CompileResult) -> str | None:
    """Name of the first gate that did not pass."""
    return next((f"{report.gate} gate" for report in compiled.gates if report.verdict != "pass"), None)


def remedy_of(compiled: CompileResult) -> str:
    """What would make it pass: for the first code, in the words of the check that failed with it; else what any code says."""
    failed = [check for report in compiled.gates if report.verdict != "pass" for check in report.failed if check.remedy]
    first = compiled.codes[0] if compiled.codes else ""
    own = next((check.remedy for check in failed if check.code == first), "") or REMEDIES.get(first, "")
    named = next((check.remedy for check in failed), "")
    known = (REMEDIES[code] for code in compiled.codes if code in REMEDIES)
    return own or named or next(known, "correct the patch and compile it again")

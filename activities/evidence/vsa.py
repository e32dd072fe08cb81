"""Verification Summary (SLSA VSA v1): what the Trust Gate found, for tools that only ask for the result (evidence §9, §11). Pure.

Which level may be stated is the table :data:`LEVELS`; docs/slsa.md says why. Nothing else of ours states a level.
"""

from __future__ import annotations

from typing import Any

from activities.evidence.statements import Unsigned, encode_statement
from schemas.evidence import BUILDER_ID, CHECKSUMS, PROVENANCE, SEPARATED_BUILDER_ID
from schemas.gates import GateReport

VSA_TYPE = "https://slsa.dev/verification_summary/v1"
VERIFIER_ID = "urn:gen4:verifier/trust-gate"
SLSA_VERSION = "1.2"

EMBEDDED_LEVEL = "GEN4_SIGNER_EMBEDDED"
SEPARATED_LEVEL = "GEN4_SIGNER_SEPARATED"
"""Executor and signer had uids of their own, and the verifier's trust root demands it."""

LEVELS: dict[tuple[str, str], tuple[str, ...]] = {
    (BUILDER_ID, "single_operator"): ("SLSA_BUILD_LEVEL_1", EMBEDDED_LEVEL),
    (SEPARATED_BUILDER_ID, "single_operator"): ("SLSA_BUILD_LEVEL_1", EMBEDDED_LEVEL),
    (SEPARATED_BUILDER_ID, "separated"): ("SLSA_BUILD_LEVEL_1", SEPARATED_LEVEL),
}
"""By builder.id and the assurance that the trust root demands: the most that may be said of a bundle that passes.

Level 2 needs a hosted build platform. No program can see whether the machine it runs on is one, so none is claimed.
"""
_NONE = ("SLSA_BUILD_LEVEL_0",)


def levels_of(builder_id: str, assurance: str) -> tuple[str, ...]:
    """What a bundle of this builder that passes has earned; an unknown pair has earned nothing."""
    return LEVELS.get((builder_id, assurance), _NONE)


def resource_uri(bundle_digest: str) -> str:
    return f"gen4+bundle:{bundle_digest}"


def summary(
    report: GateReport, bundle_digest: str, *, policy_digest: str, trust_sha256: str, verifier_version: str, time_verified: str,
    levels: tuple[str, ...], provenance_sha256: str | None = None, verifier_id: str = VERIFIER_ID,
) -> Unsigned:  # fmt: skip
    """The gate's report as a VSA. Whatever does not pass states no level.

    Args:
        report: of the Trust Gate.
        bundle_digest: digest of ``checksums.sha256``, which is the subject.
        trust_sha256: of the trust root that was believed; it is the verifier's policy, with the policy that it lists.
        time_verified: RFC 3339 UTC in whole seconds.
        levels: of :func:`levels_of`.
        provenance_sha256: of the envelope file that was read.
    """
    passed = report.verdict == "pass"
    predicate: dict[str, Any] = {
        "verifier": {"id": verifier_id, "version": {"gen4": verifier_version}},
        "timeVerified": time_verified,
        "resourceUri": resource_uri(bundle_digest),
        "policy": {"uri": f"gen4+trust:sha256:{trust_sha256}", "digest": {"sha256": trust_sha256}},
        "verificationResult": "PASSED" if passed else "FAILED",
        "verifiedLevels": list(levels) if passed else ["FAILED"],
        "slsaVersion": SLSA_VERSION,
        "gen4_policy_digest": policy_digest,
        "gen4_codes": list(report.codes),
    }
    if provenance_sha256 is not None:
        predicate["inputAttestations"] = [{"uri": PROVENANCE, "digest": {"sha256": provenance_sha256}}]
    subject = {CHECKSUMS: bundle_digest.removeprefix("sha256:")}
    return Unsigned("vsa.intoto.json", encode_statement(VSA_TYPE, subject, predicate))

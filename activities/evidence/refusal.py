"""Whether a Rejection Report is the one that a trusted signer signed. It shows a refusal, never that anything was accepted."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from activities.evidence import rejection
from activities.evidence.reading import read_text
from activities.kernel import dsse
from activities.kernel.signing_keys import hint_of, public_key
from schemas.canonical import StrictJsonError, strict_json
from schemas.evidence import PAYLOAD_TYPE, milliseconds_of
from schemas.rejection import CERTIFIED, REPORT, STATEMENT, RejectionReport
from schemas.statement import Envelope
from schemas.trust import Trust, Trusted

_LIMIT = 16 * 1024 * 1024
_NEVER = 2**63


@dataclass(frozen=True)
class Refusal:
    """``signer``: who of the trust file signed exactly this report; None, and ``problem`` says why, if nobody did."""

    report: RejectionReport | None
    signer: str | None = None
    problem: str = ""


def read_refusal(directory: Path, trust: Trust) -> Refusal | None:
    """The report in ``directory``; None where there is none. Raises InputError BUNDLE_NOT_FOUND."""
    data = read_text(directory, REPORT, _LIMIT)
    if data is None:
        return None
    try:
        strict_json(data)
        report = RejectionReport.model_validate_json(data)
    except (StrictJsonError, ValidationError):
        return Refusal(None, problem=f"{REPORT} is not a report")
    payload = rejection.statement(report).payload
    envelope = _envelope(read_text(directory, STATEMENT, _LIMIT))
    if envelope is None:
        return Refusal(report, problem=f"{STATEMENT} is missing or no envelope")
    if envelope.payloadType != PAYLOAD_TYPE or _decoded(envelope.payload) != payload:
        return Refusal(report, problem=f"what is signed in {STATEMENT} is not this report")
    signature = _decoded(envelope.signatures[0].sig)
    for signer in trust.signers:
        key = public_key(signer.public_key or "") if signer.profile == "key" and signer.revoked_at is None else None
        if key is not None and hint_of(key) == signer.hint and dsse.verify(key, PAYLOAD_TYPE, payload, signature):
            return Refusal(report, signer=signer.identity)
    certified = read_text(directory, CERTIFIED, _LIMIT)
    if certified is None:
        return Refusal(report, problem="no key of the trust file signed it")
    for signer in trust.signers:
        if signer.profile == "keyless" and _certifies(certified, payload, signer, trust):
            return Refusal(report, signer=signer.identity)
    return Refusal(report, problem="no signer of the trust file signed it")


def _certifies(bundle: bytes, payload: bytes, signer: Trusted, trust: Trust) -> bool:
    """Whether ``signer`` signed the report without a key of its own, before it was revoked or its entry ended."""
    from activities.evidence import keyless  # Sigstore takes half a second to import, and most reports do without

    document = next((root.document for root in trust.trusted_roots if root.sha256 == signer.trusted_root_sha256), None)
    try:
        facts = keyless.verify(bundle, PAYLOAD_TYPE, signer, document)
    except keyless.KeylessRefused:
        return False
    ends = [milliseconds_of(end) for end in (signer.revoked_at, signer.valid_until) if end is not None]
    return facts.payload == payload and milliseconds_of(signer.valid_from) <= facts.signed_at_ms < min(ends, default=_NEVER)


def _envelope(data: bytes | None) -> Envelope | None:
    try:
        strict_json(data or b"")
        return Envelope.model_validate_json(data or b"")
    except (StrictJsonError, ValidationError):
        return None


def _decoded(text: str) -> bytes:
    try:
        return dsse.decode_base64(text)
    except ValueError:
        return b""

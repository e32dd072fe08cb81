"""Checks 6-10 and 20: signature, signer, and what the statement says."""

from __future__ import annotations

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from pydantic import ValidationError

from activities.evidence import sigstore_bundle
from activities.evidence.case import Case, Finding, NotChecked
from activities.evidence.provenance import dependencies_of, external_parameters
from activities.kernel import dsse
from activities.kernel.signing_keys import hint_of
from schemas.canonical import StrictJsonError, jcs, sha256_hex, strict_json
from schemas.evidence import (
    BUILD_TYPE,
    PAYLOAD_TYPE,
    PREDICATE_TYPE,
    PROVENANCE,
    SIGSTORE_BUNDLE,
    STAMP,
    STATEMENT_TYPE,
    SUBJECT_LIMIT,
    SUBJECT_MEMBERS,
    Envelope,
    Provenance,
    SigstoreBundle,
    Statement,
    TrustedKey,
    milliseconds_of,
)

_LENGTH_ERRORS = ("missing", "too_long", "too_short")
_ASK_SIGNER = "verify with the trust root of whoever sealed the bundle, obtained from them and not from the bundle"


def signature(case: Case) -> Finding | None:
    """6. One signature, by a key of the trust root, over exactly these bytes; the same in both envelope files."""
    try:
        envelope = Envelope.model_validate(case.need_document(PROVENANCE))
    except ValidationError as error:
        return _envelope_error(error)
    if jcs(envelope) != case.need_file(PROVENANCE):
        return Finding(reason="envelope_shape", member=PROVENANCE, expected="canonical JSON", actual="another spelling")
    case.envelope = envelope
    bundle_hint = None
    if SIGSTORE_BUNDLE in case.reading.files:
        bundle = _sigstore(case, envelope)
        if isinstance(bundle, Finding):
            return bundle
        public_key = bundle.verificationMaterial.publicKey
        bundle_hint = public_key.hint if public_key is not None else ""
    return _verified_by_one(case, envelope, bundle_hint)


def _envelope_error(error: ValidationError) -> Finding:
    # At ("signatures",) or ("signatures", 0) the list itself is wrong: absent, empty or too long.
    count = any(item["loc"][:1] == ("signatures",) and item["type"] in _LENGTH_ERRORS for item in error.errors())
    return Finding(
        reason="signature_count" if count else "envelope_shape",
        member=PROVENANCE,
        expected="payload, payloadType and one signature with an empty keyid",
        actual=f"{error.error_count()} mistakes",
    )


def _sigstore(case: Case, envelope: Envelope) -> SigstoreBundle | Finding:
    try:
        bundle = SigstoreBundle.model_validate(case.need_document(SIGSTORE_BUNDLE))
    except ValidationError as error:
        return Finding(
            reason="envelope_shape",
            member=SIGSTORE_BUNDLE,
            expected="Sigstore bundle v0.3 with a key hint",
            actual=f"{error.error_count()} mistakes",
        )
    if sigstore_bundle.encode(bundle) != case.need_file(SIGSTORE_BUNDLE):
        return Finding(reason="envelope_shape", member=SIGSTORE_BUNDLE, expected="canonical JSON", actual="another spelling")
    if not sigstore_bundle.same_envelope(bundle, envelope):
        return Finding(
            reason="envelope_mismatch", member=SIGSTORE_BUNDLE, expected=f"the envelope of {PROVENANCE}", actual="another"
        )
    return bundle


def _verified_by_one(case: Case, envelope: Envelope, bundle_hint: str | None) -> Finding | None:
    try:
        payload, raw = dsse.decode_base64(envelope.payload), dsse.decode_base64(envelope.signatures[0].sig)
    except ValueError as error:
        return Finding(reason="envelope_shape", member=PROVENANCE, expected="canonical base64", actual=str(error))
    hint = bundle_hint if bundle_hint is not None else _claimed_hint(case)
    listed = {key.hint: key for key in case.trust.keys}
    if hint not in listed:
        case.unlisted_hint = hint
        return Finding(
            reason="hint_unknown", member=PROVENANCE, expected="a key of the trust root", actual=hint, remedy=_ASK_SIGNER
        )
    public = _public_key(listed[hint])
    if public is None:
        return Finding(reason="algorithm", expected="an ECDSA P-256 key that hashes to its hint", actual=hint, remedy=_ASK_SIGNER)
    if not dsse.verify(public, envelope.payloadType, payload, raw):
        return Finding(reason="bad_signature", member=PROVENANCE, expected=f"a signature by key {hint}", actual="not one")
    try:
        strict_json(payload)
    except StrictJsonError as error:
        return Finding(reason="envelope_shape", member=PROVENANCE, expected="a strict JSON payload", actual=str(error))
    case.payload, case.key = payload, listed[hint]
    return None


def _claimed_hint(case: Case) -> str:
    """The hint only selects a key of the trust root; it proves nothing and needs no proof."""
    stamp = case.need_document(STAMP)
    claimed = stamp.get("signer", {}) if isinstance(stamp, dict) else {}
    hint = claimed.get("key_or_issuer", "") if isinstance(claimed, dict) else ""
    return hint[:200] if isinstance(hint, str) else ""


def _public_key(trusted: TrustedKey) -> ec.EllipticCurvePublicKey | None:
    try:
        key = load_pem_public_key(trusted.public_key.encode())
    except (ValueError, UnsupportedAlgorithm):
        return None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1) or hint_of(key) != trusted.hint:
        return None
    return key


def signer(case: Case) -> Finding | None:
    """7. The pair (key, builder id) is listed, and the key is neither revoked nor out of date now."""
    if case.unlisted_hint is not None:
        return Finding(reason="not_listed", expected="a key of the trust root", actual=case.unlisted_hint, remedy=_ASK_SIGNER)
    key = case.need_key()
    if sum(other.hint == key.hint for other in case.trust.keys) != 1:
        return Finding(reason="ambiguous", expected="one entry for the key", actual=key.hint, remedy="repair the trust root")
    if finding := _key_in_time(key, case.now_ms):
        return finding
    builder = _builder_id(case.need_payload())
    if builder not in key.builder_ids:
        return Finding(reason="builder", expected=", ".join(key.builder_ids) or "none", actual=builder, remedy=_ASK_SIGNER)
    if case.trust.assurance == "separated" and builder.endswith("/embedded"):
        return Finding(
            reason="assurance",
            expected="signer and approver that are separate",
            actual=builder,
            remedy="use a bundle that a separated signer sealed",
        )
    return None


def _key_in_time(key: TrustedKey, now_ms: int) -> Finding | None:
    # No trusted time says when it was signed, so revocation voids every bundle of the key.
    if key.revoked_at is not None:
        return Finding(
            reason="revoked", expected="a key that is not revoked", actual=key.revoked_at, remedy="compile again with a valid key"
        )
    if now_ms < milliseconds_of(key.valid_from):
        return Finding(reason="not_yet_valid", expected=f"from {key.valid_from}", actual=f"{now_ms} ms", remedy="check the clock")
    if key.valid_until is not None and now_ms >= milliseconds_of(key.valid_until):
        return Finding(
            reason="expired", expected=f"until {key.valid_until}", actual=f"{now_ms} ms", remedy="compile again with a valid key"
        )
    return None


def _builder_id(payload: bytes) -> str:
    """Read leniently: whether the statement is well formed is the business of check 9."""
    value = strict_json(payload)
    for name in ("predicate", "runDetails", "builder", "id"):
        value = value.get(name) if isinstance(value, dict) else None
    return value if isinstance(value, str) else ""


def payload_type(case: Case) -> Finding | None:
    """8."""
    case.need_payload()
    actual = case.envelope.payloadType if case.envelope else ""
    return (
        None
        if actual == PAYLOAD_TYPE
        else Finding(reason="payload_type", member=PROVENANCE, expected=PAYLOAD_TYPE, actual=actual)
    )


def predicate_type(case: Case) -> Finding | None:
    """9. Also parses the statement, for the checks that follow."""
    try:
        statement = Statement.model_validate_json(case.need_payload())
    except ValidationError as error:
        return Finding(
            reason="statement", member=PROVENANCE, expected="an in-toto Statement", actual=f"{error.error_count()} mistakes"
        )
    for expected, actual in ((STATEMENT_TYPE, statement.type_), (PREDICATE_TYPE, statement.predicateType)):
        if actual != expected:
            return Finding(reason="type", member=PROVENANCE, expected=expected, actual=actual)
    case.statement = statement
    try:
        case.provenance = Provenance.model_validate(statement.predicate)
    except ValidationError as error:
        return Finding(
            reason="predicate", member=PROVENANCE, expected="SLSA provenance v1", actual=f"{error.error_count()} mistakes"
        )
    return None


def subject(case: Case) -> Finding | None:
    """10. As a set, and without repeats, the subject is members 1-7 with their digests."""
    listed = [(entry.name, entry.digest.sha256) for entry in case.need_statement().subject]
    if len(listed) > SUBJECT_LIMIT:
        return Finding(reason="count", expected=f"at most {SUBJECT_LIMIT}", actual=str(len(listed)))
    names = [name for name, _ in listed]
    if len(set(names)) != len(names):
        return Finding(reason="duplicate", expected="each name once", actual=", ".join(sorted(names)))
    if set(names) != set(SUBJECT_MEMBERS):
        return Finding(reason="names", expected=", ".join(SUBJECT_MEMBERS), actual=", ".join(sorted(names)))
    found = {name: sha256_hex(case.reading.files[name]) for name in SUBJECT_MEMBERS if name in case.reading.files}
    for name, digest in listed:
        if name in found and found[name] != digest:
            return Finding(reason="digest", member=name, expected=digest, actual=found[name])
    if len(found) != len(SUBJECT_MEMBERS):
        raise NotChecked("not every member could be read")
    return None


def parameters(case: Case) -> Finding | None:
    """20. Build type, external parameters and dependencies are those of the stamp, and of the caller's task."""
    definition = case.need_provenance().buildDefinition
    if definition.buildType != BUILD_TYPE:
        return Finding(reason="build_type", member=PROVENANCE, expected=BUILD_TYPE, actual=definition.buildType)
    stamp = case.need_stamp()
    wanted = external_parameters(stamp.task_id, stamp.source.repo, stamp.source.ref).model_dump()
    if unknown := sorted(definition.externalParameters.keys() ^ wanted.keys()):
        return Finding(reason="names", member=PROVENANCE, expected=", ".join(sorted(wanted)), actual=", ".join(unknown))
    for name, value in {**wanted, **(case.expected or {})}.items():
        actual = definition.externalParameters.get(name, "")
        if actual != value or wanted.get(name) != value:
            return Finding(reason="value", member=PROVENANCE, expected=f"{name}={value}", actual=f"{name}={actual}")
    if definition.resolvedDependencies != dependencies_of(stamp):
        return Finding(
            reason="dependencies", member=PROVENANCE, expected="source, environment and policy of the stamp", actual="others"
        )
    return None

"""Checks 6-10 and 20: signature, signer, and what the statement says."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from pydantic import ValidationError

from activities.evidence import sigstore_bundle
from activities.evidence.case import Case, Finding, NotChecked
from activities.evidence.provenance import dependencies_of, external_parameters, internal_parameters
from activities.kernel import dsse
from activities.kernel.signing_keys import hint_of, public_key
from schemas.canonical import StrictJsonError, jcs, strict_json
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
    milliseconds_of,
    timestamp_of,
)
from schemas.statement import Envelope, Provenance, SigstoreBundle, Statement, VerificationMaterial
from schemas.trust import Trusted

if TYPE_CHECKING:
    from activities.evidence.keyless import KeylessRefused, ProvenTime

_LENGTH_ERRORS = ("missing", "too_long", "too_short")
_ASK_SIGNER = "verify with the trust root of whoever sealed the bundle, obtained from them and not from the bundle"


def signature(case: Case) -> Finding | None:
    """6. One signature, by a signer of the trust file, over exactly these bytes; the same in both envelope files."""
    try:
        envelope = Envelope.model_validate(case.need_document(PROVENANCE))
    except ValidationError as error:
        return _envelope_error(error)
    if jcs(envelope) != case.need_file(PROVENANCE):
        return Finding(reason="envelope_shape", member=PROVENANCE, expected="canonical JSON", actual="another spelling")
    try:
        payload, raw = dsse.decode_base64(envelope.payload), dsse.decode_base64(envelope.signatures[0].sig)
    except ValueError as error:
        return Finding(reason="envelope_shape", member=PROVENANCE, expected="canonical base64", actual=str(error))
    material = None
    if SIGSTORE_BUNDLE in case.reading.files:
        bundle = _sigstore(case, envelope)
        if isinstance(bundle, Finding):
            return bundle
        material = bundle.verificationMaterial
    case.envelope = envelope
    if material is not None and material.certificate is not None:
        finding = _by_certificate(case, envelope.payloadType)
    else:
        finding = _by_key(case, envelope.payloadType, payload, raw, material)
    if finding is not None or case.signer is None:
        return finding
    try:
        strict_json(payload)
    except StrictJsonError as error:
        return Finding(reason="envelope_shape", member=PROVENANCE, expected="a strict JSON payload", actual=str(error))
    case.payload = payload
    return None


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
            expected="Sigstore bundle v0.3 with a key hint or a certificate",
            actual=f"{error.error_count()} mistakes",
        )
    material = bundle.verificationMaterial
    if (material.publicKey is None) == (material.certificate is None):
        return Finding(reason="envelope_shape", member=SIGSTORE_BUNDLE, expected="a key hint or a certificate", actual="not one")
    if not _one_spelling(case, bundle):
        return Finding(reason="envelope_shape", member=SIGSTORE_BUNDLE, expected="canonical JSON", actual="another spelling")
    if not sigstore_bundle.same_envelope(bundle, envelope):
        return Finding(
            reason="envelope_mismatch", member=SIGSTORE_BUNDLE, expected=f"the envelope of {PROVENANCE}", actual="another"
        )
    return bundle


def _one_spelling(case: Case, bundle: SigstoreBundle) -> bool:
    """Canonical JSON, an empty key id where we write one and Sigstore does not, no time stamp twice.

    Of what comes from Sigstore's services, their own reader checks the spelling of each value.
    """
    material, document = bundle.verificationMaterial, case.need_document(SIGSTORE_BUNDLE)
    proofs = material.timestampVerificationData
    if not material.tlogEntries and proofs is None and material.certificate is None:
        return sigstore_bundle.encode(bundle) == case.need_file(SIGSTORE_BUNDLE)
    stamps = [one.signedTimestamp for one in proofs.rfc3161Timestamps] if proofs is not None else []
    if proofs is not None and not stamps and material.certificate is None:
        return False  # we write none instead of an empty list
    named = "keyid" in document["dsseEnvelope"]["signatures"][0]
    once = len(set(stamps)) == len(stamps)
    return once and named == (material.certificate is None) and jcs(document) == case.need_file(SIGSTORE_BUNDLE)


def _by_key(
    case: Case, payload_type: str, payload: bytes, raw: bytes, material: VerificationMaterial | None
) -> Finding | None:
    """Profile K: a long-lived key; where there is a time stamp or log entry, or the trust file wants one, that too."""
    hint = material.publicKey.hint if material is not None and material.publicKey is not None else _claimed(case)[1]
    listed = {signer.hint: signer for signer in case.trust.signers if signer.profile == "key"}
    if (trusted := listed.get(hint)) is None:
        case.unlisted = hint
        return Finding(
            reason="hint_unknown", member=PROVENANCE, expected="a key of the trust root", actual=hint, remedy=_ASK_SIGNER
        )
    public = public_key(trusted.public_key or "")
    if public is None or hint_of(public) != trusted.hint:
        return Finding(reason="algorithm", expected="an ECDSA P-256 key that hashes to its hint", actual=hint, remedy=_ASK_SIGNER)
    if not dsse.verify(public, payload_type, payload, raw):
        return Finding(reason="bad_signature", member=PROVENANCE, expected=f"a signature by key {hint}", actual="not one")
    proofs = material is not None and (material.tlogEntries or material.timestampVerificationData)
    if (proofs or trusted.require != "none") and (finding := _prove_time(case, trusted)):
        return finding
    case.signer = trusted
    return None


def _prove_time(case: Case, trusted: Trusted) -> Finding | None:
    from activities.evidence import keyless  # Sigstore takes half a second to import, and most bundles do without

    if SIGSTORE_BUNDLE not in case.reading.files:
        reason = "tlog_missing" if trusted.require == "log" else "timestamp_missing"
        return Finding(reason=reason, member=SIGSTORE_BUNDLE, expected=f"a {trusted.require}", actual="none", remedy=_ASK_SIGNER)
    try:
        proven = _proven_time(case, trusted)
    except keyless.KeylessRefused as refusal:
        if refusal.untrusted:
            case.refused_signer = _refused(refusal)
            raise NotChecked("the trust file pins no root that could prove the time", _ASK_SIGNER) from refusal
        return _refused(refusal)
    case.proven_ms = proven.signed_at_ms
    return None


def _proven_time(case: Case, trusted: Trusted) -> ProvenTime:
    """Under the entry's trusted root, or another that the trust file pins: a key outlives changes of the services it uses.

    Raises:
        KeylessRefused: of the entry's own root.
    """
    from activities.evidence import keyless  # as above

    bundle, named = case.need_file(SIGSTORE_BUNDLE), _root_document(case, trusted)
    try:
        return keyless.proof_of_time(bundle, trusted, named)
    except keyless.KeylessRefused:
        for other in case.trust.trusted_roots if named is not None else ():
            under = trusted.model_copy(update={"trusted_root_sha256": other.sha256})
            with suppress(keyless.KeylessRefused):
                return keyless.proof_of_time(bundle, under, other.document)
        raise


def _by_certificate(case: Case, payload_type: str) -> Finding | None:
    """Profile S: a certificate for a listed identity, by an authority of the trusted root that the trust file pins."""
    from activities.evidence import keyless  # as above

    identity, issuer = _claimed(case)
    listed = [signer for signer in case.trust.signers if (signer.profile, signer.identity) == ("keyless", identity)]
    if not (named := [signer for signer in listed if signer.issuer == issuer]):
        case.unlisted = f"{identity} of {issuer}"
        raise NotChecked("the trust file lists no such identity and issuer", _ASK_SIGNER)
    refusal: keyless.KeylessRefused | None = None
    for trusted in named:  # one identity may have had several trusted roots, one after the other
        try:
            facts = keyless.verify(case.need_file(SIGSTORE_BUNDLE), payload_type, trusted, _root_document(case, trusted))
        except keyless.KeylessRefused as error:
            refusal = error
            continue
        case.signer, case.proven_ms = trusted, facts.signed_at_ms
        return None
    assert refusal is not None
    if refusal.untrusted:
        case.refused_signer = _refused(refusal)
        raise NotChecked("the signer is not the one that the trust file lists", _ASK_SIGNER)
    return _refused(refusal)


def _refused(refusal: KeylessRefused) -> Finding:
    return Finding(
        reason=refusal.reason, member=SIGSTORE_BUNDLE, expected=refusal.expected, actual=refusal.actual, remedy=_ASK_SIGNER
    )


def _root_document(case: Case, trusted: Trusted) -> str | None:
    pinned = {root.sha256: root.document for root in case.trust.trusted_roots}
    return pinned.get(trusted.trusted_root_sha256 or "")


def _claimed(case: Case) -> tuple[str, str]:
    """Identity and hint or issuer that the stamp names. They only select an entry of the trust file, and prove nothing."""
    stamp = case.need_document(STAMP)
    claimed = stamp.get("signer", {}) if isinstance(stamp, dict) else {}
    if not isinstance(claimed, dict):
        return "", ""
    identity, key_or_issuer = claimed.get("identity", ""), claimed.get("key_or_issuer", "")
    return identity if isinstance(identity, str) else "", key_or_issuer if isinstance(key_or_issuer, str) else ""


def signer(case: Case) -> Finding | None:
    """7. The pair (signer, builder id) is listed, and the signer was valid when it signed and is not revoked."""
    if case.unlisted is not None:
        return Finding(reason="not_listed", expected="a signer of the trust root", actual=case.unlisted, remedy=_ASK_SIGNER)
    if case.refused_signer is not None:
        return case.refused_signer
    trusted = case.need_signer()
    if sum(_identity(other) == _identity(trusted) for other in case.trust.signers) != 1:
        return Finding(reason="ambiguous", expected="one entry", actual=trusted.identity, remedy="repair the trust root")
    if finding := _in_time(case, trusted):
        return finding
    builder = _builder_id(case.need_payload())
    if builder not in trusted.builder_ids:
        return Finding(reason="builder", expected=", ".join(trusted.builder_ids) or "none", actual=builder, remedy=_ASK_SIGNER)
    if case.trust.assurance == "separated" and builder.endswith("/embedded"):
        return Finding(
            reason="assurance",
            expected="signer and approver that are separate",
            actual=builder,
            remedy="use a bundle that a separated signer sealed",
        )
    return None


def _identity(signer: Trusted) -> tuple[str, ...]:
    if signer.profile == "key":
        return ("key", signer.hint or "")
    return ("keyless", signer.identity, signer.issuer or "", signer.trusted_root_sha256 or "")


def _in_time(case: Case, trusted: Trusted) -> Finding | None:
    """Validity is judged when it was signed, so bundles outlive the rotation of their key.

    Without proof of that time it is what the stamp says. A thief of the key can say what he likes, so a revocation then voids
    every bundle but those that the trust file keeps by the digest of their stamp, which covers the rest.
    """
    signed_ms = case.signed_ms
    if trusted.revoked_at is not None and case.stamp_digest not in trusted.kept:
        if case.proven_ms is None or signed_ms >= milliseconds_of(trusted.revoked_at):
            return Finding(
                reason="revoked", expected="a signer that is not revoked", actual=trusted.revoked_at,
                remedy="compile again with a valid key",
            )  # fmt: skip
    signed = timestamp_of(signed_ms // 1000)
    if signed_ms < milliseconds_of(trusted.valid_from):
        return Finding(reason="not_yet_valid", expected=f"from {trusted.valid_from}", actual=signed, remedy=_ASK_SIGNER)
    if trusted.valid_until is not None and signed_ms >= milliseconds_of(trusted.valid_until):
        return Finding(
            reason="expired", expected=f"until {trusted.valid_until}", actual=signed, remedy="compile again with a valid key"
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
    found = {name: case.reading.digests[name].sha256 for name in SUBJECT_MEMBERS if name in case.reading.digests}
    for name, digest in listed:
        if name in found and found[name] != digest:
            return Finding(reason="digest", member=name, expected=digest, actual=found[name])
    if len(found) != len(SUBJECT_MEMBERS):
        raise NotChecked("not every member could be read")
    return None


def parameters(case: Case) -> Finding | None:
    """20. Build type, parameters, dependencies and run are those of the stamp, and of the caller's task."""
    provenance = case.need_provenance()
    definition = provenance.buildDefinition
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
    run = provenance.runDetails
    if (run.metadata.invocationId, run.builder.version) != (stamp.session_id, {"gen4": stamp.engines.gen4}):
        return Finding(reason="run", member=PROVENANCE, expected="session and version of the stamp", actual="others")
    if any(definition.internalParameters.get(name) != value for name, value in internal_parameters(stamp).items()):
        return Finding(
            reason="internal", member=PROVENANCE, expected="environment, limits and seeds of the stamp", actual="others"
        )
    return None

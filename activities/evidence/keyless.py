"""Verification of Sigstore bundles, offline, against a trusted root that the trust file pins (evidence §4, §7).

Profile S, :func:`verify`; each step refuses with a reason of its own:

 1 root_missing root_not_pinned root_invalid    the trusted root is the pinned one
 2 envelope_shape signature_count               one bundle in one spelling, one signature, an empty key id
 3 payload_type                                 the type that the caller expects
 4 algorithm bad_signature                      ECDSA P-256 over exactly these bytes, by the key of the certificate
 5 tlog_missing log_unknown log_entry           one entry, of a log of the trusted root
 6 inclusion_proof checkpoint_signature         proven against a root that this log signed,
   checkpoint_origin checkpoint_size            under its own name and for this size of tree
 7 log_body                                     the entry is about this signature
 8 timestamp_invalid timestamp_missing          every time stamp is over this signature; there is at least one time
 9 cert_not_valid_at_time cert_chain            the certificate was valid then, and issued by an authority of the root
10 sct                                          a certificate log of the root saw it
11 log_key_not_valid_at_time                    the log's key was valid then
12 identity issuer                              it names exactly whom the trust file lists
13 second_opinion                               and Sigstore's own verifier finds the same

Profile K with proof of time, :func:`proof_of_time`: a long-lived key's signature, with time stamps and perhaps a log entry.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from sigstore.models import Bundle as CheckedBundle
from sigstore.models import TrustedRoot
from sigstore.verify import Verifier
from sigstore.verify.policy import Identity
from sigstore_models.bundle.v1 import Bundle

from activities.evidence.certificates import check_chain, check_names, check_sct, leaf_of
from activities.evidence.log_entries import Logged, by_certificate, by_public_key, check_body, check_entry
from activities.evidence.sigstore_material import KeylessRefused, Root, pinned_root, read_sigstore_bundle, within
from activities.evidence.timestamps import stamped_at
from activities.kernel import dsse
from activities.kernel.signing_keys import hint_of, public_key
from schemas.trust import Trusted

__all__ = ["KeylessFacts", "KeylessRefused", "ProvenTime", "proof_of_time", "verify"]


@dataclass(frozen=True)
class KeylessFacts:
    """What a verified bundle establishes. ``signed_at_ms``: the latest of its proven times, UTC milliseconds."""

    identity: str
    issuer: str
    signed_at_ms: int
    log_index: int
    payload: bytes
    payload_type: str
    signature: bytes


@dataclass(frozen=True)
class ProvenTime:
    """``signed_at_ms``: None where nothing proves a time and nothing needs to. ``log_index``: None without a log entry."""

    signed_at_ms: int | None
    log_index: int | None


def verify(bundle: bytes, expected_payload_type: str, trusted: Trusted, root_document: str | None) -> KeylessFacts:
    """The facts of a bundle of profile S that ``trusted`` signed.

    Validity and revocation of ``trusted`` itself are the caller's to judge, at ``signed_at_ms``.

    Raises:
        KeylessRefused: with the reason of the first step that failed.
    """
    root = pinned_root(trusted, root_document)
    read = read_sigstore_bundle(bundle)
    payload_type, payload, signature = _content(read)
    if payload_type != expected_payload_type:
        raise KeylessRefused("payload_type", expected_payload_type, payload_type)
    material = read.verification_material
    if material.certificate is None:
        raise KeylessRefused("envelope_shape", "a certificate", "none")
    der = material.certificate.raw_bytes
    leaf, key = leaf_of(der)
    if not dsse.verify(key, payload_type, payload, signature):
        raise KeylessRefused("bad_signature", "a signature by the certificate's key", "not one")
    logged = check_entry(material.tlog_entries, root)
    check_body(material.tlog_entries[0], dsse.pae(payload_type, payload), signature, by_certificate(der))
    times = _times(read, signature, logged, root)
    if not times:
        raise KeylessRefused("timestamp_missing", "a time stamp", "none")
    for moment in times:
        check_sct(leaf, check_chain(leaf, moment, root), root)
    check_names(leaf, trusted.identity, trusted.issuer)
    _second_opinion(read, root, trusted)
    return KeylessFacts(
        identity=trusted.identity, issuer=trusted.issuer or "", signed_at_ms=_milliseconds(times), log_index=logged.index,
        payload=payload, payload_type=payload_type, signature=signature,
    )  # fmt: skip


def proof_of_time(bundle: bytes, trusted: Trusted, root_document: str | None) -> ProvenTime:
    """When the long-lived key of ``trusted`` signed, as far as ``trusted.require`` asks for proof of it.

    A log of Rekor v2 states no time, so ``log`` asks for a time stamp too. What the bundle carries must be valid, also where
    nothing asks for it.

    Raises:
        KeylessRefused: hint_unknown, or a reason of the steps above.
    """
    read = read_sigstore_bundle(bundle)
    material = read.verification_material
    key = public_key(trusted.public_key or "")
    if key is None or material.public_key is None or not material.public_key.hint == trusted.hint == hint_of(key):
        hint = material.public_key.hint if material.public_key else None
        raise KeylessRefused("hint_unknown", trusted.hint or "a key in the trust file", hint or "none")
    payload_type, payload, signature = _content(read)
    if not dsse.verify(key, payload_type, payload, signature):
        raise KeylessRefused("bad_signature", f"a signature by key {trusted.hint}", "not one")
    stamps = material.timestamp_verification_data
    if not material.tlog_entries and not (stamps and stamps.rfc3161_timestamps):
        if trusted.require != "none":
            reason = "timestamp_missing" if trusted.require == "timestamp" else "tlog_missing"
            raise KeylessRefused(reason, trusted.require, "none")
        return ProvenTime(None, None)
    root = pinned_root(trusted, root_document)
    logged = None
    if material.tlog_entries or trusted.require == "log":
        logged = check_entry(material.tlog_entries, root)
        if not logged.second_version:
            raise KeylessRefused("log_entry", "hashedrekord 0.0.2", "an entry of Rekor v1")
        spki = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        check_body(material.tlog_entries[0], dsse.pae(payload_type, payload), signature, by_public_key(spki))
    times = _times(read, signature, logged, root)
    if trusted.require != "none" and not times:
        raise KeylessRefused("timestamp_missing", "a time stamp", "none")
    return ProvenTime(_milliseconds(times) if times else None, logged.index if logged else None)


def _content(bundle: Bundle) -> tuple[str, bytes, bytes]:
    envelope = bundle.dsse_envelope
    assert envelope is not None  # read_sigstore_bundle refused it
    return envelope.payload_type, envelope.payload, envelope.signatures[0].sig


def _times(bundle: Bundle, signature: bytes, logged: Logged | None, root: Root) -> list[datetime]:
    times = stamped_at(bundle.verification_material.timestamp_verification_data, signature, root)
    if logged is not None and logged.promised is not None:
        times.append(logged.promised)
    for moment in times:
        if logged is not None and not within(logged.log.valid_for, moment):
            raise KeylessRefused("log_key_not_valid_at_time", f"a key of {logged.log.origin} that was valid", str(moment))
    return times


def _milliseconds(times: list[datetime]) -> int:
    return int(max(times).timestamp() * 1000)


def _second_opinion(bundle: Bundle, root: Root, trusted: Trusted) -> None:
    """Both verifiers must accept: theirs is used everywhere, ours checks what theirs leaves out."""
    policy = Identity(identity=trusted.identity, issuer=trusted.issuer)
    try:
        Verifier(trusted_root=TrustedRoot(root.document)).verify_dsse(CheckedBundle(bundle), policy)
    except Exception as error:  # whatever it is, it is no acceptance
        raise KeylessRefused("second_opinion", "that Sigstore's verifier accepts it too", str(error)[:200]) from error

"""``provenance.sigstore.json``: Sigstore bundle v0.3 around the same envelope, with a key hint instead of a certificate."""

from __future__ import annotations

from schemas.canonical import jcs
from schemas.evidence import SIGSTORE_MEDIA_TYPE
from schemas.statement import (
    BundleEnvelope,
    BundleSignature,
    Envelope,
    PublicKeyHint,
    SigstoreBundle,
    VerificationMaterial,
)


def wrap(envelope: Envelope, hint: str) -> SigstoreBundle:
    """The bundle carries no key: a verifier holds it under ``hint``."""
    return SigstoreBundle(
        mediaType=SIGSTORE_MEDIA_TYPE,
        verificationMaterial=VerificationMaterial(publicKey=PublicKeyHint(hint=hint), tlogEntries=()),
        dsseEnvelope=BundleEnvelope(
            payload=envelope.payload,
            payloadType=envelope.payloadType,
            signatures=(BundleSignature(sig=envelope.signatures[0].sig),),
        ),
    )


def encode(bundle: SigstoreBundle) -> bytes:
    return jcs(bundle)


def same_envelope(bundle: SigstoreBundle, envelope: Envelope) -> bool:
    """Payload, payload type and signature bytes are equal in both files."""
    inner = bundle.dsseEnvelope
    return (inner.payload, inner.payloadType, inner.signatures[0].sig) == (
        envelope.payload, envelope.payloadType, envelope.signatures[0].sig
    )  # fmt: skip

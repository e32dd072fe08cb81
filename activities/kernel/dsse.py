"""DSSE envelopes over one ECDSA P-256 signature with an empty key id (evidence §2)."""

from __future__ import annotations

import base64
import binascii

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from schemas.statement import Envelope, EnvelopeSignature

_ALGORITHM = ec.ECDSA(hashes.SHA256())


def pae(payload_type: str, payload: bytes) -> bytes:
    """Pre-authentication encoding: the bytes that are signed."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)


def sign(key: ec.EllipticCurvePrivateKey, payload_type: str, payload: bytes) -> Envelope:
    return wrap(payload_type, payload, key.sign(pae(payload_type, payload), _ALGORITHM))


def wrap(payload_type: str, payload: bytes, signature: bytes) -> Envelope:
    """The envelope around a signature over :func:`pae`, whoever made it."""
    return Envelope(
        payload=base64.b64encode(payload).decode(),
        payloadType=payload_type,
        signatures=(EnvelopeSignature(keyid="", sig=base64.b64encode(signature).decode()),),
    )


def verify(key: ec.EllipticCurvePublicKey, payload_type: str, payload: bytes, signature: bytes) -> bool:
    try:
        key.verify(signature, pae(payload_type, payload), _ALGORITHM)
    except InvalidSignature:
        return False
    return True


def decode_base64(text: str) -> bytes:
    """Standard base64 in its one canonical spelling.

    Raises:
        ValueError: other alphabets, white space, missing padding, or unused bits that are set.
    """
    try:
        data = base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError(f"not base64: {error}") from error
    if base64.b64encode(data).decode() != text:
        raise ValueError("base64 is not in its canonical spelling")
    return data

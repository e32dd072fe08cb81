"""Sigstore documents that may be forged, read so that no parser reads them otherwise: bundles and trusted roots.

The models are Sigstore's own. They take several spellings of one value (base64 with noise, numbers with leading zeros, null),
so a bundle is accepted only if it is what its parsed form is written back to.
"""

from __future__ import annotations

import binascii
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import load_der_public_key
from cryptography.x509 import Certificate, load_der_x509_certificate
from pydantic import ValidationError
from sigstore_models.bundle.v1 import Bundle
from sigstore_models.common.v1 import TimeRange
from sigstore_models.trustroot.v1 import CertificateAuthority, TransparencyLogInstance, TrustedRoot

from schemas.canonical import StrictJsonError, sha256_hex, strict_json
from schemas.evidence import SIGSTORE_MEDIA_TYPE
from schemas.trust import Trusted

_LENGTH_ERRORS = ("too_long", "too_short")
_NO_TRUST = frozenset({"identity", "issuer", "root_not_pinned", "root_invalid", "root_missing"})


class KeylessRefused(Exception):
    """Why evidence of Sigstore's is not believed. ``reason`` is stable; the rest is for people."""

    def __init__(self, reason: str, expected: str, actual: str) -> None:
        super().__init__(f"{reason}: expected {expected}, found {actual}")
        self.reason = reason
        self.expected = expected
        self.actual = actual

    @property
    def untrusted(self) -> bool:
        """The evidence may be sound, but it is not of whom the trust file names (SIGNER_UNTRUSTED, not SIGNATURE_INVALID)."""
        return self.reason in _NO_TRUST


@dataclass(frozen=True)
class LogKey:
    """A key that signs checkpoints, or certificate time stamps. ``origin``: what the log calls itself."""

    origin: str
    key_id: bytes
    note_hash: bytes
    spki: bytes
    key: Any
    valid_for: TimeRange


@dataclass(frozen=True)
class Authority:
    """Certificates from the one that signs (a time stamp authority's leaf, or the lowest CA) up to the root."""

    chain: tuple[Certificate, ...]
    valid_for: TimeRange


@dataclass(frozen=True)
class Root:
    """A trusted root, its keys loaded. Entries whose key or certificate we cannot use are left out: they vouch for nothing."""

    document: TrustedRoot
    authorities: tuple[Authority, ...]
    time_stampers: tuple[Authority, ...]
    logs: tuple[LogKey, ...]
    certificate_logs: tuple[LogKey, ...]


def pinned_root(trusted: Trusted, document: str | None) -> Root:
    """The trusted root that ``trusted`` pins, which ``document`` must be, byte for byte."""
    if trusted.trusted_root_sha256 is None or document is None:
        raise KeylessRefused("root_missing", "a pinned Sigstore trusted root", "none")
    if (found := sha256_hex(document.encode())) != trusted.trusted_root_sha256:
        raise KeylessRefused("root_not_pinned", f"trusted root {trusted.trusted_root_sha256}", found)
    return read_root(document)


@lru_cache(maxsize=8)
def read_root(document: str) -> Root:
    try:
        strict_json(document.encode())
        parsed = TrustedRoot.from_json(document)
        return Root(
            document=parsed,
            authorities=_authorities(parsed.certificate_authorities),
            time_stampers=_authorities(parsed.timestamp_authorities),
            logs=_log_keys(parsed.tlogs),
            certificate_logs=_log_keys(parsed.ctlogs),
        )
    except (StrictJsonError, ValidationError, ValueError) as error:
        raise KeylessRefused("root_invalid", "a Sigstore trusted root", type(error).__name__) from error


def read_sigstore_bundle(data: bytes) -> Bundle:
    """A bundle v0.3 around one DSSE envelope with one signature and an empty key id."""
    try:
        value = strict_json(data)
        bundle = Bundle.from_json(data)
    except ValidationError as error:
        count = any(
            item["loc"][-1:] == ("signatures",) and item["type"] in _LENGTH_ERRORS for item in error.errors(include_input=False)
        )
        raise KeylessRefused(
            "signature_count" if count else "envelope_shape", "a Sigstore bundle v0.3", f"{error.error_count()} mistakes"
        ) from error
    except (StrictJsonError, binascii.Error, ValueError) as error:
        raise KeylessRefused("envelope_shape", "a Sigstore bundle v0.3 in strict JSON", str(error)[:200]) from error
    if bundle.to_dict() != value:
        raise KeylessRefused("envelope_shape", "one spelling of every value, base64 in its canonical form", "another spelling")
    if bundle.media_type != SIGSTORE_MEDIA_TYPE:
        raise KeylessRefused("envelope_shape", SIGSTORE_MEDIA_TYPE, bundle.media_type)
    if bundle.dsse_envelope is None:
        raise KeylessRefused("envelope_shape", "a DSSE envelope", "a message signature")
    if len(bundle.dsse_envelope.signatures) != 1:
        raise KeylessRefused("signature_count", "1", str(len(bundle.dsse_envelope.signatures)))
    if bundle.dsse_envelope.signatures[0].keyid:
        raise KeylessRefused("envelope_shape", "an empty key id", bundle.dsse_envelope.signatures[0].keyid)
    return bundle


def verifies(key: Any, signature: bytes, data: bytes) -> bool:
    """Whether a key of a trusted root signed ``data``; each kind of key with the one algorithm that Sigstore uses it with."""
    try:
        if isinstance(key, ed25519.Ed25519PublicKey):
            key.verify(signature, data)
        elif isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(signature, data, ec.ECDSA(_HASHES[key.curve.name]))
        else:
            key.verify(signature, data, padding.PKCS1v15(), hashes.SHA256())
    except InvalidSignature:
        return False
    return True


def within(period: TimeRange, moment: datetime) -> bool:
    """Both ends belong to it; a period without an end goes on."""
    return period.start <= moment and (period.end is None or moment <= period.end)


_HASHES: dict[str, hashes.HashAlgorithm] = {
    "secp256r1": hashes.SHA256(), "secp384r1": hashes.SHA384(), "secp521r1": hashes.SHA512(),
}  # fmt: skip


def _authorities(entries: list[CertificateAuthority]) -> tuple[Authority, ...]:
    return tuple(
        Authority(tuple(load_der_x509_certificate(one.raw_bytes) for one in entry.cert_chain.certificates), entry.valid_for)
        for entry in entries
    )


def _log_keys(entries: list[TransparencyLogInstance]) -> tuple[LogKey, ...]:
    found = []
    for entry in entries:
        if entry.public_key.valid_for is None:
            raise ValueError("a log's key without a period would be valid for ever")
        spki = entry.public_key.raw_bytes or b""
        try:
            key = load_der_public_key(spki)
        except (ValueError, UnsupportedAlgorithm):
            continue
        if isinstance(key, ed25519.Ed25519PublicKey | rsa.RSAPublicKey) or (
            isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name in _HASHES
        ):
            noted = entry.checkpoint_key_id or entry.log_id
            origin = entry.base_url.removeprefix("https://").rstrip("/")
            found.append(LogKey(origin, entry.log_id.key_id, noted.key_id[:4], spki, key, entry.public_key.valid_for))
    return tuple(found)

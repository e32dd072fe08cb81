"""Certificates that a Sigstore authority issued for one signature: chain, certificate time stamp, and whom they name."""

from __future__ import annotations

import hashlib
import struct
from datetime import UTC, datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.certificate_transparency import LogEntryType, SignedCertificateTimestamp
from cryptography.x509.oid import ExtendedKeyUsageOID
from cryptography.x509.verification import Criticality, ExtensionPolicy, PolicyBuilder, Store, VerificationError

from activities.evidence.sigstore_material import Authority, KeylessRefused, LogKey, Root, verifies, within

ISSUER = x509.ObjectIdentifier("1.3.6.1.4.1.57264.1.8")
_UTF8_STRING = 0x0C


def leaf_of(der: bytes) -> tuple[x509.Certificate, ec.EllipticCurvePublicKey]:
    """The certificate and its key, which is ECDSA P-256."""
    try:
        leaf = x509.load_der_x509_certificate(der)
        key = leaf.public_key()
        leaf.extensions  # noqa: B018  # parsed here, so that damaged ones are refused here
    except Exception as error:  # hostile bytes raise more than the library documents
        raise KeylessRefused("cert_chain", "an X.509 certificate", str(error)[:100]) from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise KeylessRefused("algorithm", "an ECDSA P-256 key", type(key).__name__)
    return leaf, key


def check_chain(leaf: x509.Certificate, moment: datetime, root: Root) -> x509.Certificate:
    """The CA of the trusted root that issued ``leaf``, both valid at ``moment``."""
    if not leaf.not_valid_before_utc <= moment <= leaf.not_valid_after_utc:
        period = f"{leaf.not_valid_before_utc:%Y-%m-%dT%H:%M:%SZ} to {leaf.not_valid_after_utc:%Y-%m-%dT%H:%M:%SZ}"
        raise KeylessRefused("cert_not_valid_at_time", period, f"{moment:%Y-%m-%dT%H:%M:%SZ}")
    for authority in root.authorities:
        if authority.chain and within(authority.valid_for, moment) and (issuer := _issuer(leaf, moment, authority)):
            _check_usage(leaf)
            return issuer
    raise KeylessRefused("cert_chain", "a certificate that an authority of the trusted root issued", leaf.issuer.rfc4514_string())


def check_sct(leaf: x509.Certificate, issuer: x509.Certificate, root: Root) -> None:
    """Exactly one certificate time stamp is embedded, and a certificate log of the trusted root signed it."""
    try:
        stamps = list(leaf.extensions.get_extension_for_class(x509.PrecertificateSignedCertificateTimestamps).value)
    except x509.ExtensionNotFound:
        stamps = []
    if len(stamps) != 1:
        raise KeylessRefused("sct", "one embedded certificate time stamp", str(len(stamps)))
    stamp = stamps[0]
    try:
        data = _signed_by_log(leaf, issuer, stamp)
        known = any(_stamped_by(log, stamp, data) for log in root.certificate_logs)
    except ValueError:  # an algorithm or an entry type that nobody knows
        known = False
    if not known:
        raise KeylessRefused("sct", "a certificate time stamp by a log of the trusted root", stamp.log_id.hex())


def check_names(leaf: x509.Certificate, identity: str, issuer: str | None) -> None:
    """The certificate names exactly this identity, which exactly this issuer vouched for."""
    try:
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        names = x509.SubjectAlternativeName([])
    found = [name.value for name in names if isinstance(name, x509.RFC822Name | x509.UniformResourceIdentifier)]
    if len(list(names)) != 1 or found != [identity]:
        raise KeylessRefused("identity", identity, ", ".join(found)[:200] or "none")
    vouched = _issuer_extension(leaf)
    if issuer is None or vouched != issuer:
        raise KeylessRefused("issuer", issuer or "an issuer in the trust file", vouched or "none")


def _issuer(leaf: x509.Certificate, moment: datetime, authority: Authority) -> x509.Certificate | None:
    # Client verifiers ask for client-auth; Sigstore's certificates are for code signing, which _check_usage requires.
    any_usage = (x509.ExtendedKeyUsage, Criticality.NON_CRITICAL, None)
    verifier = (
        PolicyBuilder()
        .store(Store(list(authority.chain)))
        .time(moment)
        .extension_policies(
            ca_policy=ExtensionPolicy.webpki_defaults_ca().may_be_present(*any_usage),
            ee_policy=ExtensionPolicy.webpki_defaults_ee().may_be_present(*any_usage),
        )
        .build_client_verifier()
    )
    try:
        return verifier.verify(leaf, []).chain[1]
    except (VerificationError, x509.UnsupportedGeneralNameType):
        return None


def _check_usage(leaf: x509.Certificate) -> None:
    try:
        usage = leaf.extensions.get_extension_for_class(x509.KeyUsage).value
        extended = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound as error:
        raise KeylessRefused("cert_chain", "a certificate for code signing", "no key usage") from error
    if not usage.digital_signature or ExtendedKeyUsageOID.CODE_SIGNING not in extended:
        raise KeylessRefused("cert_chain", "a certificate for code signing", "another usage")


def _signed_by_log(leaf: x509.Certificate, issuer: x509.Certificate, stamp: SignedCertificateTimestamp) -> bytes:
    """What a certificate log signs of a precertificate (RFC 6962 §3.2)."""
    spki = issuer.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return sct_payload(_milliseconds(stamp), spki, leaf.tbs_precertificate_bytes, stamp.extension_bytes)


def sct_payload(at_ms: int, issuer_spki: bytes, tbs: bytes, extensions: bytes = b"") -> bytes:
    head = struct.pack("!BBQH", 0, 0, at_ms, 1) + hashlib.sha256(issuer_spki).digest()
    return head + len(tbs).to_bytes(3, "big") + tbs + struct.pack("!H", len(extensions)) + extensions


def _stamped_by(log: LogKey, stamp: SignedCertificateTimestamp, data: bytes) -> bool:
    return (
        stamp.log_id == hashlib.sha256(log.spki).digest()
        and stamp.entry_type == LogEntryType.PRE_CERTIFICATE
        and isinstance(stamp.signature_hash_algorithm, hashes.SHA256)
        and within(log.valid_for, stamp.timestamp.replace(tzinfo=UTC))
        and verifies(log.key, stamp.signature, data)
    )


def _milliseconds(stamp: SignedCertificateTimestamp) -> int:
    moment = stamp.timestamp.replace(tzinfo=UTC)
    return round(moment.timestamp() * 1000)


def _issuer_extension(leaf: x509.Certificate) -> str:
    """The OIDC issuer as a DER UTF8String, the form that also Fulcio's current certificates have."""
    try:
        value = leaf.extensions.get_extension_for_oid(ISSUER).value
    except x509.ExtensionNotFound:
        return ""
    if not isinstance(value, x509.UnrecognizedExtension):
        return ""
    raw = value.value
    # A length in one byte, or in two of which the first says so.
    head = 2 if len(raw) > 1 and raw[1] < 0x80 else 3
    if raw[:1] != bytes([_UTF8_STRING]) or len(raw) < head or raw[head - 1] != len(raw) - head or (head == 3 and raw[1] != 0x81):
        return ""
    return raw[head:].decode("utf-8", errors="replace")

"""Certificates for one signature, as Fulcio issues them: ten minutes, one identity, an embedded certificate time stamp."""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import struct
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_public_key
from cryptography.x509.oid import ExtendedKeyUsageOID

from activities.evidence.certificates import ISSUER, sct_payload
from schemas.error import InputError
from workers.authority.folder import AuthorityFolder, key_usage, spki

LIFETIME = dt.timedelta(minutes=10)
_RAW_ISSUER = x509.ObjectIdentifier("1.3.6.1.4.1.57264.1.1")
_SCT_LIST = x509.ObjectIdentifier("1.3.6.1.4.1.11129.2.4.2")


class CertificateAuthority:
    def __init__(self, folder: AuthorityFolder) -> None:
        self._root = folder.certificates("root")[0]
        self._key = folder.key("root")
        self._log_key = folder.key("ct")
        self._issuer = folder.facts.url

    def issue(self, key: ec.EllipticCurvePublicKey, identity: str, now: dt.datetime) -> list[str]:
        """The certificate and the CA's, in PEM. Signed twice: the log's stamp covers the first, and is in the second."""
        builder = self._unstamped(key, identity, now)
        first = builder.sign(self._key, hashes.SHA256())
        stamped = builder.add_extension(self._stamp(first.tbs_certificate_bytes, now), critical=False)
        leaf = stamped.sign(self._key, hashes.SHA256())
        return [one.public_bytes(Encoding.PEM).decode() for one in (leaf, self._root)]

    def _unstamped(self, key: ec.EllipticCurvePublicKey, identity: str, now: dt.datetime) -> x509.CertificateBuilder:
        start = now.replace(microsecond=0)
        name = x509.RFC822Name(identity) if "@" in identity else x509.UniformResourceIdentifier(identity)
        issuer = self._issuer.encode()
        identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        return (
            x509.CertificateBuilder(subject_name=x509.Name([]), issuer_name=self._root.subject, public_key=key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(start)
            .not_valid_after(start + LIFETIME)
            .add_extension(key_usage(signature=True), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(identifier, critical=False)
            .add_extension(x509.SubjectAlternativeName([name]), critical=True)
            .add_extension(x509.UnrecognizedExtension(_RAW_ISSUER, issuer), critical=False)
            .add_extension(x509.UnrecognizedExtension(ISSUER, b"\x0c" + bytes([len(issuer)]) + issuer), critical=False)
        )

    def _stamp(self, tbs: bytes, now: dt.datetime) -> x509.UnrecognizedExtension:
        at_ms = int(now.timestamp() * 1000)
        log_id = hashlib.sha256(spki(self._log_key.public_key())).digest()
        signature = self._log_key.sign(sct_payload(at_ms, spki(self._key.public_key()), tbs), ec.ECDSA(hashes.SHA256()))
        stamp = b"\0" + log_id + struct.pack("!Q", at_ms) + b"\0\0\x04\x03" + struct.pack("!H", len(signature)) + signature
        listed = struct.pack("!HH", len(stamp) + 2, len(stamp)) + stamp
        return x509.UnrecognizedExtension(_SCT_LIST, b"\x04" + bytes([len(listed)]) + listed)


def requested_key(body: dict[str, Any], subject: str) -> ec.EllipticCurvePublicKey:
    """The key to certify, whose holder signed the request (a CSR), or the token's subject.

    Raises:
        InputError: REQUEST_INVALID.
    """
    if "certificateSigningRequest" in body:
        return _of_csr(body["certificateSigningRequest"])
    request = body.get("publicKeyRequest")
    if not isinstance(request, dict) or not isinstance(request.get("publicKey"), dict):
        raise _invalid("neither a certificate signing request nor a public key")
    try:
        key = load_pem_public_key(str(request["publicKey"].get("content")).encode())
        proof = base64.b64decode(str(request.get("proofOfPossession")), validate=True)
        key = _p256(key)
        key.verify(proof, subject.encode(), ec.ECDSA(hashes.SHA256()))
    except (ValueError, UnsupportedAlgorithm, InvalidSignature) as error:
        raise _invalid("the key's holder did not sign the token's subject") from error
    return key


def _of_csr(encoded: Any) -> ec.EllipticCurvePublicKey:
    try:
        request = x509.load_pem_x509_csr(base64.b64decode(str(encoded), validate=True))
        signed = request.is_signature_valid
        key = request.public_key()
    except (ValueError, UnsupportedAlgorithm) as error:
        raise _invalid("the certificate signing request cannot be read") from error
    if not signed:
        raise _invalid("the certificate signing request is not signed by its key")
    return _p256(key)


def _p256(key: Any) -> ec.EllipticCurvePublicKey:
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise _invalid("only ECDSA P-256 keys are certified")
    return key


def _invalid(why: str) -> InputError:
    return InputError("REQUEST_INVALID", why)

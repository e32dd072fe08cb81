"""The authority's own folder, mode 0700: keys, certificates, log. Nothing of it is ever shown to a sandbox.

    authority.json     where it listens, what its log is called, since when
    {root,ct,tsa,issuer}.key  log.key      ECDSA P-256; the log's is Ed25519
    root.pem tsa.pem   certificates: the CA, the time stamp authority and who issued it
    entries.jsonl      the log's leaves; checkpoint: the last one that was given out
    trust_config.json  what a client needs to sign; trusted_root.json: what a verifier needs, and pins
"""

from __future__ import annotations

import datetime as dt
import os
import secrets
import stat
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from pydantic import ValidationError

from activities.kernel.signing_keys import load_or_create
from activities.record.key_files import read_private, replace, write_once
from schemas.canonical import jcs
from schemas.error import InputError
from schemas.evidence import Timestamp, timestamp_of
from schemas.model import Door

NAME = "Gen-4 local development authority"
FACTS = "authority.json"
LIFETIME = dt.timedelta(days=3650)
_KEYS = ("root", "ct", "tsa", "issuer")


class Facts(Door):
    """``since``: from when its keys are valid."""

    port: int
    origin: str
    since: Timestamp

    @property
    def url(self) -> str:
        """Also the issuer of its tokens."""
        return f"http://127.0.0.1:{self.port}"


@dataclass(frozen=True)
class AuthorityFolder:
    path: Path
    facts: Facts

    @classmethod
    def create(cls, path: Path, port: int, now_s: int) -> AuthorityFolder:
        """A new authority, or the one that is there already: keys are never replaced.

        Raises:
            InputError: AUTHORITY_UNSAFE when others could read or change the folder, AUTHORITY_INVALID.
        """
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        _refuse_shared(path)
        for name in _KEYS:
            load_or_create(path / f"{name}.key")
        pem = ed25519.Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        write_once(path / "log.key", pem, 0o600)
        if not (path / FACTS).exists():
            since = dt.datetime.fromtimestamp(now_s, dt.UTC)
            root, stamper = load_or_create(path / "root.key"), load_or_create(path / "tsa.key")
            certificate = _root(root, since)
            replace(path / "root.pem", certificate.public_bytes(Encoding.PEM), 0o644)
            made = _time_stamper(stamper.public_key(), root, certificate, since)
            replace(path / "tsa.pem", made.public_bytes(Encoding.PEM) + certificate.public_bytes(Encoding.PEM), 0o644)
            facts = Facts(port=port, origin=f"log-{secrets.token_hex(4)}.gen4.local", since=timestamp_of(now_s))
            write_once(path / FACTS, jcs(facts) + b"\n", 0o644)
        return cls.open(path)

    @classmethod
    def open(cls, path: Path) -> AuthorityFolder:
        """Raises InputError AUTHORITY_MISSING, AUTHORITY_UNSAFE, AUTHORITY_INVALID."""
        if not (path / FACTS).is_file():
            raise InputError("AUTHORITY_MISSING", f"there is no authority in {path}", "make one: gen4 authority init")
        _refuse_shared(path)
        try:
            return cls(path, Facts.model_validate_json((path / FACTS).read_bytes()))
        except (OSError, ValidationError) as error:
            raise InputError("AUTHORITY_INVALID", f"{path / FACTS} is not ours", "move it away; make a new one") from error

    def key(self, name: str) -> ec.EllipticCurvePrivateKey:
        return load_or_create(self.path / f"{name}.key")

    @property
    def log_key(self) -> ed25519.Ed25519PrivateKey:
        key = load_pem_private_key(read_private(self.path / "log.key"), password=None)
        if not isinstance(key, ed25519.Ed25519PrivateKey):
            raise InputError("KEY_INVALID", f"{self.path / 'log.key'} is not an Ed25519 key", "put back this authority's file")
        return key

    def certificates(self, name: str) -> list[x509.Certificate]:
        """Of the ``root``, or of the ``tsa`` with its issuer."""
        return x509.load_pem_x509_certificates((self.path / f"{name}.pem").read_bytes())


def spki(key: ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def key_usage(signature: bool = False, certificates: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=signature, key_cert_sign=certificates, crl_sign=certificates, content_commitment=False,
        key_encipherment=False, data_encipherment=False, key_agreement=False, encipher_only=False, decipher_only=False,
    )  # fmt: skip


def _root(key: ec.EllipticCurvePrivateKey, since: dt.datetime) -> x509.Certificate:
    builder = _builder(key.public_key(), _name(NAME), _name(NAME), since)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=1), critical=True)
    builder = builder.add_extension(key_usage(certificates=True), critical=True)
    return builder.sign(key, hashes.SHA256())


def _time_stamper(
    public: ec.EllipticCurvePublicKey, key: ec.EllipticCurvePrivateKey, root: x509.Certificate, since: dt.datetime
) -> x509.Certificate:
    builder = _builder(public, _name(f"{NAME}, time stamps"), root.subject, since)
    builder = builder.add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
    builder = builder.add_extension(key_usage(signature=True), critical=True)
    builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.TIME_STAMPING]), critical=True)
    return builder.sign(key, hashes.SHA256())


def _builder(
    public: ec.EllipticCurvePublicKey, subject: x509.Name, issuer: x509.Name, since: dt.datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder(subject_name=subject, issuer_name=issuer, public_key=public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(since)
        .not_valid_after(since + LIFETIME)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
    )


def _name(common: str) -> x509.Name:
    return x509.Name([
        x509.NameAttribute(NameOID.ORGANIZATION_NAME, "gen4.local"), x509.NameAttribute(NameOID.COMMON_NAME, common),
    ])  # fmt: skip


def _refuse_shared(path: Path) -> None:
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        why = f"{path} is a link, belongs to someone else or can be read by others"
        raise InputError("AUTHORITY_UNSAFE", why, "use a folder of yours with mode 0700")

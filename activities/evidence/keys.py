"""The local signing key and the trust root that names it; both live in the user's state directory (threats 1.1)."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import ValidationError

from activities.record.key_files import read_private, replace, write_once
from schemas.canonical import StrictJsonError, jcs, strict_json
from schemas.error import InputError
from schemas.evidence import BUILDER_ID, TrustedKey, TrustRoot, timestamp_of

SIGNER_KEY = "signer.pem"
TRUST_FILE = "trust.json"
IDENTITY = "gen4:local-signer"
_TRUST_LIMIT = 1024 * 1024


@dataclass(frozen=True)
class Signer:
    """An ECDSA P-256 key of profile ``key``; the private part never leaves the object."""

    private_key: ec.EllipticCurvePrivateKey
    identity: str = IDENTITY

    @property
    def hint(self) -> str:
        return hint_of(self.private_key.public_key())

    @property
    def public_pem(self) -> str:
        return (
            self.private_key.public_key()
            .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
            .decode()
        )

    def __repr__(self) -> str:
        return f"Signer(hint={self.hint!r})"


def hint_of(key: ec.EllipticCurvePublicKey) -> str:
    """base64 of the sha256 of the DER SubjectPublicKeyInfo, as cosign writes it."""
    der = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    digest = hashes.Hash(hashes.SHA256())
    digest.update(der)
    return base64.b64encode(digest.finalize()).decode()


def load_signer(keys: Path) -> Signer:
    """The signing key of this state directory; made on first use, readable by its owner alone.

    Raises:
        InputError: KEY_UNSAFE when others could read or replace it, KEY_INVALID when it is not an ECDSA P-256 key.
    """
    path = keys / SIGNER_KEY
    if not path.exists() and not path.is_symlink():
        write_once(path, _new_key(), 0o600)
    try:
        key = serialization.load_pem_private_key(read_private(path), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise InputError("KEY_INVALID", f"{path} is not an ECDSA P-256 key", "move it away; a new key is made at the next start")
    return Signer(key)


def load_trust(path: Path) -> TrustRoot:
    """Raises InputError TRUST_INVALID; never looks anywhere but at ``path``."""
    try:
        with path.open("rb") as file:
            data = file.read(_TRUST_LIMIT + 1)
    except OSError as error:
        raise _bad_trust(f"cannot read trust root {path}: {error.strerror}") from error
    if len(data) > _TRUST_LIMIT:
        raise _bad_trust(f"trust root {path} is larger than {_TRUST_LIMIT} bytes")
    try:
        strict_json(data)
        return TrustRoot.model_validate_json(data)
    except (StrictJsonError, ValidationError) as error:
        raise _bad_trust(f"{path} is not a trust/1 document: {error}") from error


def _bad_trust(message: str) -> InputError:
    return InputError("TRUST_INVALID", message, "name with --trust the trust.json of the fabric that sealed the bundle")


def ensure_trust(keys: Path, signer: Signer, policy_digests: tuple[str, ...], now_s: int) -> Path:
    """Write, or extend, the trust root of this state directory so that it names ``signer`` and ``policy_digests``.

    What it lists already stays, revocations too: older bundles go on verifying, revoked keys stay revoked.
    """
    path = keys / TRUST_FILE
    trust = load_trust(path) if path.exists() else _empty_trust()
    known = {key.hint for key in trust.keys}
    added = () if signer.hint in known else (trusted_key(signer, now_s),)
    policies = tuple(sorted({*trust.policy_digests, *policy_digests}))
    wanted = trust.model_copy(update={"keys": (*trust.keys, *added), "policy_digests": policies})
    if wanted != trust or not path.exists():
        replace(path, jcs(wanted) + b"\n", 0o644)
    return path


def trusted_key(signer: Signer, now_s: int) -> TrustedKey:
    return TrustedKey(
        hint=signer.hint,
        public_key=signer.public_pem,
        profile="key",
        identity=signer.identity,
        valid_from=timestamp_of(now_s),
        builder_ids=(BUILDER_ID,),
    )


def _empty_trust() -> TrustRoot:
    return TrustRoot(schema_version="trust/1", assurance="single_operator", keys=(), policy_digests=())


def _new_key() -> bytes:
    return ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )

"""ECDSA P-256 keys in files: the executor's, the signer's, the root's. Each process holds its own and no other."""

from __future__ import annotations

import base64
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from activities.record.key_files import read_private, write_once
from schemas.error import InputError


def hint_of(key: ec.EllipticCurvePublicKey) -> str:
    """base64 of the sha256 of the DER SubjectPublicKeyInfo, as cosign writes it."""
    der = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    digest = hashes.Hash(hashes.SHA256())
    digest.update(der)
    return base64.b64encode(digest.finalize()).decode()


def pem_of(key: ec.EllipticCurvePublicKey) -> str:
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo).decode()


def public_key(pem: str) -> ec.EllipticCurvePublicKey | None:
    """None for anything but an ECDSA P-256 key."""
    try:
        key = serialization.load_pem_public_key(pem.encode())
    except (ValueError, UnsupportedAlgorithm):
        return None
    return key if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1) else None


def load_or_create(path: Path) -> ec.EllipticCurvePrivateKey:
    """The key in ``path``; made on first use, readable by its owner alone.

    Raises:
        InputError: KEY_UNSAFE when others could read or replace it, KEY_INVALID when it is not an ECDSA P-256 key.
    """
    if not path.exists() and not path.is_symlink():
        write_once(path, encode_new(), 0o600)
    try:
        key = serialization.load_pem_private_key(read_private(path), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise InputError("KEY_INVALID", f"{path} is not an ECDSA P-256 key", "move it away; a new key is made at the next start")
    return key


def encode_new() -> bytes:
    """A new private key as PEM (PKCS#8, not encrypted)."""
    return ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )

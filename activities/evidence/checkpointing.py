"""The checkpoint key, which the worker holds; what it signs can be verified by all who have its public half."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from activities.record.key_files import read_private, replace, write_once
from activities.record.notes import NoteKey
from schemas.error import InputError

KEY_FILE = "checkpoint.key"
PUBLIC_FILE = "checkpoint.pub"
KEY_NAME = "gen4-checkpoint"
_RAW = (serialization.Encoding.Raw, serialization.PublicFormat.Raw)


@dataclass(frozen=True)
class CheckpointSigner:
    """The private part never leaves the object."""

    _private: Ed25519PrivateKey = field(repr=False)

    @property
    def key(self) -> NoteKey:
        return NoteKey(KEY_NAME, self._private.public_key().public_bytes(*_RAW))

    def sign(self, data: bytes) -> bytes:
        return self._private.sign(data)


def load_checkpoint_signer(keys: Path) -> CheckpointSigner:
    """The checkpoint key of this state directory, made on first use; its public half lies beside it.

    Raises:
        InputError: KEY_UNSAFE when others could read or replace it, KEY_INVALID when it is not an Ed25519 key.
    """
    path = keys / KEY_FILE
    if not os.path.lexists(path):
        made = Ed25519PrivateKey.generate()
        pem = made.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        write_once(path, pem, 0o600)
    try:
        key = serialization.load_pem_private_key(read_private(path), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise InputError("KEY_INVALID", f"{path} is not an Ed25519 key", "put back the file of this home")
    signer = CheckpointSigner(key)
    if checkpoint_key(keys) != signer.key:
        replace(keys / PUBLIC_FILE, f"{signer.key}\n".encode(), 0o644)
    return signer


def checkpoint_key(keys: Path) -> NoteKey | None:
    """The public half, for those who verify; None before the first checkpoint."""
    try:
        return NoteKey.parse((keys / PUBLIC_FILE).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        return None

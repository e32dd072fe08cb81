"""Signed notes as C2SP defines them (c2sp.org/signed-note), with Ed25519 keys: text, an empty line, a line per signature."""

from __future__ import annotations

import base64
import binascii
import hashlib
from dataclasses import dataclass
from typing import Protocol

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

_ED25519 = b"\x01"
_MARK = "— "


@dataclass(frozen=True)
class NoteKey:
    """A public key with its name, which must hold neither white space nor ``+``."""

    name: str
    public: bytes

    @property
    def hash(self) -> bytes:
        return hashlib.sha256(self.name.encode() + b"\n" + _ED25519 + self.public).digest()[:4]

    def __str__(self) -> str:
        """The verifier key, as other tools for signed notes read it."""
        return f"{self.name}+{self.hash.hex()}+{base64.b64encode(_ED25519 + self.public).decode()}"

    @classmethod
    def parse(cls, text: str) -> NoteKey | None:
        """The key that ``text`` spells; None when it is none."""
        parts = text.strip().split("+", 2)
        if len(parts) != 3 or not parts[0]:
            return None
        try:
            data = base64.b64decode(parts[2], validate=True)
        except (ValueError, binascii.Error):
            return None
        found = cls(parts[0], data[1:])
        return found if len(data) == 33 and str(found) == text.strip() else None


class NoteSigner(Protocol):
    """Who holds the private key."""

    @property
    def key(self) -> NoteKey: ...

    def sign(self, data: bytes) -> bytes: ...


def sign_note(text: str, signer: NoteSigner) -> str:
    """``text`` ends with a newline and holds no empty line at its end."""
    signature = base64.b64encode(signer.key.hash + signer.sign(text.encode())).decode()
    return f"{text}\n{_MARK}{signer.key.name} {signature}\n"


def signed_text(note: str, key: NoteKey) -> str | None:
    """The text of ``note``, when ``key`` has signed it; signatures of others are passed over."""
    text, separator, signatures = note.rpartition("\n\n")
    if not separator:
        return None
    text += "\n"
    for line in signatures.splitlines():
        name, _, encoded = line.removeprefix(_MARK).partition(" ")
        if not line.startswith(_MARK) or name != key.name:
            continue
        try:
            signature = base64.b64decode(encoded, validate=True)
            if signature[:4] != key.hash:
                continue
            Ed25519PublicKey.from_public_bytes(key.public).verify(signature[4:], text.encode())
        except (ValueError, binascii.Error, InvalidSignature):
            continue
        return text
    return None

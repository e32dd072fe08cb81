"""A long-lived key whose signatures carry a proof of when they were made: a time stamp, or an entry in a log besides."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from activities.evidence.keyless_signing import add_proof_of_time, read_config, trusted_root_document
from activities.evidence.signing import SignedStatement, Signer
from schemas.canonical import sha256_hex
from schemas.evidence import BUILDER_ID
from schemas.trust import Trusted


def timed(key: Signer, config: Path, proof: Literal["timestamp", "log"]) -> TimedSigner:
    """Raises InputError SIGSTORE_CONFIG."""
    return TimedSigner(key, read_config(config), proof)


class TimedSigner(Signer):
    """``config``: client trust configuration of Sigstore, as JSON, that names the time stamp authority and the log."""

    def __init__(self, key: Signer, config: str, proof: Literal["timestamp", "log"]) -> None:
        super().__init__(key.backend, key.identity)
        self._config, self._proof = config, proof
        self.root_document = trusted_root_document(config)

    def sign_statement(self, payload: bytes) -> SignedStatement:
        """Raises InfrastructureError SIGNING_SERVICE when a service does not answer."""
        signed = super().sign_statement(payload)
        spki = self.public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        return SignedStatement(
            signed.envelope, add_proof_of_time(signed.bundle, spki, self._config, log=self._proof == "log")
        )

    def trusted(self, now_s: int, builder_ids: tuple[str, ...] = (BUILDER_ID,)) -> Trusted:
        root = sha256_hex(self.root_document.encode())
        return super().trusted(now_s, builder_ids).model_copy(update={"require": self._proof, "trusted_root_sha256": root})

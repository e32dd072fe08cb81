"""The transparency log, as Rekor v2 answers: one file that only grows, and a proof for each entry against a signed checkpoint.

The tree is hashed anew for each entry, which is fine for the thousands of entries of a development log.
"""

from __future__ import annotations

import base64
import errno
import fcntl
import hashlib
import os
import threading
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from activities.evidence.log_entries import KEY_DETAILS, by_certificate, by_public_key, log_body
from activities.record.key_files import replace
from activities.record.merkle import inclusion_path, merkle_root
from activities.record.notes import NoteKey, sign_note, signed_text
from schemas.canonical import jcs
from schemas.error import InfrastructureError, InputError
from workers.authority.folder import AuthorityFolder

_RAW = (Encoding.Raw, PublicFormat.Raw)


class LogSigner:
    def __init__(self, folder: AuthorityFolder) -> None:
        self._key = folder.log_key
        self._origin = folder.facts.origin

    @property
    def key(self) -> NoteKey:
        return NoteKey(self._origin, self._key.public_key().public_bytes(*_RAW))

    @property
    def key_id(self) -> bytes:
        """The whole of which a note carries four bytes (C2SP signed-note)."""
        return hashlib.sha256(self.key.name.encode() + b"\n\x01" + self.key.public).digest()

    def sign(self, data: bytes) -> bytes:
        return self._key.sign(data)


class TransparencyLog:
    """One process at a time has it open: two would sign two histories."""

    def __init__(self, folder: AuthorityFolder) -> None:
        """Raises InputError LOG_IN_USE, or LOG_FORKED when the entries are not those of the last checkpoint."""
        self._signer = LogSigner(folder)
        self._checkpoint = folder.path / "checkpoint"
        self._file = (folder.path / "entries.jsonl").open("a+b", buffering=0)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._file.close()
            raise InputError("LOG_IN_USE", f"another process serves {folder.path}", "stop it, or use it") from error
        self._lock = threading.Lock()
        self._leaves = self._read()
        self._refuse_forked()

    def close(self) -> None:
        self._file.close()

    def __len__(self) -> int:
        return len(self._leaves)

    def add(self, request: Any) -> dict[str, Any]:
        """The entry for a signature, once it and its checkpoint are on disk.

        Raises:
            InputError: REQUEST_INVALID when it is no signature of the key that it names.
        """
        leaf = jcs(_checked(request))
        with self._lock:
            self._append(leaf)
            index, root = len(self._leaves) - 1, merkle_root(self._leaves)
            note = self._sign(root)
            replace(self._checkpoint, note.encode(), 0o644)
            path = inclusion_path(self._leaves, index)
        proof = {
            "logIndex": str(index), "rootHash": _b64(root), "treeSize": str(index + 1), "hashes": [_b64(one) for one in path],
            "checkpoint": {"envelope": note},
        }  # fmt: skip
        return {
            "logIndex": str(index), "logId": {"keyId": _b64(self._signer.key_id)}, "inclusionProof": proof,
            "kindVersion": {"kind": "hashedrekord", "version": "0.0.2"}, "canonicalizedBody": _b64(leaf),
        }  # fmt: skip

    def checkpoint(self) -> str:
        with self._lock:
            return self._sign(merkle_root(self._leaves))

    def _append(self, leaf: bytes) -> None:
        size = os.fstat(self._file.fileno()).st_size
        try:
            if self._file.write(leaf + b"\n") != len(leaf) + 1:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(self._file.fileno())
        except OSError as error:
            self._file.truncate(size)
            raise InfrastructureError("LOG_NOT_WRITTEN", f"{self._file.name}: {error.strerror}", "make room") from error
        self._leaves.append(leaf)

    def _sign(self, root: bytes) -> str:
        return sign_note(f"{self._signer.key.name}\n{len(self._leaves)}\n{_b64(root)}\n", self._signer)

    def _read(self) -> list[bytes]:
        """All whole lines. A torn last one was never answered for, and goes."""
        self._file.seek(0)
        data = self._file.read()
        whole = data[: data.rfind(b"\n") + 1]
        if whole != data:
            self._file.truncate(len(whole))
        return whole.split(b"\n")[:-1]

    def _refuse_forked(self) -> None:
        if not self._checkpoint.exists():
            return
        text = signed_text(self._checkpoint.read_text(encoding="utf-8"), self._signer.key)
        size, root = text.split("\n")[1:3] if text else ("-1", "")
        if not 0 <= int(size) <= len(self._leaves) or _b64(merkle_root(self._leaves[: int(size)])) != root:
            remedy = "put back entries.jsonl and checkpoint as they were; a log that forgets proves nothing"
            raise InputError("LOG_FORKED", f"{self._file.name} is not the log that its last checkpoint signed", remedy)


def _checked(request: Any) -> dict[str, Any]:
    """What is logged of a request, whose signature is valid."""
    try:
        wanted = request["hashedRekordRequestV002"]
        digest, signed = _bytes(wanted["digest"]), wanted["signature"]
        signature, verifier = _bytes(signed["content"]), signed["verifier"]
        if verifier["keyDetails"] != KEY_DETAILS:
            raise ValueError(f"only {KEY_DETAILS} is logged")
        key: object
        if "x509Certificate" in verifier:
            der = _bytes(verifier["x509Certificate"]["rawBytes"])
            key, kept = x509.load_der_x509_certificate(der).public_key(), by_certificate(der)
        else:
            der = _bytes(verifier["publicKey"]["rawBytes"])
            key, kept = load_der_public_key(der), by_public_key(der)
        if not isinstance(key, ec.EllipticCurvePublicKey):
            raise ValueError("the key is not an ECDSA key")
        key.verify(signature, digest, ec.ECDSA(utils.Prehashed(hashes.SHA256())))
    except (KeyError, TypeError, ValueError, UnsupportedAlgorithm, InvalidSignature) as error:
        raise InputError("REQUEST_INVALID", f"no valid signature to log: {error}"[:200]) from error
    return log_body(digest, signature, kept)


def _bytes(text: Any) -> bytes:
    return base64.b64decode(text, validate=True)


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()

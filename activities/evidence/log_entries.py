"""Entries of transparency logs: that this signature is in a log of the trusted root, as that log itself signed.

Rekor v2 (``hashedrekord`` 0.0.2) states no time; Rekor v1 (``dsse`` 0.0.1) signs one as its inclusion promise.
"""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sigstore_models.rekor.v1 import InclusionProof, TransparencyLogEntry

from activities.evidence.sigstore_material import KeylessRefused, LogKey, Root, verifies
from activities.kernel.dsse import decode_base64
from activities.record.merkle import root_of_path
from schemas.canonical import StrictJsonError, jcs, strict_json

REKOR_2 = ("hashedrekord", "0.0.2")
REKOR_1 = ("dsse", "0.0.1")
KEY_DETAILS = "PKIX_ECDSA_P256_SHA_256"
_SIGNATURE_LINE = re.compile(r"— (\S+) ([A-Za-z0-9+/]+={0,2})")
_LATEST, _MOST = 2**33, 2**53
"""Seconds and entries beyond which no honest log counts; JCS has no larger integers."""
_SIZE = re.compile(r"0|[1-9][0-9]{0,19}")


@dataclass(frozen=True)
class Logged:
    """``promised``: when a Rekor v1 says it took the entry in; None for Rekor v2, which does not say."""

    log: LogKey
    index: int
    second_version: bool
    promised: datetime | None = None


def check_entry(entries: list[TransparencyLogEntry], root: Root) -> Logged:
    """One entry, in a log of ``root``, with a proof against a checkpoint of that log."""
    if len(entries) != 1:
        raise KeylessRefused("tlog_missing", "one entry of a transparency log", str(len(entries)))
    entry = entries[0]
    kind = (entry.kind_version.kind, entry.kind_version.version)
    if kind not in (REKOR_1, REKOR_2):
        raise KeylessRefused("log_entry", "hashedrekord 0.0.2 or dsse 0.0.1", " ".join(kind))
    log = _log_of(entry, root)
    _check_inclusion(entry)
    _check_checkpoint(entry.inclusion_proof, log, kind == REKOR_1)
    if kind == REKOR_1:
        return Logged(log, entry.log_index, False, _promised(entry, log))
    # Rekor v2 signs neither of these: what it does not say must not be said in its name.
    if entry.inclusion_promise is not None or entry.integrated_time:
        raise KeylessRefused("log_entry", "no time and no promise in an entry of Rekor v2", "one")
    if entry.log_index != entry.inclusion_proof.log_index:
        raise KeylessRefused("inclusion_proof", f"index {entry.log_index}", str(entry.inclusion_proof.log_index))
    return Logged(log, entry.log_index, True)


def check_body(entry: TransparencyLogEntry, pae: bytes, signature: bytes, verifier: dict[str, Any]) -> None:
    """The Rekor v2 entry is about this signature by this ``verifier``; a v1 entry is left to Sigstore's own verifier."""
    if entry.kind_version.version == REKOR_1[1]:
        return
    expected = log_body(hashlib.sha256(pae).digest(), signature, verifier)
    try:
        actual = strict_json(entry.canonicalized_body)
    except StrictJsonError as error:
        raise KeylessRefused("log_body", "a JSON document", str(error)) from error
    if actual != expected:
        raise KeylessRefused("log_body", "an entry about this signature", "another")


def log_body(digest: bytes, signature: bytes, verifier: dict[str, Any]) -> dict[str, Any]:
    """What Rekor v2 keeps of a signature; its JCS bytes are the leaf."""
    signed = {"content": base64.b64encode(signature).decode(), "verifier": {"keyDetails": KEY_DETAILS, **verifier}}
    data = {"algorithm": "SHA2_256", "digest": base64.b64encode(digest).decode()}
    return {"apiVersion": "0.0.2", "kind": "hashedrekord", "spec": {"hashedRekordV002": {"data": data, "signature": signed}}}


def by_certificate(der: bytes) -> dict[str, Any]:
    return {"x509Certificate": {"rawBytes": base64.b64encode(der).decode()}}


def by_public_key(spki: bytes) -> dict[str, Any]:
    return {"publicKey": {"rawBytes": base64.b64encode(spki).decode()}}


def _log_of(entry: TransparencyLogEntry, root: Root) -> LogKey:
    for log in root.logs:
        if log.key_id == entry.log_id.key_id:
            return log
    raise KeylessRefused("log_unknown", "a log of the trusted root", entry.log_id.key_id.hex()[:64])


def _check_inclusion(entry: TransparencyLogEntry) -> None:
    proof = entry.inclusion_proof
    found = root_of_path(entry.canonicalized_body, proof.log_index, proof.tree_size, proof.hashes)
    if found != proof.root_hash:
        raise KeylessRefused("inclusion_proof", proof.root_hash.hex()[:64], found.hex() if found else "no proof for such a tree")


def _check_checkpoint(proof: InclusionProof, log: LogKey, first_version: bool) -> None:
    """The log signed this root, for a tree of this size, under its own name."""
    if proof.checkpoint is None:
        raise KeylessRefused("checkpoint_signature", "a checkpoint", "none")
    text, separator, signatures = proof.checkpoint.envelope.partition("\n\n")
    lines = text.split("\n")
    if not separator or len(lines) < 3 or not signatures.endswith("\n"):
        raise KeylessRefused("checkpoint_signature", "a signed note of three lines", f"{len(lines)} lines")
    if not _signed(text + "\n", signatures, log):
        raise KeylessRefused("checkpoint_signature", f"a signature by {log.origin}", "none")
    named, _, tree = lines[0].partition(" - ")
    if named != log.origin or bool(tree) != first_version or (tree and not _SIZE.fullmatch(tree)):
        raise KeylessRefused("checkpoint_origin", log.origin, lines[0][:200])
    if lines[1] != str(proof.tree_size):
        raise KeylessRefused("checkpoint_size", str(proof.tree_size), lines[1][:40])
    if lines[2] != base64.b64encode(proof.root_hash).decode():
        raise KeylessRefused("inclusion_proof", "the root that the checkpoint signs", proof.root_hash.hex()[:64])


def _signed(text: str, signatures: str, log: LogKey) -> bool:
    """Every line is a signature, and one is by ``log``; those of witnesses are passed over."""
    found = False
    for line in signatures[:-1].split("\n"):
        match = _SIGNATURE_LINE.fullmatch(line)
        if match is None:
            return False
        try:
            data = decode_base64(match[2])
        except ValueError:
            return False
        if match[1] == log.origin and data[:4] == log.note_hash:
            found = found or verifies(log.key, data[4:], text.encode())
    return found


def _promised(entry: TransparencyLogEntry, log: LogKey) -> datetime | None:
    if entry.inclusion_promise is None:
        return None
    if not 0 < (entry.integrated_time or 0) < _LATEST or entry.log_index >= _MOST:
        raise KeylessRefused("inclusion_promise", "the time and the index that were promised", "numbers out of range")
    payload = {
        "body": base64.b64encode(entry.canonicalized_body).decode(), "integratedTime": entry.integrated_time,
        "logID": entry.log_id.key_id.hex(), "logIndex": entry.log_index,
    }  # fmt: skip
    if not verifies(log.key, entry.inclusion_promise.signed_entry_timestamp, jcs(payload)):
        raise KeylessRefused("inclusion_promise", f"a signature by {log.origin}", "none")
    return datetime.fromtimestamp(entry.integrated_time or 0, UTC)

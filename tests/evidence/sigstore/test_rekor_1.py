"""The older kind of log, which the public Sigstore has used for years: it names itself otherwise, and promises a time."""

from __future__ import annotations

import copy
import datetime as dt
import hashlib
import json
from collections.abc import Callable
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from activities.evidence import keyless
from activities.evidence.keyless import KeylessRefused
from activities.kernel import dsse
from activities.record.merkle import inclusion_path, leaf_hash, merkle_root
from schemas.canonical import jcs, sha256_hex
from schemas.evidence import PAYLOAD_TYPE, SIGSTORE_MEDIA_TYPE
from tests.evidence.sigstore.authority import STATEMENT, Authority, b64, encoded, proof_of
from workers.authority.folder import spki

HOST = "rekor.example"
LOG = ec.generate_private_key(ec.SECP256R1())
LOG_ID = hashlib.sha256(spki(LOG.public_key())).digest()
SHA256 = ec.ECDSA(hashes.SHA256())
INDEX = 25_579
"""Of all shards of the log; in the proof's own tree the entry has another one."""


def note(origin: str, size: int, root: bytes) -> str:
    text = f"{origin}\n{size}\n{b64(root)}\n"
    return f"{text}\n— {HOST} {b64(LOG_ID[:4] + LOG.sign(text.encode(), SHA256))}\n"


def promise(entry: dict[str, Any], body: bytes) -> dict[str, str]:
    numbers = {name: int(entry[name]) for name in ("integratedTime", "logIndex")}
    payload = {"body": b64(body), "logID": LOG_ID.hex(), **numbers}
    return {"signedEntryTimestamp": b64(LOG.sign(jcs(payload), SHA256))}


@pytest.fixture(scope="module")
def root(authority: Authority) -> str:
    document = json.loads(authority.root)
    log = document["tlogs"][0]
    log["baseUrl"], log["logId"]["keyId"] = f"https://{HOST}", b64(LOG_ID)
    log["publicKey"] |= {"rawBytes": b64(spki(LOG.public_key())), "keyDetails": "PKIX_ECDSA_P256_SHA_256"}
    return jcs(document).decode()


@pytest.fixture(scope="module")
def good(authority: Authority) -> dict[str, Any]:
    key = ec.generate_private_key(ec.SECP256R1())
    der = authority.certificate(key.public_key())
    pem = x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM)
    signature = key.sign(dsse.pae(PAYLOAD_TYPE, STATEMENT), SHA256)
    digest = {"algorithm": "sha256", "value": sha256_hex(STATEMENT)}
    spec = {"envelopeHash": digest, "payloadHash": digest, "signatures": [{"signature": b64(signature), "verifier": b64(pem)}]}
    body = jcs({"apiVersion": "0.0.1", "kind": "dsse", "spec": spec})
    leaves = [b"earlier", body, b"later"]
    tree = merkle_root(leaves)
    entry: dict[str, Any] = {
        "logIndex": str(INDEX), "logId": {"keyId": b64(LOG_ID)}, "kindVersion": {"kind": "dsse", "version": "0.0.1"},
        "integratedTime": str(int(dt.datetime.now(dt.UTC).timestamp())), "canonicalizedBody": b64(body),
        "inclusionProof": {
            "logIndex": "1", "treeSize": "3", "rootHash": b64(tree), "hashes": [b64(one) for one in inclusion_path(leaves, 1)],
            "checkpoint": {"envelope": note(f"{HOST} - 1193050959916656506", 3, tree)},
        },
    }  # fmt: skip
    entry["inclusionPromise"] = promise(entry, body)
    return {
        "mediaType": SIGSTORE_MEDIA_TYPE,
        "verificationMaterial": {"certificate": {"rawBytes": b64(der)}, "tlogEntries": [entry]},
        "dsseEnvelope": {"payload": b64(STATEMENT), "payloadType": PAYLOAD_TYPE, "signatures": [{"sig": b64(signature)}]},
    }


def verified(bundle: dict[str, Any], authority: Authority, root: str) -> keyless.KeylessFacts:
    trusted = authority.trusted(trusted_root_sha256=sha256_hex(root.encode()))
    return keyless.verify(encoded(bundle), PAYLOAD_TYPE, trusted, root)


def test_its_promise_says_when_it_was_signed(authority: Authority, root: str, good: dict[str, Any]) -> None:
    facts = verified(good, authority, root)
    entry = good["verificationMaterial"]["tlogEntries"][0]
    assert (facts.log_index, facts.signed_at_ms) == (INDEX, int(entry["integratedTime"]) * 1000)


def _time(bundle: dict[str, Any], entry: dict[str, Any]) -> None:
    entry["integratedTime"] = str(int(entry["integratedTime"]) + 1)


def _index(bundle: dict[str, Any], entry: dict[str, Any]) -> None:
    entry["logIndex"] = "7"


def _no_promise(bundle: dict[str, Any], entry: dict[str, Any]) -> None:
    del entry["inclusionPromise"]


def _no_time(bundle: dict[str, Any], entry: dict[str, Any]) -> None:
    del entry["integratedTime"]


def _far_future(bundle: dict[str, Any], entry: dict[str, Any]) -> None:
    entry["integratedTime"] = str(2**60)


def _far_index(bundle: dict[str, Any], entry: dict[str, Any]) -> None:
    entry["logIndex"] = str(2**60)


def _new_name(bundle: dict[str, Any], entry: dict[str, Any]) -> None:
    proof = proof_of(bundle)
    proof["checkpoint"]["envelope"] = note(HOST, 3, merkle_root([b"earlier", b"", b"later"]))


def _no_tree(bundle: dict[str, Any], entry: dict[str, Any]) -> None:
    proof_of(bundle)["checkpoint"]["envelope"] = note(f"{HOST} - mine", 3, b"\0" * 32)


def _about_something_else(bundle: dict[str, Any], entry: dict[str, Any]) -> None:
    """A whole and well signed entry, of another signature."""
    body = jcs({"apiVersion": "0.0.1", "kind": "dsse", "spec": {
        "envelopeHash": {"algorithm": "sha256", "value": "0" * 64}, "payloadHash": {"algorithm": "sha256", "value": "0" * 64},
        "signatures": [{"signature": "AA==", "verifier": "AA=="}],
    }})  # fmt: skip
    root = leaf_hash(body)
    proof = {"logIndex": "0", "treeSize": "1", "rootHash": b64(root), "hashes": []}
    entry["canonicalizedBody"] = b64(body)
    entry["inclusionProof"] = proof | {"checkpoint": {"envelope": note(f"{HOST} - 1", 1, root)}}
    entry["inclusionPromise"] = promise(entry, body)


FORGERIES: tuple[tuple[Callable[[dict[str, Any], dict[str, Any]], None], str], ...] = (
    (_time, "inclusion_promise"), (_index, "inclusion_promise"), (_no_promise, "timestamp_missing"),
    (_no_time, "inclusion_promise"), (_far_future, "inclusion_promise"), (_far_index, "inclusion_promise"),
    (_new_name, "checkpoint_origin"), (_no_tree, "checkpoint_origin"),
    (_about_something_else, "second_opinion"),
)  # fmt: skip


@pytest.mark.parametrize(("forge", "reason"), FORGERIES, ids=[forge.__name__[1:] for forge, _ in FORGERIES])
def test_what_it_did_not_sign_is_refused(
    forge: Callable[[dict[str, Any], dict[str, Any]], None], reason: str, authority: Authority, root: str, good: dict[str, Any]
) -> None:
    bundle = copy.deepcopy(good)
    forge(bundle, bundle["verificationMaterial"]["tlogEntries"][0])
    with pytest.raises(KeylessRefused) as refused:
        verified(bundle, authority, root)
    assert refused.value.reason == reason

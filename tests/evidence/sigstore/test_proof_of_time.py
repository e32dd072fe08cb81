"""Profile K: when a long-lived key signed, where the trust file asks for proof of it."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from activities.evidence.keyless import KeylessRefused, ProvenTime, proof_of_time
from activities.evidence.keyless_signing import add_proof_of_time
from schemas.error import InputError
from tests.evidence.sigstore.authority import Authority, b64, encoded, proof_of
from workers.authority.folder import spki

KEY = ec.generate_private_key(ec.SECP256R1())


@pytest.fixture(scope="module")
def full(authority: Authority) -> dict[str, Any]:
    """With a time stamp and a log entry."""
    return authority.signed_by_key(KEY)


def without(bundle: dict[str, Any], *, stamp: bool = False, entry: bool = False) -> dict[str, Any]:
    changed = copy.deepcopy(bundle)
    material = changed["verificationMaterial"]
    if stamp:
        del material["timestampVerificationData"]
    if entry:
        material["tlogEntries"] = []
    return changed


def proven(bundle: dict[str, Any], authority: Authority, require: str, **changes: Any) -> ProvenTime:
    return proof_of_time(encoded(bundle), authority.trusted_key(KEY.public_key(), require=require, **changes), authority.root)


def reason_of(bundle: dict[str, Any], authority: Authority, require: str, **changes: Any) -> str:
    with pytest.raises(KeylessRefused) as refused:
        proven(bundle, authority, require, **changes)
    return refused.value.reason


def test_what_the_trust_file_asks_for_is_what_has_to_be_there(authority: Authority, full: dict[str, Any]) -> None:
    stamped, logged, plain = without(full, entry=True), without(full, stamp=True), without(full, stamp=True, entry=True)
    for require in ("log", "timestamp", "none"):
        assert proven(full, authority, require).signed_at_ms
    assert proven(full, authority, "log").log_index == int(proof_of(full)["logIndex"])
    assert proven(stamped, authority, "timestamp").signed_at_ms and proven(stamped, authority, "none").log_index is None
    assert reason_of(stamped, authority, "log") == "tlog_missing"
    assert reason_of(logged, authority, "timestamp") == "timestamp_missing"
    assert reason_of(logged, authority, "log") == "timestamp_missing"
    assert proven(logged, authority, "none").signed_at_ms is None
    assert reason_of(plain, authority, "timestamp") == "timestamp_missing"
    assert reason_of(plain, authority, "log") == "tlog_missing"
    assert proven(plain, authority, "none") == ProvenTime(None, None)


def test_what_is_there_has_to_be_true_even_if_nobody_asked(
    authority: Authority, stranger: Authority, full: dict[str, Any]
) -> None:
    foreign = stranger.signed_by_key(KEY)
    other = copy.deepcopy(full)
    other["verificationMaterial"]["tlogEntries"] = authority.signed_by_key(KEY)["verificationMaterial"]["tlogEntries"]
    assert reason_of(foreign, authority, "none") == "log_unknown"
    assert reason_of(without(foreign, entry=True), authority, "none") == "timestamp_invalid"
    assert reason_of(other, authority, "none") == "log_body"
    assert reason_of(full, authority, "none", trusted_root_sha256=None) == "root_missing"


def test_the_signature_itself_and_its_key_are_checked_too(authority: Authority, full: dict[str, Any]) -> None:
    altered = copy.deepcopy(full)
    altered["dsseEnvelope"]["payload"] = b64(b"{}")
    assert reason_of(altered, authority, "timestamp") == "bad_signature"
    assert reason_of(full, authority, "timestamp", hint="another") == "hint_unknown"
    assert reason_of(authority.signed(), authority, "timestamp") == "hint_unknown"
    other = ec.generate_private_key(ec.SECP256R1()).public_key()
    with pytest.raises(KeylessRefused, match="hint_unknown"):
        proof_of_time(encoded(full), authority.trusted_key(other), authority.root)


def test_an_entry_of_an_older_log_is_not_taken_for_one_about_this_signature(authority: Authority, full: dict[str, Any]) -> None:
    older = copy.deepcopy(full)
    entry = older["verificationMaterial"]["tlogEntries"][0]
    entry["kindVersion"] = {"kind": "dsse", "version": "0.0.1"}
    proof = proof_of(older)
    named_as_then = f"{authority.folder.facts.origin} - 1"
    proof["checkpoint"]["envelope"] = authority.checkpoint(proof["treeSize"], proof["rootHash"], named_as_then)
    assert reason_of(older, authority, "log") == "log_entry"


def test_a_bundle_of_a_key_gets_its_proof_from_the_configured_services(authority: Authority, full: dict[str, Any]) -> None:
    plain = encoded(without(full, stamp=True, entry=True))
    public = spki(KEY.public_key())
    for log, require in ((False, "timestamp"), (True, "log")):
        made = add_proof_of_time(plain, public, authority.config, log=log)
        trusted = authority.trusted_key(KEY.public_key(), require=require)
        assert proof_of_time(made, trusted, authority.root).signed_at_ms


def test_without_a_time_stamp_authority_there_is_no_proof_to_add(authority: Authority, full: dict[str, Any]) -> None:
    config = json.loads(authority.config)
    config["signingConfig"]["tsaUrls"] = []
    with pytest.raises(InputError, match="SIGSTORE_CONFIG: no time stamp authority"):
        add_proof_of_time(encoded(full), b"", json.dumps(config), log=False)

"""Profile S, verified offline: what is accepted, and with which reason everything else is not."""

from __future__ import annotations

import base64
import contextlib
import copy
import datetime as dt
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sigstore_models.bundle.v1 import TimestampVerificationData

from activities.evidence import keyless
from activities.evidence.keyless import KeylessRefused
from activities.evidence.sigstore_material import read_root
from activities.evidence.timestamps import stamped_at
from schemas.canonical import sha256_hex
from schemas.evidence import PAYLOAD_TYPE
from tests.evidence.sigstore.authority import IDENTITY, STATEMENT, Authority, b64, encoded, proof_of

Forgery = Callable[[dict[str, Any], Authority, Authority], Any]
ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def good(authority: Authority) -> dict[str, Any]:
    return authority.signed()


def reason_of(bundle: bytes, authority: Authority, **changes: Any) -> str:
    with pytest.raises(KeylessRefused) as refused:
        keyless.verify(bundle, PAYLOAD_TYPE, authority.trusted(**changes), authority.root)
    return refused.value.reason


def test_a_good_bundle_states_who_signed_what_and_when(authority: Authority, good: dict[str, Any]) -> None:
    facts = keyless.verify(encoded(good), PAYLOAD_TYPE, authority.trusted(), authority.root)
    assert (facts.identity, facts.issuer, facts.payload) == (IDENTITY, authority.folder.facts.url, STATEMENT)
    assert facts.log_index == int(proof_of(good)["logIndex"])
    assert abs(facts.signed_at_ms / 1000 - dt.datetime.now(dt.UTC).timestamp()) < 600


# --- forged parts: each is refused for its own reason ------------------------------------------------------------------


def _payload(bundle: dict[str, Any], *_: Authority) -> None:
    bundle["dsseEnvelope"]["payload"] = b64(STATEMENT + b" ")


def _type(bundle: dict[str, Any], *_: Authority) -> None:
    bundle["dsseEnvelope"]["payloadType"] = "text/plain"


def _second_signature(bundle: dict[str, Any], *_: Authority) -> None:
    bundle["dsseEnvelope"]["signatures"] *= 2


def _no_signature(bundle: dict[str, Any], *_: Authority) -> None:
    bundle["dsseEnvelope"]["signatures"] = []


def _key_id(bundle: dict[str, Any], *_: Authority) -> None:
    bundle["dsseEnvelope"]["signatures"][0]["keyid"] = "a key"


def _base64(bundle: dict[str, Any], *_: Authority) -> None:
    bundle["dsseEnvelope"]["payload"] += "\n"


def _number(bundle: dict[str, Any], *_: Authority) -> None:
    bundle["verificationMaterial"]["tlogEntries"][0]["logIndex"] = "00"


def _unknown_field(bundle: dict[str, Any], *_: Authority) -> None:
    bundle["verificationMaterial"]["extra"] = 1


def _null(bundle: dict[str, Any], *_: Authority) -> None:
    bundle["messageSignature"] = None


def _older_form(bundle: dict[str, Any], *_: Authority) -> None:
    bundle["mediaType"] = "application/vnd.dev.sigstore.bundle+json;version=0.3"


def _key_instead(bundle: dict[str, Any], *_: Authority) -> None:
    del bundle["verificationMaterial"]["certificate"]
    bundle["verificationMaterial"]["publicKey"] = {"hint": "x"}


def _no_entry(bundle: dict[str, Any], *_: Authority) -> None:
    bundle["verificationMaterial"]["tlogEntries"] = []


def _two_entries(bundle: dict[str, Any], *_: Authority) -> None:
    bundle["verificationMaterial"]["tlogEntries"] *= 2


def _kind(bundle: dict[str, Any], *_: Authority) -> None:
    bundle["verificationMaterial"]["tlogEntries"][0]["kindVersion"] = {"kind": "dsse", "version": "0.0.2"}


def _older_log(bundle: dict[str, Any], *_: Authority) -> None:
    """Rekor v1's kind, whose checkpoints are named otherwise."""
    bundle["verificationMaterial"]["tlogEntries"][0]["kindVersion"] = {"kind": "dsse", "version": "0.0.1"}


def _other_log(bundle: dict[str, Any], _: Authority, stranger: Authority) -> None:
    bundle["verificationMaterial"]["tlogEntries"] = stranger.signed()["verificationMaterial"]["tlogEntries"]


def _index(bundle: dict[str, Any], *_: Authority) -> None:
    entry = bundle["verificationMaterial"]["tlogEntries"][0]
    entry["logIndex"] = str(int(entry["logIndex"]) + 1)


def _body(bundle: dict[str, Any], *_: Authority) -> None:
    bundle["verificationMaterial"]["tlogEntries"][0]["canonicalizedBody"] = b64(b"{}")


def _another_entry(bundle: dict[str, Any], authority: Authority, _: Authority) -> None:
    bundle["verificationMaterial"]["tlogEntries"] = authority.signed()["verificationMaterial"]["tlogEntries"]


def _root_hash(bundle: dict[str, Any], *_: Authority) -> None:
    proof_of(bundle)["rootHash"] = b64(b"\0" * 32)


def _said_time(bundle: dict[str, Any], *_: Authority) -> None:
    bundle["verificationMaterial"]["tlogEntries"][0]["integratedTime"] = "1700000000"


def _checkpoint_text(bundle: dict[str, Any], *_: Authority) -> None:
    checkpoint = proof_of(bundle)["checkpoint"]
    checkpoint["envelope"] = "x" + checkpoint["envelope"]


def _checkpoint_by_stranger(bundle: dict[str, Any], _: Authority, stranger: Authority) -> None:
    proof = proof_of(bundle)
    proof["checkpoint"]["envelope"] = stranger.checkpoint(proof["treeSize"], proof["rootHash"])


def _checkpoint_with_junk(bundle: dict[str, Any], *_: Authority) -> None:
    proof_of(bundle)["checkpoint"]["envelope"] += "not a signature\n"


def _checkpoint_origin(bundle: dict[str, Any], authority: Authority, _: Authority) -> None:
    """Signed by the log's key, under another name, and then also listed under the name that is looked for."""
    proof = proof_of(bundle)
    note = authority.checkpoint(proof["treeSize"], proof["rootHash"], f"{authority.folder.facts.origin}/other")
    proof["checkpoint"]["envelope"] = note


def _checkpoint_size(bundle: dict[str, Any], authority: Authority, _: Authority) -> None:
    proof = proof_of(bundle)
    proof["checkpoint"]["envelope"] = authority.checkpoint("99999", proof["rootHash"])


def _checkpoint_root(bundle: dict[str, Any], authority: Authority, _: Authority) -> None:
    proof = proof_of(bundle)
    proof["checkpoint"]["envelope"] = authority.checkpoint(proof["treeSize"], b64(b"\0" * 32))


def _no_checkpoint(bundle: dict[str, Any], *_: Authority) -> None:
    del proof_of(bundle)["checkpoint"]


def _no_stamp(bundle: dict[str, Any], *_: Authority) -> None:
    del bundle["verificationMaterial"]["timestampVerificationData"]


def _stamp_of_stranger(bundle: dict[str, Any], _: Authority, stranger: Authority) -> None:
    signature = base64.b64decode(bundle["dsseEnvelope"]["signatures"][0]["sig"])
    bundle["verificationMaterial"]["timestampVerificationData"] = {"rfc3161Timestamps": [stranger.stamp(signature)]}


def _one_more_stamp(bundle: dict[str, Any], authority: Authority, _: Authority) -> None:
    bundle["verificationMaterial"]["timestampVerificationData"]["rfc3161Timestamps"].append(authority.stamp(b"something else"))


def _many_stamps(bundle: dict[str, Any], *_: Authority) -> None:
    bundle["verificationMaterial"]["timestampVerificationData"]["rfc3161Timestamps"] *= 9


def _stamp_twice(bundle: dict[str, Any], *_: Authority) -> None:
    bundle["verificationMaterial"]["timestampVerificationData"]["rfc3161Timestamps"] *= 2


def _no_response(bundle: dict[str, Any], *_: Authority) -> None:
    bundle["verificationMaterial"]["timestampVerificationData"] = {"rfc3161Timestamps": [{"signedTimestamp": b64(b"0")}]}


def _replaced(bundle: dict[str, Any], made: dict[str, Any]) -> None:
    bundle.clear()
    bundle.update(made)


def _with_certificate(authority: Authority, make: Callable[[ec.EllipticCurvePublicKey], bytes]) -> dict[str, Any]:
    key = ec.generate_private_key(ec.SECP256R1())
    return authority.signed(make(key.public_key()), key)


def _certificate_of_stranger(bundle: dict[str, Any], authority: Authority, stranger: Authority) -> None:
    _replaced(bundle, _with_certificate(authority, stranger.certificate))


def _certificate_too_old(bundle: dict[str, Any], authority: Authority, _: Authority) -> None:
    earlier = dt.datetime.now(dt.UTC) - dt.timedelta(minutes=11)
    _replaced(bundle, _with_certificate(authority, lambda key: authority.certificate(key, now=earlier)))


def _certificate_too_young(bundle: dict[str, Any], authority: Authority, _: Authority) -> None:
    later = dt.datetime.now(dt.UTC) + dt.timedelta(minutes=5)
    _replaced(bundle, _with_certificate(authority, lambda key: authority.certificate(key, now=later)))


def _certificate_stamp_of_stranger(bundle: dict[str, Any], authority: Authority, stranger: Authority) -> None:
    """Issued by the trusted CA, but no certificate log of the trusted root has seen it."""

    class Mixed(type(authority.folder)):  # type: ignore[misc]
        def key(self, name: str) -> Any:
            return (stranger if name == "ct" else authority).folder.key(name)

    mixed = Mixed(authority.folder.path, authority.folder.facts)
    _replaced(bundle, _with_certificate(authority, lambda key: authority.certificate(key, by=mixed)))


def _other_identity(bundle: dict[str, Any], authority: Authority, _: Authority) -> None:
    _replaced(bundle, _with_certificate(authority, lambda key: authority.certificate(key, f"{IDENTITY}:other")))


def _no_certificate(bundle: dict[str, Any], *_: Authority) -> None:
    bundle["verificationMaterial"]["certificate"]["rawBytes"] = b64(b"\x30\x00")


FORGERIES: tuple[tuple[Forgery, str], ...] = (
    (_payload, "bad_signature"), (_type, "payload_type"), (_second_signature, "signature_count"),
    (_no_signature, "signature_count"), (_key_id, "envelope_shape"), (_base64, "envelope_shape"), (_number, "envelope_shape"),
    (_unknown_field, "envelope_shape"), (_null, "envelope_shape"), (_older_form, "envelope_shape"),
    (_key_instead, "envelope_shape"), (_no_entry, "tlog_missing"), (_two_entries, "tlog_missing"), (_kind, "log_entry"),
    (_older_log, "checkpoint_origin"), (_other_log, "log_unknown"), (_index, "inclusion_proof"), (_body, "inclusion_proof"),
    (_another_entry, "log_body"), (_root_hash, "inclusion_proof"), (_said_time, "log_entry"),
    (_checkpoint_text, "checkpoint_signature"), (_checkpoint_by_stranger, "checkpoint_signature"),
    (_checkpoint_with_junk, "checkpoint_signature"), (_checkpoint_origin, "checkpoint_origin"),
    (_checkpoint_size, "checkpoint_size"), (_checkpoint_root, "inclusion_proof"), (_no_checkpoint, "checkpoint_signature"),
    (_no_stamp, "timestamp_missing"), (_stamp_of_stranger, "timestamp_invalid"), (_one_more_stamp, "timestamp_invalid"),
    (_many_stamps, "timestamp_invalid"), (_stamp_twice, "timestamp_invalid"),
    (_no_response, "timestamp_invalid"), (_certificate_of_stranger, "cert_chain"),
    (_certificate_too_old, "cert_not_valid_at_time"), (_certificate_too_young, "cert_not_valid_at_time"),
    (_certificate_stamp_of_stranger, "sct"), (_other_identity, "identity"), (_no_certificate, "cert_chain"),
)  # fmt: skip


@pytest.mark.parametrize(("forge", "reason"), FORGERIES, ids=[forge.__name__[1:] for forge, _ in FORGERIES])
def test_a_forged_part_is_refused_for_its_own_reason(
    forge: Forgery, reason: str, authority: Authority, stranger: Authority, good: dict[str, Any]
) -> None:
    bundle = copy.deepcopy(good)
    forge(bundle, authority, stranger)
    assert reason_of(encoded(bundle), authority) == reason


def test_what_is_not_trusted_is_told_from_what_is_forged(authority: Authority, stranger: Authority, good: dict[str, Any]) -> None:
    bundle, none = encoded(good), "0" * 64
    assert reason_of(bundle, authority, issuer="https://elsewhere.example") == "issuer"
    assert reason_of(bundle, authority, issuer=None) == "issuer"
    assert reason_of(bundle, authority, identity="urn:gen4") == "identity"
    assert reason_of(bundle, authority, trusted_root_sha256=none) == "root_not_pinned"
    assert reason_of(bundle, authority, trusted_root_sha256=None) == "root_missing"
    with pytest.raises(KeylessRefused) as refused:
        keyless.verify(bundle, PAYLOAD_TYPE, stranger.trusted(), stranger.root)
    assert refused.value.reason == "log_unknown" and not refused.value.untrusted
    assert all(KeylessRefused(reason, "", "").untrusted for reason in ("issuer", "identity", "root_not_pinned", "root_missing"))


def test_a_trusted_root_that_is_none_vouches_for_nothing(authority: Authority, good: dict[str, Any]) -> None:
    def with_period(period: Any) -> str:
        changed = json.loads(authority.root)
        changed["tlogs"][0]["publicKey"]["validFor"] = period
        return json.dumps(changed)

    twice = authority.root.replace('"tlogs"', '"tlogs":[],"tlogs"')
    for document in ("", "{}", "[]", twice, with_period(None), with_period({}), with_period({"end": "2030-01-01T00:00:00Z"})):
        trusted = authority.trusted(trusted_root_sha256=sha256_hex(document.encode()))
        with pytest.raises(KeylessRefused, match="root_invalid"):
            keyless.verify(encoded(good), PAYLOAD_TYPE, trusted, document)


@pytest.mark.parametrize("part", ["tlogs", "certificateAuthorities", "ctlogs", "timestampAuthorities"])
def test_keys_of_a_trusted_root_count_only_while_they_are_valid(part: str, authority: Authority, good: dict[str, Any]) -> None:
    changed = json.loads(authority.root)
    entry = changed[part][0]
    entry.get("publicKey", entry)["validFor"] = {"start": "2020-01-01T00:00:00Z", "end": "2021-01-01T00:00:00Z"}
    document = json.dumps(changed)
    trusted = authority.trusted(trusted_root_sha256=sha256_hex(document.encode()))
    with pytest.raises(KeylessRefused) as refused:
        keyless.verify(encoded(good), PAYLOAD_TYPE, trusted, document)
    expected = {
        "tlogs": "log_key_not_valid_at_time", "certificateAuthorities": "cert_chain", "ctlogs": "sct",
        "timestampAuthorities": "timestamp_invalid",
    }  # fmt: skip
    assert refused.value.reason == expected[part]


@given(data=st.data())
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_changed_byte_is_accepted(data: st.DataObject, authority: Authority, good: dict[str, Any]) -> None:
    raw = bytearray(encoded(good))
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    reason_of(bytes(raw), authority)


def test_no_byte_of_a_time_stamp_can_be_changed(authority: Authority) -> None:
    """Also not in the parts that nobody signed: versions, the name of the signature's algorithm."""
    stamp, root = base64.b64decode(authority.stamp(b"signature")["signedTimestamp"]), read_root(authority.root)
    accepted = []
    for place in range(len(stamp)):
        changed = bytearray(stamp)
        changed[place] ^= 1 << place % 8
        data = TimestampVerificationData.model_validate({"rfc3161Timestamps": [{"signedTimestamp": b64(bytes(changed))}]})
        with contextlib.suppress(KeylessRefused):
            accepted.append((place, stamped_at(data, b"signature", root)))
    assert accepted == []


def test_nothing_of_ours_uses_the_policy_that_checks_nothing() -> None:
    found = [
        path for folder in ("activities", "workers", "cli", "tests", "bench") for path in (ROOT / folder).rglob("*.py")
        if "Unsafe" + "NoOp" in path.read_text()
    ]  # fmt: skip
    assert found == []

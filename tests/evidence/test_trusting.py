"""The trust file: signed by a root key, of a version and for a time; extended, and never shortened (threats 1.5)."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from activities.evidence.signing import Signer, load_signer
from activities.evidence.trusting import (
    LIFETIME_S,
    ROOT_PUBLIC,
    SEEN_FILE,
    TRUST_FILE,
    TrustStore,
    encode_trust,
    ensure_trust,
    load_trust,
    read_trust,
    write_trust,
)
from activities.kernel import dsse
from activities.kernel.signing_keys import hint_of, load_or_create, pem_of
from schemas.canonical import jcs
from schemas.error import InputError
from schemas.evidence import BUILDER_ID
from schemas.trust import TRUST_TYPE, Trust, TrustedKey, TrustRoot
from tests.evidence.workshop import NOW_S, POLICY_DIGEST, make_trust

ONE, TWO = "sha256:" + "1" * 64, "sha256:" + "2" * 64


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    folder = tmp_path / "keys"
    folder.mkdir(mode=0o700)
    return folder


def _ensure(keys: Path, *policies: str, now_s: int = NOW_S) -> Path:
    return ensure_trust(keys, load_signer(keys).trusted(NOW_S), policies, now_s)


def _code(action: Callable[[], object]) -> str:
    with pytest.raises(InputError) as caught:
        action()
    assert caught.value.remedy
    return caught.value.code


def test_the_trust_file_names_the_key_for_its_builder(keys: Path) -> None:
    path, signer = _ensure(keys, ONE), load_signer(keys)
    loaded = read_trust(path, now_s=NOW_S + 90)
    (key,) = loaded.trust.signers
    assert path == keys / TRUST_FILE
    assert (key.hint, key.public_key, key.builder_ids) == (signer.hint, signer.public_pem, (BUILDER_ID,))
    assert BUILDER_ID.endswith("/embedded") and loaded.trust.assurance == "single_operator"
    assert (loaded.trust.policy_digests, loaded.trust.version, loaded.age_s(NOW_S + 90)) == ((ONE,), 1, 90)
    assert loaded.root == hint_of(load_or_create(keys / "root.pem").public_key())


def test_a_second_start_changes_nothing(keys: Path) -> None:
    first = _ensure(keys, ONE).read_bytes()
    assert _ensure(keys, ONE, now_s=NOW_S + 60).read_bytes() == first


def test_in_the_second_half_of_its_time_it_is_issued_anew(keys: Path) -> None:
    _ensure(keys, ONE)
    later = NOW_S + LIFETIME_S // 2 + 1
    assert load_trust(_ensure(keys, ONE, now_s=later), now_s=later).version == 2
    much_later = later + 2 * LIFETIME_S
    assert load_trust(_ensure(keys, ONE, now_s=much_later), now_s=much_later).version == 3


def test_a_new_policy_or_key_is_added_and_nothing_is_lost(keys: Path) -> None:
    signer = load_signer(keys)
    _ensure(keys, TWO)
    other = Signer(ec.generate_private_key(ec.SECP256R1()))
    trust = load_trust(ensure_trust(keys, other.trusted(NOW_S), (ONE,), NOW_S, ("PEM",)), now_s=NOW_S)
    assert [key.hint for key in trust.signers] == [signer.hint, other.hint]
    assert (trust.policy_digests, trust.executors, trust.version) == ((ONE, TWO), ("PEM",), 2)


def test_two_that_change_it_at_once_lose_nothing(keys: Path) -> None:
    path = _ensure(keys)
    policies = ["sha256:" + f"{number:064x}" for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda policy: _ensure(keys, policy), policies))
    trust = load_trust(path, now_s=NOW_S)
    assert (trust.policy_digests, trust.version) == (tuple(policies), 9)


def test_a_revocation_survives_the_next_start(keys: Path) -> None:
    _ensure(keys)
    revoked = {"revoked_at": "2026-01-01T00:00:00Z"}
    TrustStore(keys).change(
        lambda trust: trust.model_copy(update={"signers": (trust.signers[0].model_copy(update=revoked),)}), NOW_S
    )
    assert load_trust(_ensure(keys, ONE), now_s=NOW_S).signers[0].revoked_at == revoked["revoked_at"]


def test_a_trust_1_of_an_earlier_release_becomes_a_trust_2(keys: Path) -> None:
    signer = load_signer(keys)
    old = TrustedKey(
        hint="former", public_key="PEM", profile="key", identity="gen4:local-signer", valid_from="2026-01-01T00:00:00Z",
        revoked_at="2026-02-01T00:00:00Z", builder_ids=(BUILDER_ID,),
    )  # fmt: skip
    (keys / TRUST_FILE).write_bytes(_trust_1(keys=(old,)))
    assert load_trust(keys / TRUST_FILE).signers[0].hint == "former"
    trust = load_trust(_ensure(keys, ONE), now_s=NOW_S)
    assert [key.hint for key in trust.signers] == ["former", signer.hint]
    assert (trust.version, trust.signers[0].revoked_at) == (1, "2026-02-01T00:00:00Z")
    (keys / TRUST_FILE).write_bytes(_trust_1(keys=(old,)))
    assert _code(lambda: load_trust(keys / TRUST_FILE)) == "TRUST_ROLLBACK"  # unsigned, though a root key is known by now


def _trust_1(**changes: Any) -> bytes:
    root = TrustRoot(schema_version="trust/1", assurance="single_operator", keys=(), policy_digests=())
    return jcs(root.model_copy(update=changes).model_dump(mode="json", exclude_none=True))


def test_an_expired_trust_file_is_refused(keys: Path) -> None:
    path = _ensure(keys)
    assert _code(lambda: load_trust(path, now_s=NOW_S + LIFETIME_S)) == "TRUST_EXPIRED"
    assert load_trust(path, now_s=NOW_S + LIFETIME_S - 1).version == 1


def test_a_lower_version_than_the_last_seen_is_refused(keys: Path) -> None:
    path, seen = _ensure(keys, ONE), keys / SEEN_FILE
    first = path.read_bytes()
    load_trust(path, seen=seen, now_s=NOW_S)
    load_trust(_ensure(keys, TWO), seen=seen, now_s=NOW_S)
    path.write_bytes(first)
    assert _code(lambda: load_trust(path, seen=seen, now_s=NOW_S)) == "TRUST_ROLLBACK"
    assert load_trust(path, now_s=NOW_S).version == 1  # without memory nobody can tell


def test_versions_of_different_roots_are_counted_apart(keys: Path, tmp_path: Path) -> None:
    seen = tmp_path / SEEN_FILE
    for _ in range(2):
        TrustStore(keys).change(lambda trust: trust.model_copy(update={"policy_digests": (*trust.policy_digests, ONE)}), NOW_S)
    load_trust(keys / TRUST_FILE, seen=seen, now_s=NOW_S)
    other = tmp_path / "other"
    other.mkdir(mode=0o700)
    assert load_trust(_ensure(other), seen=seen, now_s=NOW_S).version == 1
    assert sorted(json.loads(seen.read_bytes()).values()) == [1, 2]


def test_a_memory_that_cannot_be_read_is_no_reason_to_forget(keys: Path) -> None:
    path = _ensure(keys)
    root = read_trust(path, now_s=NOW_S).root
    for data in (b"[]", jcs({root: "1"}), jcs({root: None})):
        (keys / SEEN_FILE).write_bytes(data)
        assert _code(lambda: load_trust(path, seen=keys / SEEN_FILE, now_s=NOW_S)) == "TRUST_INVALID"


def test_the_root_key_is_named_or_lies_beside(keys: Path, tmp_path: Path) -> None:
    path = _ensure(keys)
    alone = tmp_path / "alone.json"
    alone.write_bytes(path.read_bytes())
    assert _code(lambda: load_trust(alone, now_s=NOW_S)) == "TRUST_ROOT_UNKNOWN"
    assert load_trust(alone, root=keys / ROOT_PUBLIC, now_s=NOW_S).version == 1
    (tmp_path / "other.pub").write_text(pem_of(ec.generate_private_key(ec.SECP256R1()).public_key()))
    assert _code(lambda: load_trust(alone, root=tmp_path / "other.pub", now_s=NOW_S)) == "TRUST_INVALID"
    (tmp_path / "other.pub").write_text("no key")
    assert _code(lambda: load_trust(alone, root=tmp_path / "other.pub", now_s=NOW_S)) == "TRUST_ROOT_UNKNOWN"


def _altered(keys: Path, change: Callable[[dict[str, Any]], None]) -> bytes:
    envelope = json.loads((keys / TRUST_FILE).read_bytes())
    change(envelope)
    return json.dumps(envelope).encode()


def _payload(trust: bytes) -> Callable[[dict[str, Any]], None]:
    def change(envelope: dict[str, Any]) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        envelope["payload"] = dsse.sign(key, TRUST_TYPE, trust).payload

    return change


@pytest.mark.parametrize(
    "change",
    [
        lambda envelope: envelope.update(payloadType="application/json"),
        lambda envelope: envelope.update(extra=1),
        lambda envelope: envelope["signatures"].append(envelope["signatures"][0]),
        lambda envelope: envelope["signatures"].clear(),
        lambda envelope: envelope["signatures"][0].update(keyid="x"),
        lambda envelope: envelope["signatures"][0].update(sig=envelope["signatures"][0]["sig"][:-4]),
        lambda envelope: envelope.update(payload=envelope["payload"] + "\n"),
        _payload(encode_trust(make_trust())),
    ],
)
def test_what_the_root_key_did_not_sign_is_refused(keys: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path = _ensure(keys)
    path.write_bytes(_altered(keys, change))
    assert _code(lambda: load_trust(path, now_s=NOW_S)) == "TRUST_INVALID"


@pytest.mark.parametrize(
    "payload",
    [b"", b"null", b"{}", b'{"a":1,"a":2}', encode_trust(make_trust())[:-1] + b',"more":1}',
     encode_trust(make_trust()).replace(b"trust/2", b"trust/3"), _trust_1()],
)  # fmt: skip
def test_what_the_root_key_signed_must_be_a_trust_2(keys: Path, payload: bytes) -> None:
    path = _ensure(keys)
    path.write_bytes(jcs(dsse.sign(load_or_create(keys / "root.pem"), TRUST_TYPE, payload)))
    assert _code(lambda: load_trust(path, now_s=NOW_S)) == "TRUST_INVALID"


@pytest.mark.parametrize(
    "data", [b"", b"{}", b"null", b"\xef\xbb\xbf" + _trust_1(), _trust_1()[:-1] + b',"keys":[]}', b" " * 5_000_000]
)
def test_a_file_that_is_no_trust_file_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "trust.json"
    path.write_bytes(data)
    assert _code(lambda: load_trust(path)) == "TRUST_INVALID"


def test_a_trust_file_that_is_not_there_is_never_looked_for_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "trust.json").write_bytes(_trust_1())
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="TRUST_INVALID"):
        load_trust(tmp_path / "keys" / "trust.json")


def test_what_is_written_is_what_is_read(keys: Path) -> None:
    trust: Trust = make_trust(load_signer(keys).trusted(NOW_S), policies=(POLICY_DIGEST,))
    root = load_or_create(keys / "root.pem")
    (keys / ROOT_PUBLIC).write_text(pem_of(root.public_key()))
    write_trust(keys / TRUST_FILE, trust, root)
    assert load_trust(keys / TRUST_FILE, now_s=NOW_S) == trust

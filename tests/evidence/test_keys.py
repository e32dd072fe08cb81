"""The signing key and the trust root: made once, owner-only, extended and never shortened."""

from __future__ import annotations

import os
import stat
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from activities.evidence.keys import SIGNER_KEY, TRUST_FILE, Signer, ensure_trust, hint_of, load_signer, load_trust
from schemas.canonical import jcs
from schemas.error import InputError
from schemas.evidence import BUILDER_ID, TrustRoot

NOW_S = 1_790_000_000
ONE, TWO = "sha256:" + "1" * 64, "sha256:" + "2" * 64


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    folder = tmp_path / "keys"
    folder.mkdir(mode=0o700)
    return folder


def test_the_key_is_made_once_for_its_owner_alone(keys: Path) -> None:
    first = load_signer(keys)
    assert load_signer(keys).hint == first.hint
    assert stat.S_IMODE((keys / SIGNER_KEY).stat().st_mode) == 0o600
    assert [path.name for path in keys.iterdir()] == [SIGNER_KEY]
    assert "PRIVATE" not in repr(first)


def test_starters_that_race_agree_on_one_key(keys: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        assert len({signer.hint for signer in pool.map(load_signer, [keys] * 8)}) == 1


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o777])
def test_a_key_that_others_can_reach_is_refused(keys: Path, mode: int) -> None:
    load_signer(keys)
    (keys / SIGNER_KEY).chmod(mode)
    _refused(keys, "KEY_UNSAFE")


def test_a_key_that_is_a_link_is_refused(keys: Path, tmp_path: Path) -> None:
    load_signer(keys)
    (keys / SIGNER_KEY).rename(tmp_path / "elsewhere")
    (keys / SIGNER_KEY).symlink_to(tmp_path / "elsewhere")
    _refused(keys, "KEY_UNSAFE")


def test_a_dangling_link_is_not_followed_to_make_a_key(keys: Path, tmp_path: Path) -> None:
    (keys / SIGNER_KEY).symlink_to(tmp_path / "planted")
    _refused(keys, "KEY_UNSAFE")
    assert not (tmp_path / "planted").exists()


def test_a_pipe_in_place_of_the_key_does_not_hang(keys: Path) -> None:
    os.mkfifo(keys / SIGNER_KEY, 0o600)
    _refused(keys, "KEY_UNSAFE")


@pytest.mark.parametrize("key", [ed25519.Ed25519PrivateKey.generate(), ec.generate_private_key(ec.SECP384R1())])
def test_a_key_of_another_kind_is_refused(keys: Path, key: ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey) -> None:
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (keys / SIGNER_KEY).write_bytes(pem)
    (keys / SIGNER_KEY).chmod(0o600)
    _refused(keys, "KEY_INVALID")


def test_a_file_that_is_no_key_is_refused(keys: Path) -> None:
    (keys / SIGNER_KEY).write_bytes(b"not a key")
    (keys / SIGNER_KEY).chmod(0o600)
    _refused(keys, "KEY_INVALID")


def _refused(keys: Path, code: str) -> None:
    with pytest.raises(InputError) as caught:
        load_signer(keys)
    assert caught.value.code == code and caught.value.remedy


def test_the_hint_is_the_hash_that_openssl_gives(keys: Path) -> None:
    signer = load_signer(keys)
    der = subprocess.run(
        ["openssl", "pkey", "-pubin", "-outform", "DER"], input=signer.public_pem.encode(), capture_output=True, check=True
    ).stdout
    digest = subprocess.run(["openssl", "dgst", "-sha256", "-binary"], input=der, capture_output=True, check=True).stdout
    encoded = subprocess.run(["openssl", "base64", "-A"], input=digest, capture_output=True, check=True).stdout
    assert hint_of(signer.private_key.public_key()) == encoded.decode()


# --- trust root -------------------------------------------------------------------------------------------------------


def test_the_trust_root_names_the_key_for_its_builder(keys: Path) -> None:
    signer = load_signer(keys)
    path = ensure_trust(keys, signer, (ONE,), NOW_S)
    trust = load_trust(path)
    (key,) = trust.keys
    assert path == keys / TRUST_FILE
    assert (key.hint, key.public_key, key.builder_ids) == (signer.hint, signer.public_pem, (BUILDER_ID,))
    assert BUILDER_ID.endswith("/embedded") and trust.assurance == "single_operator"
    assert trust.policy_digests == (ONE,)


def test_a_second_start_changes_nothing(keys: Path) -> None:
    signer = load_signer(keys)
    first = ensure_trust(keys, signer, (ONE,), NOW_S).read_bytes()
    assert ensure_trust(keys, signer, (ONE,), NOW_S + 60).read_bytes() == first


def test_a_new_policy_or_key_is_added_and_nothing_is_lost(keys: Path) -> None:
    signer = load_signer(keys)
    ensure_trust(keys, signer, (TWO,), NOW_S)
    (keys / SIGNER_KEY).unlink()
    other = load_signer(keys)
    trust = load_trust(ensure_trust(keys, other, (ONE,), NOW_S))
    assert [key.hint for key in trust.keys] == [signer.hint, other.hint]
    assert trust.policy_digests == (ONE, TWO)


def test_a_revocation_survives_the_next_start(keys: Path) -> None:
    signer = load_signer(keys)
    path = ensure_trust(keys, signer, (), NOW_S)
    trust = load_trust(path)
    revoked = trust.keys[0].model_copy(update={"revoked_at": "2026-01-01T00:00:00Z"})
    path.write_bytes(jcs(trust.model_copy(update={"keys": (revoked,)})))
    ensure_trust(keys, signer, (ONE,), NOW_S)
    assert load_trust(path).keys[0].revoked_at == "2026-01-01T00:00:00Z"


_GOOD = jcs(TrustRoot(schema_version="trust/1", assurance="single_operator", keys=(), policy_digests=()))


@pytest.mark.parametrize(
    "data",
    [
        b"", b"{}", b"null", _GOOD[:-1] + b',"extra":1}', _GOOD[:-1] + b',"keys":[]}', b"\xef\xbb\xbf" + _GOOD,
        _GOOD.replace(b"trust/1", b"trust/2"), _GOOD.replace(b"single_operator", b"anything"), b" " * 1_100_000,
    ],
)  # fmt: skip
def test_a_trust_root_that_is_not_one_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "trust.json"
    path.write_bytes(data)
    with pytest.raises(InputError) as caught:
        load_trust(path)
    assert caught.value.code == "TRUST_INVALID" and caught.value.remedy


def test_a_trust_root_that_is_not_there_is_never_looked_for_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "trust.json").write_bytes(_GOOD)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="TRUST_INVALID"):
        load_trust(tmp_path / "keys" / "trust.json")


def test_a_signer_says_its_hint_and_not_its_key() -> None:
    signer = Signer(ec.generate_private_key(ec.SECP256R1()))
    assert repr(signer) == f"Signer(hint={signer.hint!r})"

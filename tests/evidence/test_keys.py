"""The signing key and the trust root: made once, owner-only, extended and never shortened."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import stat
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from securesystemslib.signer._crypto_signer import CryptoSigner
from securesystemslib.signer._key import SSlibKey
from securesystemslib.signer._signature import Signature
from securesystemslib.signer._signer import Signer as Backend

from activities.evidence import key_ring, trusting
from activities.evidence.key_ring import KeyRing, adopt_key
from activities.evidence.signing import SIGNER_KEY, Signer, load_signer, open_signer
from activities.evidence.trusting import ROOT_KEY, TrustStore, ensure_trust, load_trust
from activities.evidence.verification import verify_bundle
from activities.kernel.signing_keys import encode_new, hint_of, load_or_create, pem_of
from activities.record.home import Home
from schemas.error import Gen4Error, InfrastructureError, InputError
from schemas.evidence import BUILDER_ID, timestamp_of
from schemas.trust import Trusted
from tests.evidence.workshop import POLICY_DIGEST, Workshop, make_workshop

NOW_S = 1_790_000_000
ONE = "sha256:" + "1" * 64


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
    assert signer.hint == hint_of(signer.public_key) == encoded.decode()


def test_a_signer_says_its_hint_and_not_its_key() -> None:
    signer = Signer(ec.generate_private_key(ec.SECP256R1()))
    assert repr(signer) == f"Signer(hint={signer.hint!r})"


# --- keys elsewhere ---------------------------------------------------------------------------------------------------


def test_a_key_file_is_named_by_its_uri(keys: Path) -> None:
    signer = load_signer(keys)
    assert open_signer(f"file2:{keys / SIGNER_KEY}").hint == signer.hint


@pytest.mark.parametrize(
    ("uri", "public", "code"),
    [
        ("file2:signer.pem", False, "KEY_URI_INVALID"), ("file2:/nonexistent/key.pem", False, "KEY_URI_INVALID"),
        ("nope:key", True, "KEY_URI_INVALID"), ("awskms:key", False, "KEY_URI_INVALID"),
        ("awskms:key", True, "KEY_SERVICE_MISSING"),
        ("gcpkms:projects/p", True, "KEY_SERVICE_MISSING"), ("azurekms:https://v", True, "KEY_SERVICE_MISSING"),
        ("hsm:2?label=a", True, "KEY_URI_INVALID"), ("", True, "KEY_URI_INVALID"),
    ],
)  # fmt: skip
def test_a_key_that_cannot_be_used_is_said_at_once(keys: Path, uri: str, public: bool, code: str) -> None:
    (keys / "public.pem").write_text(load_signer(keys).public_pem)
    with pytest.raises(InputError) as caught:
        open_signer(uri, keys / "public.pem" if public else None)
    assert caught.value.code == code and caught.value.remedy


class _Service(Backend):
    """A key management service that signs with another key than the one it was asked for, or does not answer."""

    def __init__(self, named: Signer, used: CryptoSigner | None) -> None:
        self._named, self._used = named, used

    @property
    def public_key(self) -> SSlibKey:
        return SSlibKey("", "ecdsa", "ecdsa-sha2-nistp256", {"public": self._named.public_pem})

    @classmethod
    def from_priv_key_uri(cls, *_: object) -> _Service:
        raise NotImplementedError

    def sign(self, payload: bytes) -> Signature:
        if self._used is None:
            raise ConnectionError("no route")
        return self._used.sign(payload)


@pytest.mark.parametrize("used", [None, CryptoSigner.generate_ecdsa()])
def test_a_service_that_signs_with_another_key_has_not_signed(keys: Path, used: CryptoSigner | None) -> None:
    with pytest.raises(InfrastructureError, match="SIGNING_FAILED"):
        Signer(_Service(load_signer(keys), used)).sign("text/plain", b"x")


# --- rotation, revocation ---------------------------------------------------------------------------------------------


@dataclass
class Ring:
    """A home whose key signed the bundle in ``folder`` before ``NOW_S``; then time goes on."""

    home: Home
    keys: KeyRing
    workshop: Workshop
    folder: Path

    def verdict(self, now_s: int = NOW_S + 100_000) -> tuple[str, tuple[str, ...]]:
        report = verify_bundle(self.folder, load_trust(self.keys._trust.path, now_s=now_s), now_ms=now_s * 1000)
        return report.verdict, report.codes


@pytest.fixture
def ring(tmp_path: Path, place: Callable[[dict[str, bytes]], Path]) -> Ring:
    home = Home.open(tmp_path / "home")
    keys = KeyRing(home)
    keys.create(NOW_S - 60)
    ensure_trust(home.keys, load_signer(home.signer).trusted(NOW_S - 60), (POLICY_DIGEST,), NOW_S - 60)
    workshop = make_workshop(load_signer(home.signer))
    return Ring(home, keys, workshop, place(workshop.files))


def test_a_bundle_outlives_the_rotation_of_its_key(ring: Ring) -> None:
    old, fresh = ring.keys.rotate(NOW_S + 10)
    assert ring.verdict() == ("pass", ())
    assert load_signer(ring.home.signer).hint == fresh != old == ring.workshop.signer.hint
    assert [(key.hint, key.signs) for key in ring.keys.listed()] == [(old, False), (fresh, True)]


def test_a_key_that_was_rotated_out_signs_nothing_new(ring: Ring, place: Callable[[dict[str, bytes]], Path]) -> None:
    ring.keys.rotate(NOW_S - 10)
    assert ring.verdict()[1] != ()


def test_a_revocation_voids_every_bundle_of_the_key_but_those_kept(ring: Ring) -> None:
    digest = ring.workshop.stamp_digest
    ring.keys.rotate(NOW_S + 10)
    ring.keys.revoke(ring.workshop.signer.hint, (), NOW_S + 20)
    assert ring.verdict() == ("fail", ("SIGNER_UNTRUSTED",))
    assert _said(lambda: ring.keys.revoke(ring.workshop.signer.hint, (digest,), NOW_S + 30)) == "KEY_REVOKED"


def test_a_bundle_that_was_kept_stays_valid_and_no_other_stamp_on_its_members(
    ring: Ring, place: Callable[[dict[str, bytes]], Path]
) -> None:
    ring.keys.revoke(ring.workshop.signer.hint, (ring.workshop.stamp_digest,), NOW_S + 20)
    assert ring.verdict() == ("pass", ())
    assert not any(key.signs for key in ring.keys.listed())
    forged = place(ring.workshop.variant(stamp=lambda stamp: stamp.update(trace_id="another")))
    assert dataclasses.replace(ring, folder=forged).verdict() == ("fail", ("SIGNER_UNTRUSTED",))


def test_a_keyless_signer_is_revoked_by_its_identity_under_every_root(ring: Ring) -> None:
    signers = tuple(
        Trusted(
            profile="keyless", identity="ci", issuer="https://i", builder_ids=(BUILDER_ID,), valid_from="2026-01-01T00:00:00Z",
            trusted_root_sha256=root * 64,
        )
        for root in "ab"
    )  # fmt: skip
    TrustStore(ring.home.keys).change(lambda trust: trust.model_copy(update={"signers": (*trust.signers, *signers)}), NOW_S)
    ring.keys.revoke("ci", (), NOW_S + 1)
    assert [one.revoked_at is not None for one in ring.keys.trust().signers] == [False, True, True]
    again = signers[0].model_copy(update={"trusted_root_sha256": "c" * 64})
    ensure_trust(ring.home.keys, again, (), NOW_S + 2)  # the next start, with services of another trusted root
    assert ring.keys.trust().signers[-1] == again.model_copy(update={"revoked_at": timestamp_of(NOW_S + 1)})


def test_a_key_that_proves_its_time_is_named_so(ring: Ring) -> None:
    proving = KeyRing(ring.home, name=lambda key, now_s: key.trusted(now_s).model_copy(update={"require": "timestamp"}))
    proving.rotate(NOW_S + 10)
    assert [one.require for one in ring.keys.trust().signers] == ["none", "timestamp"]
    assert ring.verdict() == ("pass", ())


def test_a_killed_rotation_is_finished_by_the_next_one(ring: Ring) -> None:
    fresh = load_signer_into(ring.home.signer / "signer.new.pem")
    assert ring.keys.rotate(NOW_S + 10)[1] == fresh
    assert not (ring.home.signer / "signer.new.pem").exists()


def load_signer_into(path: Path) -> str:
    path.write_bytes(encode_new())
    path.chmod(0o600)
    return hint_of(load_or_create(path).public_key())


def _said(action: Callable[[], object]) -> str:
    with pytest.raises(Gen4Error) as caught:
        action()
    assert caught.value.remedy
    return caught.value.code


def test_what_cannot_be_done_is_refused(ring: Ring, tmp_path: Path) -> None:
    assert _said(lambda: ring.keys.create(NOW_S)) == "KEY_EXISTS"
    assert _said(lambda: ring.keys.revoke("nobody", (), NOW_S)) == "KEY_UNKNOWN"
    empty = KeyRing(Home.open(tmp_path / "empty"))
    assert _said(lambda: empty.rotate(NOW_S)) == "KEY_MISSING"
    assert _said(empty.listed) == "TRUST_MISSING"


def test_a_root_key_elsewhere_has_to_be_brought(ring: Ring, tmp_path: Path) -> None:
    place = tmp_path / "safe.pem"
    fingerprint = ring.keys.move_root(place, NOW_S + 5)
    assert not (ring.home.keys / ROOT_KEY).exists() and stat.S_IMODE(place.stat().st_mode) == 0o600
    assert _said(lambda: ring.keys.rotate(NOW_S + 10)) == "ROOT_KEY_AWAY"
    assert load_signer(ring.home.signer).hint == ring.workshop.signer.hint  # nothing was begun
    KeyRing(ring.home, place).rotate(NOW_S + 10)
    assert ring.verdict() == ("pass", ()) and fingerprint == hint_of(load_or_create(place).public_key())
    assert _said(lambda: KeyRing(ring.home, place).move_root(place, NOW_S)) == "ROOT_KEY_PLACE"
    stranger = tmp_path / "stranger.pem"
    assert _said(lambda: KeyRing(ring.home, stranger).rotate(NOW_S + 20)) == "ROOT_KEY_AWAY"
    load_signer_into(stranger)
    assert _said(lambda: KeyRing(ring.home, stranger).rotate(NOW_S + 20)) == "ROOT_KEY_OTHER"


class _Killed(BaseException):
    """Nothing catches it, as nothing does a signal."""


def _killed_after(steps: int, action: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether ``action`` was still at work when it died before it touched one more file."""
    left = steps

    def dying(real: Callable[..., object]) -> Callable[..., object]:
        def step(*arguments: object, **options: object) -> object:
            nonlocal left
            if left == 0:
                raise _Killed
            left -= 1
            return real(*arguments, **options)

        return step

    with monkeypatch.context() as patch:
        patch.setattr(trusting, "replace", dying(trusting.replace))
        patch.setattr(key_ring, "write_once", dying(key_ring.write_once))
        patch.setattr(Path, "unlink", dying(Path.unlink))
        try:
            action()
        except _Killed:
            return True
    return False


@pytest.mark.parametrize("steps", range(7))
def test_a_move_of_the_root_key_that_is_killed_leaves_trust_and_can_be_completed(
    ring: Ring, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    place, version = tmp_path / "safe.pem", ring.keys.trust().version
    killed = _killed_after(steps, lambda: ring.keys.move_root(place, NOW_S + 5), monkeypatch)
    assert killed == (steps < 6)  # the key, its temporary file, two keys, the trust file, one key, the old key
    assert ring.verdict() == ("pass", ()) and ring.keys.trust().version in (version, version + 1)
    ensure_trust(ring.home.keys, ring.keys.trust().signers[0], (POLICY_DIGEST,), NOW_S + 6)  # the fabric starts
    with contextlib.suppress(InputError):  # nothing was named yet: that file is no key of ours
        ring.keys.move_root(place, NOW_S + 7)
    if (ring.home.keys / ROOT_KEY).exists():
        place = tmp_path / "other.pem"
        ring.keys.move_root(place, NOW_S + 8)
    public = (ring.home.keys / trusting.ROOT_PUBLIC).read_text()
    assert public == pem_of(load_or_create(place).public_key()) and not (ring.home.keys / ROOT_KEY).exists()
    KeyRing(ring.home, place).rotate(NOW_S + 10)
    assert ring.verdict() == ("pass", ()) and _said(lambda: ring.keys.rotate(NOW_S + 11)) == "ROOT_KEY_AWAY"


def test_a_root_key_that_was_left_behind_signs_no_more(
    ring: Ring, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert _killed_after(4, lambda: ring.keys.move_root(tmp_path / "safe.pem", NOW_S), monkeypatch)
    assert (ring.home.keys / ROOT_KEY).exists() and _said(lambda: ring.keys.rotate(NOW_S + 1)) == "ROOT_KEY_AWAY"
    KeyRing(ring.home, tmp_path / "safe.pem").rotate(NOW_S + 2)
    assert len(TrustStore(ring.home.keys).roots()) == 1


def test_the_key_of_an_earlier_release_goes_to_the_signer(tmp_path: Path) -> None:
    home = Home.open(tmp_path / "home")
    old = load_signer(home.keys).hint
    adopt_key(home)
    adopt_key(home)
    assert load_signer(home.signer).hint == old and not (home.keys / SIGNER_KEY).exists()


def test_policies_are_added_when_the_trust_file_is_issued(ring: Ring) -> None:
    version = ring.keys.trust().version
    issued = ring.keys.issue((ONE,), NOW_S + 7)
    assert issued.version == version + 1 and set(issued.policy_digests) == {ONE, POLICY_DIGEST}
    assert TrustStore(ring.home.keys).current() == issued
    assert issued.signers[0].builder_ids == (BUILDER_ID,)


def test_those_who_issue_it_at_once_lose_nothing_of_each_other(ring: Ring) -> None:
    version, policies = ring.keys.trust().version, ["sha256:" + f"{number:064x}" for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda policy: ring.keys.issue((policy,), NOW_S), policies))
    trust = ring.keys.trust()
    assert (trust.version, set(policies) <= set(trust.policy_digests)) == (version + 8, True)

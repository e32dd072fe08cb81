"""Other people's verifiers on what we sign, and the services of Sigstore itself: with each, a good bundle and altered ones."""

from __future__ import annotations

import base64
import copy
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from activities.evidence import keyless
from activities.evidence.keyless_signing import add_proof_of_time, sign
from activities.evidence.signing import Signer
from schemas.canonical import jcs, sha256_hex
from schemas.error import Refused
from schemas.evidence import PAYLOAD_TYPE
from schemas.trust import Trusted
from tests.evidence.sigstore import services
from tests.evidence.sigstore.authority import IDENTITY, STATEMENT, Authority, encoded, proof_of
from tests.evidence.sigstore.services import Services, running_services
from tests.evidence.tools import JavaScript, Verdict, javascript, run
from workers.authority.folder import spki
from workers.toolchain import locate

ARTIFACT = b"diff"
ABOUT_IT = STATEMENT.replace(b"0" * 64, sha256_hex(ARTIFACT).encode())


@pytest.fixture(scope="session")
def real(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    with running_services(tmp_path_factory.mktemp("services"), authority) as running:
        yield running


@dataclass(frozen=True)
class Signed:
    """One bundle, with the files that verifiers are given."""

    folder: Path
    bundle: dict[str, Any]
    trusted: Trusted
    root: str

    def file(self, bundle: dict[str, Any]) -> Path:
        path = self.folder / f"{sha256_hex(encoded(bundle))[:16]}.json"
        path.write_bytes(encoded(bundle))
        return path

    def by_ours(self, bundle: dict[str, Any]) -> bool:
        try:
            keyless.verify(encoded(bundle), PAYLOAD_TYPE, self.trusted, self.root)
        except keyless.KeylessRefused:
            return False
        return True

    def by_cosign(self, bundle: dict[str, Any], identity: str | None = None) -> Verdict:
        return run(
            locate("cosign").path, "verify-blob-attestation", "--bundle", self.file(bundle), "--trusted-root",
            self.folder / "root.json", "--certificate-identity", identity or self.trusted.identity,
            "--certificate-oidc-issuer", self.trusted.issuer or "", "--type", "slsaprovenance1", "--use-signed-timestamps",
            self.folder / "artifact",
        )  # fmt: skip

    def javascripts_case(self, bundle: dict[str, Any]) -> dict[str, Any]:
        who = {"identity": self.trusted.identity, "issuer": self.trusted.issuer}
        return {"bundle": self.file(bundle), "root": self.folder / "root.json", **who}


def _made(folder: Path, bundle: bytes, trusted: Trusted, root: str) -> Signed:
    (folder / "root.json").write_text(root)
    (folder / "artifact").write_bytes(ARTIFACT)
    return Signed(folder, json.loads(bundle), trusted, root)


@pytest.fixture(scope="module", params=["local authority", "Fulcio, Rekor and timestamp-authority"])
def signed(request: pytest.FixtureRequest, authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Signed:
    folder = tmp_path_factory.mktemp("signed")
    if request.param == "local authority":
        return _made(folder, sign(ABOUT_IT, authority.config, authority.token()), authority.trusted(), authority.root)
    real: Services = request.getfixturevalue("real")
    return _made(folder, sign(ABOUT_IT, real.config, authority.token(services.IDENTITY)), real.trusted(), real.root)


def _subject(bundle: dict[str, Any]) -> None:
    bundle["dsseEnvelope"]["payload"] = base64.b64encode(ABOUT_IT.replace(b"diff.patch", b"diff.other")).decode()


def _signature(bundle: dict[str, Any]) -> None:
    signature = bytearray(base64.b64decode(bundle["dsseEnvelope"]["signatures"][0]["sig"]))
    signature[-1] ^= 1
    bundle["dsseEnvelope"]["signatures"][0]["sig"] = base64.b64encode(signature).decode()


def _path(bundle: dict[str, Any]) -> None:
    """Not the proof's root hash: others read the root from the checkpoint alone."""
    proof_of(bundle)["hashes"] = [*proof_of(bundle).get("hashes", []), base64.b64encode(b"\1" * 32).decode()]


def _checkpoint(bundle: dict[str, Any]) -> None:
    checkpoint = proof_of(bundle)["checkpoint"]
    checkpoint["envelope"] = checkpoint["envelope"].replace("\n1\n", "\n2\n").replace("gen4.local\n", "gen5.local\n", 1)


def _stamp(bundle: dict[str, Any]) -> None:
    del bundle["verificationMaterial"]["timestampVerificationData"]


ALTERATIONS: tuple[Callable[[dict[str, Any]], None], ...] = (_subject, _signature, _path, _checkpoint, _stamp)


def altered(bundle: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for alter in ALTERATIONS:
        changed = copy.deepcopy(bundle)
        alter(changed)
        assert changed != bundle, alter.__name__
        yield changed


def test_ours_and_cosign_accept_it_and_refuse_what_was_altered(signed: Signed) -> None:
    accepted = signed.by_cosign(signed.bundle)
    assert signed.by_ours(signed.bundle) and accepted.ok, accepted.said
    assert not signed.by_cosign(signed.bundle, "somebody@example.org").ok
    for bundle in altered(signed.bundle):
        assert not signed.by_ours(bundle) and not signed.by_cosign(bundle).ok


def test_sigstores_javascript_accepts_it_and_refuses_what_was_altered(signed: Signed) -> None:
    js: JavaScript = javascript()
    stranger = signed.javascripts_case(signed.bundle) | {"identity": "somebody@example.org"}
    bundles = (signed.bundle, *altered(signed.bundle))
    good, *bad = js.verify(*map(signed.javascripts_case, bundles), stranger)
    assert good == {"ok": True, "payload": base64.b64encode(ABOUT_IT).decode()}
    assert [verdict["ok"] for verdict in bad] == [False] * (1 + len(ALTERATIONS))


def test_a_token_that_fulcio_does_not_believe_is_refused(authority: Authority, stranger: Authority, real: Services) -> None:
    for token in (stranger.token(services.IDENTITY), authority.token(IDENTITY)):
        with pytest.raises(Refused, match="IDENTITY_TOKEN"):
            sign(ABOUT_IT, real.config, token)


def test_a_key_gets_its_proof_of_time_from_rekor_and_its_time_stamps(real: Services) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    signer = Signer(key)
    made = add_proof_of_time(signer.sign_statement(ABOUT_IT).bundle, spki(key.public_key()), real.config, log=True)
    trusted = signer.trusted(0).model_copy(update={"require": "log", "trusted_root_sha256": sha256_hex(real.root.encode())})
    proven = keyless.proof_of_time(made, trusted, real.root)
    assert proven.signed_at_ms and proven.log_index is not None
    assert made == jcs(json.loads(made))

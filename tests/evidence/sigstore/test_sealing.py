"""The signer with a certificate instead of a key, and with a key whose signatures prove their time."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from activities.evidence.keyless_signing import KeylessSigner
from activities.evidence.refusal import read_refusal
from activities.evidence.signing import StatementSigner, load_signer
from activities.evidence.timed_signing import TimedSigner
from activities.evidence.trusting import load_trust
from activities.kernel.acting import as_acting
from activities.kernel.judging import PolicyPort
from schemas.evidence import SIGSTORE_BUNDLE, STAMP
from schemas.rejection import FILES, REPORT
from schemas.trust import Trust
from tests.evidence.fabric import Fabric, make_fabric, who
from tests.evidence.sigstore.authority import IDENTITY, LONG_AGO, Authority


def _keyless(authority: Authority, folder: Path) -> StatementSigner:
    (folder / "config").write_text(authority.config)
    (folder / "token").write_text(authority.token())
    return KeylessSigner(folder / "config", folder / "token")


def _timed(authority: Authority, folder: Path) -> StatementSigner:
    return TimedSigner(load_signer(folder), authority.config, "timestamp")


@pytest.fixture(params=[_keyless, _timed], ids=["keyless", "timed"])
def fabric(
    request: pytest.FixtureRequest, authority: Authority, policy: PolicyPort, tmp_path: Path
) -> Iterator[tuple[Fabric, StatementSigner]]:
    make: Callable[[Authority, Path], StatementSigner] = request.param
    signer = make(authority, tmp_path)
    with as_acting(who()), make_fabric(tmp_path, policy, now_s=time.time, signing=signer) as made:
        yield made, signer


def test_what_it_seals_verifies_by_the_trust_file_of_the_home(fabric: tuple[Fabric, StatementSigner]) -> None:
    made, signer = fabric
    sealed = made.sealed()
    assert made.trust_gate(sealed).verdict == "pass"
    named = json.loads((Path(sealed.bundle.directory) / STAMP).read_bytes())["signer"]
    assert named == {"profile": signer.profile, "identity": signer.identity, "key_or_issuer": signer.key_or_issuer}
    (trusted,) = load_trust(made.ports.trust).signers
    assert trusted.trusted_root_sha256 == load_trust(made.ports.trust).trusted_roots[0].sha256
    material = json.loads((Path(sealed.bundle.directory) / SIGSTORE_BUNDLE).read_bytes())["verificationMaterial"]
    assert material["timestampVerificationData"]["rfc3161Timestamps"]
    (beside,) = (made.home.attestations / sealed.bundle.bundle_digest.removeprefix("sha256:")).iterdir()
    certificates = {"test-result.sigstore.json", "vsa.sigstore.json"} & {path.name for path in beside.iterdir()}
    assert bool(certificates) == (signer.profile == "keyless") == (trusted.identity == IDENTITY)


def test_a_rejection_is_signed_by_it_too(fabric: tuple[Fabric, StatementSigner]) -> None:
    made, signer = fabric
    with as_acting(who()):
        folder = Path(made.signing.seal_rejection(made.rejecting()).directory)
    assert {path.name for path in folder.iterdir()} >= set(FILES)
    trust = load_trust(made.ports.trust)
    assert believed(folder, trust) == signer.identity
    revoked = trust.signers[0].model_copy(update={"revoked_at": LONG_AGO})
    assert believed(folder, trust.model_copy(update={"signers": (revoked,)})) is None
    other = trust.signers[0].model_copy(update={"identity": "urn:gen4:other", "hint": None, "public_key": None})
    assert believed(folder, trust.model_copy(update={"signers": (other,)})) is None
    report = folder / REPORT
    report.chmod(0o600)
    report.write_bytes(report.read_bytes().replace(b'"rejected"', b'"infra_error"'))
    assert believed(folder, trust) is None


def believed(folder: Path, trust: Trust) -> str | None:
    refusal = read_refusal(folder, trust)
    assert refusal is not None and (refusal.signer is None) == bool(refusal.problem)
    return refusal.signer

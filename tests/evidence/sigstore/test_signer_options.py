"""Which signer the operator's options choose."""

from __future__ import annotations

from pathlib import Path

import pytest

from activities.evidence import keyless
from activities.evidence.signing import StatementSigner
from schemas.canonical import sha256_hex
from schemas.error import InputError
from schemas.evidence import BUILDER_ID, PAYLOAD_TYPE
from tests.evidence.sigstore.authority import IDENTITY, STATEMENT, Authority
from workers.authority.configuration import TRUST_CONFIG
from workers.signer import read_options


def chosen(home: Path, *options: str) -> StatementSigner:
    home.mkdir(mode=0o700, exist_ok=True)
    fixed = ("--home", str(home), "--socket", str(home / "socket"), "--packages", str(home))
    return read_options([*fixed, *options]).signer()


def test_a_token_makes_a_keyless_signer(authority: Authority, tmp_path: Path) -> None:
    token, config = tmp_path / "token", str(authority.folder.path / TRUST_CONFIG)
    token.write_text(authority.token())
    signer = chosen(tmp_path / "home", "--sigstore-config", config, "--identity-token", str(token))
    assert (signer.profile, signer.identity) == ("keyless", IDENTITY)
    bundle = signer.sign_statement(STATEMENT).bundle
    assert keyless.verify(bundle, PAYLOAD_TYPE, authority.trusted(), authority.root).identity == IDENTITY
    renamed = chosen(tmp_path / "home", "--sigstore-config", config, "--identity-token", str(token), "--identity", "urn:gen4:ci")
    assert renamed.identity == "urn:gen4:ci"


@pytest.mark.parametrize("proof", ["timestamp", "log"])
def test_a_key_with_proof_of_time_is_trusted_only_with_it(proof: str, authority: Authority, tmp_path: Path) -> None:
    config = str(authority.folder.path / TRUST_CONFIG)
    signer = chosen(tmp_path / "home", "--sigstore-config", config, "--proof-of-time", proof)
    plain = chosen(tmp_path / "home")
    trusted = signer.trusted(0, (BUILDER_ID,))
    assert (trusted.require, trusted.trusted_root_sha256) == (proof, sha256_hex(authority.root.encode()))
    proven = keyless.proof_of_time(signer.sign_statement(STATEMENT).bundle, trusted, authority.root)
    assert proven.signed_at_ms and (proven.log_index is not None) == (proof == "log")
    with pytest.raises(keyless.KeylessRefused, match="missing"):
        keyless.proof_of_time(plain.sign_statement(STATEMENT).bundle, trusted, authority.root)


def test_services_that_nobody_named_are_a_usage_error(tmp_path: Path) -> None:
    for options in (("--identity-token", "/token"), ("--proof-of-time", "log")):
        with pytest.raises(InputError, match="SIGSTORE_CONFIG"):
            chosen(tmp_path / "home", *options)
    with pytest.raises(InputError, match="SIGSTORE_CONFIG"):
        chosen(tmp_path / "home", "--proof-of-time", "log", "--sigstore-config", "/nowhere")

"""What ``gen4 doctor`` says about users and sandboxes, and when it says that nothing can run here."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from activities.evidence.key_ring import KeyRing
from activities.evidence.keyless_signing import KeylessSigner
from activities.evidence.trusting import ensure_trust
from activities.record.home import Home
from cli.doctor import Finding, examine, runnable
from tests.cli.commands import Gen4
from workers.settings import Settings


def findings(tmp_path: Path) -> dict[str, Finding]:
    return {found.name: found for found in examine(Settings(home=tmp_path / "home", cache=tmp_path / "cache"))}


def test_a_user_without_an_account_cannot_run_anything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = findings(tmp_path)
    assert mine["user"].state == "ok"
    monkeypatch.setattr(os, "geteuid", lambda: 64_322)
    other = findings(tmp_path)["user"]
    assert other.state == "missing" and "64322" in other.detail and other.remedy
    assert not runnable([*mine.values(), other])


def test_backends_are_looked_at_also_before_there_is_a_base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///nonexistent/docker.sock")
    monkeypatch.delenv("GEN4_ROOTFS_TAR", raising=False)
    found = findings(tmp_path)
    assert found["rootfs"].state == "missing" and found["rootfs"].remedy == "make setup"
    assert found["bubblewrap"].state == "ok" and found["bubblewrap"].detail.endswith("not probed")
    assert found["docker"].state == "missing" and "no engine answers" in found["docker"].detail
    assert not runnable(list(found.values()))


def test_a_missing_tar_of_the_operator_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEN4_ROOTFS_TAR", str(tmp_path / "none.tar"))
    found = findings(tmp_path)["rootfs"]
    assert found.state == "missing" and "GEN4_ROOTFS_TAR" in found.detail and found.remedy


def test_a_token_of_another_identity_than_the_trust_file_names_is_found_before_anything_is_sealed(gen4: Gen4, home: Path) -> None:
    assert gen4("authority", "init")[0] == 0
    settings = Settings(
        home=home, cache=home / "cache", sigstore_config=home / "authority" / "trust_config.json",
        identity_token_file=home / "token.jwt",
    )  # fmt: skip
    signer, now_s = KeylessSigner(home / "authority" / "trust_config.json", home / "token.jwt"), int(time.time())

    def said(identity: str) -> Finding:
        (home / "token.jwt").unlink(missing_ok=True)
        assert gen4("authority", "token", identity, "--out", str(home / "token.jwt"))[0] == 0
        return next(found for found in examine(settings) if found.name == "signer")

    assert said("urn:ci:one").state == "ok"  # nothing is trusted yet
    ensure_trust(home / "keys", signer.trusted(now_s), (), now_s, trusted_roots=(signer.root_document,))
    assert said("urn:ci:one").state == "ok"
    other = said("urn:ci:other")
    assert other.state == "missing" and "urn:ci:other" in other.detail and other.remedy
    KeyRing(Home.open(home)).revoke("urn:ci:one", (), now_s)
    assert "revoked" in said("urn:ci:one").detail
    (home / "token.jwt").write_text("no token")
    assert next(found for found in examine(settings) if found.name == "signer").state == "missing"

"""``gen4 keys``: what scripts read of it, who may give it, and what it leaves in the record."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from activities.evidence.signing import Signer
from activities.evidence.trusting import LIFETIME_S, ensure_trust
from activities.record.home import Home
from cli.local import open_local
from cli.main import run
from schemas.canonical import digest_of
from schemas.error import InputError
from schemas.task import TENANT_CHAIN
from tests.cli.commands import Gen4
from workers.settings import read_settings

pytestmark = pytest.mark.usefixtures("home")


def _keys(gen4: Gen4) -> list[dict[str, Any]]:
    code, listed = gen4("keys", "list")
    assert code == 0
    keys: list[dict[str, Any]] = listed["keys"]
    return keys


def _events() -> list[tuple[str, dict[str, Any]]]:
    local = open_local(read_settings())
    found = [(event.kind, payload) for event, payload in local.chain.read_after(TENANT_CHAIN, 0) if event.kind.startswith("key.")]
    local.close()
    return [(kind, payload) for kind, payload in found if payload.get("purpose") in ("signing", "root")]


def test_a_key_is_made_rotated_and_revoked_and_each_is_on_record(gen4: Gen4, tmp_path: Path) -> None:
    code, made = gen4("keys", "new")
    assert code == 0 and made["signs"]
    code, rotated = gen4("keys", "rotate")
    assert code == 0 and rotated["replaces"] == made["hint"]
    (tmp_path / "stamp.json").write_bytes(b"{}")
    kept = sorted(("sha256:" + "a" * 64, digest_of(b"{}")))
    keep = ("--keep", "sha256:" + "a" * 64, "--keep", str(tmp_path))
    code, revoked = gen4("keys", "revoke", made["hint"], "--reason", "lost", *keep)
    assert (code, revoked["kept"], revoked["signs"]) == (0, kept, False)
    old, new = _keys(gen4)
    assert (old["hint"], old["signs"], "revoked_at" in old, "valid_until" in old) == (made["hint"], False, True, True)
    assert (new["hint"], new["signs"], "revoked_at" in new) == (rotated["hint"], True, False)
    assert [(kind, payload["hint"]) for kind, payload in _events()] == [
        ("key.created", made["hint"]), ("key.rotated", rotated["hint"]), ("key.revoked", made["hint"]),
    ]  # fmt: skip
    assert _events()[-1][1]["reason"] == "lost"


def test_whoever_has_the_root_key_alone_says_who_is_trusted(gen4: Gen4, tmp_path: Path, home: Path) -> None:
    assert gen4("keys", "new")[0] == 0
    code, moved = gen4("keys", "new", "--root", str(tmp_path / "root.pem"))
    assert code == 0 and not (home / "keys" / "root.pem").exists() and Path(moved["root_public"]).exists()
    code, refused = gen4("keys", "rotate")
    assert (code, refused["error"]["code"]) == (2, "ROOT_KEY_AWAY")
    assert gen4("keys", "rotate", "--root-key", str(tmp_path / "root.pem"))[0] == 0
    change = ("--policy", "sha256:" + "b" * 64, "--assurance", "separated")
    code, issued = gen4("keys", "issue", *change, "--root-key", str(tmp_path / "root.pem"))
    assert code == 0
    code, listed = gen4("keys", "list")
    assert (listed["trust"]["root"], listed["trust"]["version"]) == (moved["root"], issued["version"])
    assert listed["trust"]["assurance"] == "separated"
    assert listed["trust"]["policy_digests"] == ["sha256:" + "b" * 64]


def test_what_a_start_wants_is_trusted_once_the_root_key_says_so(gen4: Gen4, tmp_path: Path, home: Path) -> None:
    assert gen4("keys", "new")[0] == 0 and gen4("keys", "new", "--root", str(tmp_path / "root.pem"))[0] == 0
    fresh, now_s = Signer(ec.generate_private_key(ec.SECP256R1())), int(time.time())

    def start(at_s: int = now_s) -> Path:
        return ensure_trust(home / "keys", fresh.trusted(now_s), ("sha256:" + "c" * 64,), at_s)

    with pytest.raises(InputError, match="ROOT_KEY_AWAY") as caught:
        start()
    assert "--wanted" in caught.value.remedy and fresh.hint not in [key["hint"] for key in _keys(gen4)]
    listed = gen4("keys", "list")[1]["wanted"]
    assert [line.split()[:2] for line in listed] == [["signer", fresh.hint], ["policy", "sha256:" + "c" * 64]]
    assert gen4("keys", "issue", "--root-key", str(tmp_path / "root.pem"))[0] == 0
    assert fresh.hint not in [key["hint"] for key in _keys(gen4)]  # not unless it is asked for
    assert gen4("keys", "issue", "--wanted", "--root-key", str(tmp_path / "root.pem"))[1]["wanted"] == listed
    assert fresh.hint in [key["hint"] for key in _keys(gen4)] and gen4("keys", "list")[1]["wanted"] == []
    start()
    start(now_s + LIFETIME_S - 60)  # nothing is new: its time is not over yet, so the root key is not needed
    with pytest.raises(InputError, match="ROOT_KEY_AWAY"):
        start(now_s + LIFETIME_S + 60)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("list",), "TRUST_MISSING"), (("rotate",), "KEY_MISSING"), (("revoke", "x", "--reason", "y"), "TRUST_MISSING"),
        (("revoke", "x", "--reason", "y", "--keep", "sha256:ABC"), "DIGEST_INVALID"),
        (("issue", "--policy", "no"), "DIGEST_INVALID"),
        (("issue",), "TRUST_MISSING"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_a_usage_error(gen4: Gen4, arguments: tuple[str, ...], code: str) -> None:
    exit_code, refused = gen4("keys", *arguments)
    assert (exit_code, refused["error"]["code"]) == (2, code)


def test_a_key_that_lies_here_does_not_sign_where_an_identity_does(gen4: Gen4, monkeypatch: pytest.MonkeyPatch) -> None:
    assert gen4("keys", "new")[0] == 0 and [key["signs"] for key in _keys(gen4)] == [True]
    monkeypatch.setenv("GEN4_IDENTITY_TOKEN_FILE", "/run/token.jwt")
    assert [key["signs"] for key in _keys(gen4)] == [False]


def test_the_key_of_a_signer_elsewhere_is_not_changed_here(gen4: Gen4, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GEN4_SIGNER_SOCKET", str(tmp_path / "socket"))
    code, refused = gen4("keys", "rotate")
    assert (code, refused["error"]["code"]) == (2, "KEY_ELSEWHERE")
    code, refused = gen4("keys", "revoke", "somebody", "--reason", "left")
    assert (code, refused["error"]["code"]) == (2, "TRUST_MISSING")  # whom a home trusts is its own business


def test_only_an_operator_may(gen4: Gen4, home: Path) -> None:
    assert gen4("keys", "new")[0] == 0
    Home.open(home)
    (home / "keys" / "issuers.json").write_text("[]")
    code, refused = gen4("keys", "rotate")
    assert (code, refused["error"]["code"]) == (1, "CREDENTIAL_MISSING")
    assert len(os.listdir(home / "signer")) == 1


def test_people_read_it_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["keys", "new"]) == 0
    capsys.readouterr()
    assert run(["keys", "list"]) == 0
    shown = capsys.readouterr().out
    assert "signs now" in shown and "root key" in shown

"""Whoever gives a command proves it; what fails is an event that holds no secret."""

from __future__ import annotations

import base64
import hashlib
import json
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from activities.control.authentication import NOBODY, Authentication, fingerprint
from activities.control.keysets import KeySets
from activities.control.oidc import Issuer
from activities.control.seeding import ENGINE, ensure_people
from activities.record.chain import EventChain
from activities.record.directory import Directory
from activities.record.store import Store
from activities.record.tables import USED_TOKEN
from activities.record.used_tokens import KEPT_MS, UsedTokens
from schemas.error import InputError, Refused
from schemas.identity import Principal, Role
from schemas.task import TENANT_CHAIN
from tests.control.issuer import NOW_S, TestIssuer
from tests.record.templates import new_sqlite

NOW_MS = NOW_S * 1000


class Desk:
    """One tenant's door, its directory, and what was refused at it."""

    def __init__(self, store: Store, issuer: TestIssuer, tenant_id: str = "acme", **config: Any) -> None:
        self.store = store.tenant(tenant_id)
        self.directory = Directory(self.store)
        self.store.write(lambda connection: ensure_people(connection, self.directory, tenant_id, 1000, 1))
        configured = Issuer(issuer=issuer.url, audience="gen4", tenant_id=tenant_id, **config)
        self.door = Authentication(self.store, (configured,), KeySets())
        self.tenant_id = tenant_id

    def register(self, name: str, issuer: str, subject: str, *roles: Role) -> None:
        made = Principal(principal_id=name, tenant_id=self.tenant_id, kind="human", issuer=issuer, subject=subject)
        self.directory.put_principal(made, ENGINE, 2)
        for role in roles:
            self.directory.grant(name, role, ENGINE, 2)

    def refused(self) -> list[tuple[str, dict[str, Any]]]:
        """(actor, payload) of every refusal on record."""
        rows = EventChain(self.store).read(TENANT_CHAIN)
        return [(event.actor.principal_id, payload) for event, payload in rows if event.kind == "auth.refused"]


@pytest.fixture(scope="module")
def issuer() -> Iterator[TestIssuer]:
    made = TestIssuer()
    yield made
    made.close()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store.open(new_sqlite(tmp_path / "store.db"))
    yield opened
    opened.close()


@pytest.fixture
def desk(store: Store, issuer: TestIssuer) -> Desk:
    made = Desk(store, issuer)
    made.register("alice", issuer.url, "alice-sub", "operator")
    return made


def code_of(work: Any) -> str:
    with pytest.raises(Refused) as refused:
        work()
    return refused.value.code


def test_a_token_names_its_bearer_once(desk: Desk, issuer: TestIssuer) -> None:
    token = issuer.token()
    for _ in range(3):
        assert desk.door.by_token(token, (), NOW_MS, "look").principal_id == "alice"
    assert desk.door.by_token(token, ("operator", "tenant_admin"), NOW_MS).principal_id == "alice"
    assert code_of(lambda: desk.door.by_token(token, ("operator",), NOW_MS)) == "JTI_REPLAY"
    again = issuer.token(jti=json.loads(_part(token, 1))["jti"], auth_time=NOW_S)
    assert code_of(lambda: desk.door.by_token(again, ("operator",), NOW_MS)) == "JTI_REPLAY", "the id counts, not the bytes"


def _part(token: str, number: int) -> bytes:
    part = token.split(".")[number]
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))


def test_of_twenty_replays_at_once_one_acts(desk: Desk, issuer: TestIssuer) -> None:
    token, results, barrier = issuer.token(), [], threading.Barrier(20)

    def act() -> None:
        barrier.wait()
        try:
            results.append(desk.door.by_token(token, ("operator",), NOW_MS).principal_id)
        except Refused as refused:
            results.append(refused.code)

    threads = [threading.Thread(target=act) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == sorted(["alice"] + ["JTI_REPLAY"] * 19)


def test_every_refusal_is_on_record_without_the_token(desk: Desk, issuer: TestIssuer) -> None:
    bad = [issuer.token(aud="other"), issuer.token(kid="k9"), issuer.token(exp=1), "x.y", "\ud800"]
    codes = [code_of(lambda token=token: desk.door.by_token(token, ("operator",), NOW_MS)) for token in bad]
    assert codes == ["WRONG_AUDIENCE", "KEY_UNKNOWN", "TOKEN_EXPIRED", "TOKEN_MALFORMED", "TOKEN_MALFORMED"]
    hashes = [hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest() for token in bad]
    assert desk.refused() == [
        (NOBODY.principal_id, {"code": code, "credential": "oidc", "credential_sha256": sha256})
        for code, sha256 in zip(codes, hashes, strict=True)
    ]
    assert not any(token in json.dumps(desk.refused()) for token in bad)


def test_who_is_unknown_suspended_or_lacks_the_role(desk: Desk, issuer: TestIssuer) -> None:
    def act(**changes: Any) -> str:
        return code_of(lambda: desk.door.by_token(issuer.token(**changes), ("tenant_admin",), NOW_MS))

    assert [act(sub="nobody"), act(sub="Alice-sub"), act(sub="alice-sub ")] == ["PRINCIPAL_UNKNOWN"] * 3
    assert act() == "ROLE_NOT_HELD"
    desk.directory.set_principal_status("alice", "suspended", "", ENGINE, 3)
    assert act() == "PRINCIPAL_INACTIVE"
    assert [actor for actor, _ in desk.refused()] == ["unknown"] * 3 + ["alice"] * 2


def test_a_token_of_another_tenant_opens_nothing(store: Store, issuer: TestIssuer) -> None:
    acme, other = Desk(store, issuer, tenant_claim="org"), Desk(store, issuer, "other", tenant_claim="org")
    acme.register("alice", issuer.url, "alice-sub", "operator")
    other.register("alice", issuer.url, "alice-sub", "operator")
    token = issuer.token(org="acme")
    assert code_of(lambda: other.door.by_token(token, ("operator",), NOW_MS)) == "TENANT_MISMATCH"
    assert acme.door.by_token(token, ("operator",), NOW_MS).tenant_id == "acme"
    assert (len(acme.refused()), len(other.refused())) == (0, 1)


def test_used_tokens_are_forgotten_long_after_they_expired(store: Store) -> None:
    used = UsedTokens(store.tenant("acme"))
    assert used.use("iss", "a", 1_000, 500) and not used.use("iss", "a", 1_000, 600)
    assert used.use("iss2", "a", 1_000, 500) and UsedTokens(store.tenant("other")).use("iss", "a", 1_000, 500)
    assert not used.use("iss", "a", 1_000, 1_000 + KEPT_MS)
    assert used.use("iss", "b", 10**12, 1_001 + KEPT_MS)
    mine = USED_TOKEN.select().where(USED_TOKEN.c.tenant_id == "acme")
    assert [row.jti for row in store.tenant("acme").read(lambda connection: connection.execute(mine).all())] == ["b"]


# --- SSH keys and the local operator ---------------------------------------------------------------------------------


def new_key(folder: Path, name: str) -> Path:
    key = folder / name
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(key)], check=True)
    return key


def test_an_ssh_key_names_its_holder(desk: Desk, tmp_path: Path) -> None:
    bobs, eves = new_key(tmp_path, "bob"), new_key(tmp_path, "eve")
    mark = fingerprint(Path(f"{bobs}.pub").read_text())
    listed = subprocess.run(["ssh-keygen", "-l", "-f", str(bobs)], check=True, capture_output=True, text=True).stdout
    assert mark == listed.split()[1]
    desk.register("bob", "ssh", mark, "operator")
    assert desk.door.by_key(bobs, ("operator",), NOW_MS).principal_id == "bob"
    assert code_of(lambda: desk.door.by_key(eves, ("operator",), NOW_MS)) == "PRINCIPAL_UNKNOWN"
    assert code_of(lambda: desk.door.by_key(bobs, ("tenant_admin",), NOW_MS)) == "ROLE_NOT_HELD"
    assert [payload["credential"] for _, payload in desk.refused()] == ["ssh", "ssh"]


def test_a_public_key_alone_proves_nothing(desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where it lies beside another private key."""
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    bobs, eves = new_key(tmp_path, "bob"), new_key(tmp_path, "eve")
    desk.register("bob", "ssh", fingerprint(Path(f"{bobs}.pub").read_text()), "operator")
    bobs.unlink()
    with pytest.raises((InputError, Refused)) as refused:
        desk.door.by_key(Path(f"{bobs}.pub"), ("operator",), NOW_MS)
    assert refused.value.code in ("KEY_UNUSABLE", "BAD_SIGNATURE")
    eves.rename(bobs)
    with pytest.raises((InputError, Refused)) as refused:
        desk.door.by_key(Path(f"{bobs}.pub"), ("operator",), NOW_MS)
    assert refused.value.code in ("KEY_UNUSABLE", "BAD_SIGNATURE")


@pytest.mark.parametrize("text", ["", "ssh-ed25519", "ssh-ed25519 !!!", "not a key"])
def test_what_is_no_key(desk: Desk, tmp_path: Path, text: str) -> None:
    for name in ("key", "key.pub"):
        (tmp_path / name).write_text(text)
        with pytest.raises(InputError, match="KEY_UNUSABLE"):
            desk.door.by_key(tmp_path / name, (), NOW_MS)
    with pytest.raises(InputError, match="KEY_UNUSABLE"):
        desk.door.by_key(tmp_path / "absent.pub", (), NOW_MS)


def test_the_owner_of_the_home_is_the_local_operator(desk: Desk) -> None:
    assert desk.door.by_uid(1000, ("tenant_admin",)).principal_id == "operator"
    assert code_of(lambda: desk.door.by_uid(1001, ())) == "PRINCIPAL_UNKNOWN"
    assert code_of(lambda: desk.door.by_uid(1000, ("reviewer",))) == "ROLE_NOT_HELD"

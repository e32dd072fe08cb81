"""``gen4 whoami | tenant | principal | role | lease`` as an operator types them."""

from __future__ import annotations

import io
import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from activities.record.chain import EventChain
from activities.record.directory import Directory
from activities.record.leases import Leases
from cli.local import LocalStore, open_local
from cli.main import run
from schemas.event import Actor
from schemas.task import TENANT_CHAIN, TraceKeys
from tests.cli.commands import Gen4
from tests.control.issuer import TestIssuer
from workers.settings import Settings


def local(home: Path) -> LocalStore:
    return open_local(Settings(home=home))


@pytest.fixture
def issuer() -> Iterator[TestIssuer]:
    made = TestIssuer()
    yield made
    made.close()


def code_of(answer: tuple[int, Any]) -> tuple[int, str]:
    return answer[0], answer[1]["error"]["code"]


def test_a_new_home_knows_its_operator(gen4: Gen4) -> None:
    code, found = gen4("whoami")
    assert (code, found["principal_id"], found["issuer"], found["subject"]) == (0, "operator", "local", str(os.geteuid()))
    assert found["roles"] == ["auditor", "operator", "release_captain", "tenant_admin"]
    assert gen4("tenant", "show")[1]["status"] == "active"


def test_people_come_and_go_on_record(home: Path, gen4: Gen4, tmp_path: Path) -> None:
    assert gen4("principal", "add", "alice", "--issuer", "https://id.example", "--subject", "00u1")[1]["new"]
    assert gen4("principal", "add", "alice", "--issuer", "https://id.example", "--subject", "00u1")[1]["new"] is False
    assert gen4("role", "grant", "alice", "release_captain")[1]["granted_by"] == "operator"
    assert next(one for one in gen4("principal", "list")[1] if one["principal_id"] == "alice")["roles"] == ["release_captain"]
    assert gen4("role", "revoke", "alice", "release_captain")[1]["revoked"] is True
    assert gen4("principal", "suspend", "alice", "--reason", "left")[1]["status"] == "suspended"
    assert gen4("principal", "activate", "alice", "--reason", "back")[1]["status"] == "active"
    assert gen4("tenant", "suspend", "--reason", "incident")[1]["status"] == "suspended"
    assert gen4("tenant", "activate", "--reason", "over")[1]["status"] == "active", "a suspended tenant can be activated"
    chain = local(home).chain
    rows = [(event, payload) for event, payload in chain.read(TENANT_CHAIN) if event.kind == "config.changed"]
    changed = [(event.actor.principal_id, payload["what"]) for event, payload in rows]
    expected = ("principal", "role", "role", "principal", "principal", "tenant", "tenant")
    assert changed[-7:] == [("operator", what) for what in expected]
    assert list(chain.verify(TENANT_CHAIN)) == []


@pytest.mark.parametrize(
    ("arguments", "exit_code", "code"),
    [
        (("role", "grant", "nobody", "operator"), 1, "PRINCIPAL_UNKNOWN"),
        (("principal", "suspend", "operator", "--reason", "x"), 1, "LAST_ADMIN"),
        (("role", "revoke", "operator", "tenant_admin"), 1, "LAST_ADMIN"),
        (("principal", "add", "gen4", "--issuer", "local", "--subject", "0"), 1, "ID_CONFLICT"),
        (("principal", "add", "ali ce", "--issuer", "local", "--subject", "7"), 2, "PRINCIPAL_INVALID"),
        (("principal", "add", "alice", "--issuer", "local"), 2, "PRINCIPAL_INVALID"),
        (("principal", "add", "alice", "--issuer", "local", "--subject", "7", "--kind", "engine"), 2, "PRINCIPAL_INVALID"),
        (("lease", "revoke", "--reason", "x"), 2, "TARGET_AMBIGUOUS"),
        (("lease", "revoke", "--reason", "x", "--tenant", "--session", "s"), 2, "TARGET_AMBIGUOUS"),
        (("whoami", "--token-file", "/nonexistent"), 2, "TOKEN_UNREADABLE"),
    ],
    ids=str,
)
def test_what_is_refused_says_why(gen4: Gen4, arguments: tuple[str, ...], exit_code: int, code: str) -> None:
    assert code_of(gen4(*arguments)) == (exit_code, code)


@pytest.mark.parametrize(
    "arguments",
    [
        ("role", "grant", "operator", "Operator"), ("role", "grant", "operator"), ("tenant", "suspend"), ("principal", "add"),
        ("lease", "x"),
    ],
    ids=str,
)  # fmt: skip
def test_wrong_usage_ends_with_two(gen4: Gen4, arguments: tuple[str, ...]) -> None:
    assert gen4(*arguments)[0] == 2


@pytest.mark.parametrize("group", ["whoami", "tenant", "principal", "role", "lease"])
def test_help_explains(home: Path, capsys: pytest.CaptureFixture[str], group: str) -> None:
    assert run([group, "--help"]) == 0
    assert "Usage: gen4" in capsys.readouterr().out


def test_leases_are_listed_and_revoked(home: Path, gen4: Gen4) -> None:
    gen4("whoami")
    store = local(home)
    keys = TraceKeys(tenant_id="local", trace_id="t", session_id="session", task_id="task")
    Leases(store.store).issue(None, keys, "operator", "operator", 2**41)
    assert [lease["session_id"] for lease in gen4("lease", "list", "--live")[1]] == ["session"]
    for option in ("--session", "--lease", "--principal"):
        assert code_of(gen4("lease", "revoke", option, "other", "--reason", "x")) == (2, "LEASE_UNKNOWN")
    revoked = gen4("lease", "revoke", "--session", "session", "--reason", "stolen")[1]
    assert [lease["revoked_reason"] for lease in revoked] == ["stolen"]
    assert gen4("lease", "list", "--live")[1] == [] and len(gen4("lease", "list")[1]) == 1
    kinds = [(event.kind, event.actor.principal_id) for event, _ in EventChain(store.store).read("session")]
    assert kinds == [("lease.issued", "gen4"), ("lease.revoked", "operator")]


def test_suspending_somebody_takes_his_sessions_right_to_act(home: Path, gen4: Gen4) -> None:
    gen4("principal", "add", "alice", "--issuer", "temporal", "--subject", "alice@example.org")
    store = local(home)
    keys = TraceKeys(tenant_id="local", trace_id="t", session_id="session", task_id="task")
    lease = Leases(store.store).issue(None, keys, "alice", "operator", 1_000)
    assert gen4("principal", "suspend", "alice", "--reason", "left")[1]["leases_revoked"] == 1
    newest = Leases(store.store).newest(None, "session")
    assert newest is not None and newest.lease_id == lease.lease_id and newest.revoked_reason == "left"


def test_a_home_with_issuers_believes_credentials_only(home: Path, gen4: Gen4, issuer: TestIssuer, tmp_path: Path) -> None:
    gen4("whoami")
    directory, by = Directory(local(home).store), Actor(principal_id="operator", kind="human")
    key = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(key)], check=True)
    gen4("principal", "add", "alice", "--issuer", issuer.url, "--subject", "alice-sub")
    gen4("principal", "add", "bob", "--issuer", "ssh", "--public-key", f"{key}.pub")
    for name in ("alice", "bob"):
        directory.grant(name, "auditor", by, 1)
    (home / "keys" / "issuers.json").write_text(json.dumps([{"issuer": issuer.url, "audience": "gen4", "tenant_id": "local"}]))

    now = int(time.time())

    def token() -> str:
        path = tmp_path / "token"
        path.write_text(issuer.token(iat=now, exp=now + 300, auth_time=now) + "\n")
        return str(path)

    assert code_of(gen4("whoami")) == (1, "CREDENTIAL_MISSING")
    for look in (("role", "list"), ("events", "tenant"), ("trajectory", "tenant")):
        assert code_of(gen4(*look)) == (1, "CREDENTIAL_MISSING")
    given = token()
    assert gen4("whoami", "--token-file", given)[1]["principal_id"] == "alice"
    assert gen4("role", "list", "--token-file", given)[0] == 0
    assert code_of(gen4("role", "grant", "bob", "tenant_admin", "--token-file", given)) == (1, "ROLE_NOT_HELD")
    assert code_of(gen4("role", "grant", "bob", "tenant_admin", "--token-file", given)) == (1, "JTI_REPLAY")
    directory.grant("alice", "tenant_admin", by, 1)
    assert gen4("role", "grant", "bob", "operator", "--token-file", token())[1]["granted_by"] == "alice"
    assert gen4("whoami", "--ssh-key", str(key))[1]["principal_id"] == "bob"
    assert code_of(gen4("whoami", "--ssh-key", str(key), "--token-file", given)) == (2, "CREDENTIAL_AMBIGUOUS")
    issuer.close()
    assert gen4("whoami", "--token-file", token())[0] == 3


def test_a_token_may_come_on_standard_input_or_by_the_environment(
    home: Path, gen4: Gen4, issuer: TestIssuer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gen4("whoami")
    (home / "keys" / "issuers.json").write_text(json.dumps([{"issuer": issuer.url, "audience": "gen4", "tenant_id": "local"}]))
    monkeypatch.setattr("sys.stdin", io.StringIO("x.y.z"))
    assert code_of(gen4("whoami", "--token-file", "-")) == (1, "TOKEN_MALFORMED")
    (tmp_path / "token").write_text("x" * 20_000)
    monkeypatch.setenv("GEN4_TOKEN_FILE", str(tmp_path / "token"))
    assert code_of(gen4("whoami")) == (1, "TOKEN_MALFORMED")

"""``gen4 store backup | restore | migrate | info`` as an operator types them, on both databases."""

from __future__ import annotations

import fcntl
import json
import os
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from activities.record.home import Home
from activities.record.store import HEAD, Store
from cli.local import open_local
from cli.main import run
from schemas.event import Actor, EventDraft
from schemas.task import TENANT_CHAIN, TraceKeys
from tests.record.postgres import Postgres
from workers.fabric import lock_path
from workers.settings import Settings

Gen4 = Callable[..., tuple[int, Any]]
KEYS = TraceKeys(tenant_id="local", trace_id="s", session_id="s", task_id="t")


@pytest.fixture(params=["sqlite", "postgresql"])
def settings(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
    for name in [name for name in os.environ if name.startswith("GEN4_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("GEN4_HOME", str(tmp_path / "home"))
    if request.param == "sqlite":
        yield Settings()
        return
    postgres: Postgres = request.getfixturevalue("postgres")
    name = postgres.database(request.getfixturevalue("postgres_template"))
    monkeypatch.setenv("GEN4_STORE_URL", postgres.url(name))
    yield Settings()
    postgres.drop(name)


@pytest.fixture
def gen4(settings: Settings, capsys: pytest.CaptureFixture[str]) -> Gen4:
    def call(*arguments: str) -> tuple[int, Any]:
        capsys.readouterr()
        code = run(["store", *arguments, "--json"])
        out = capsys.readouterr().out
        return code, json.loads(out) if out else None

    return call


def record(settings: Settings, key: str) -> None:
    local = open_local(settings)
    draft = EventDraft(kind="task.started", idempotency_key=key, payload={})
    local.chain.append(KEYS, Actor(principal_id="p", kind="human"), draft)
    local.close()


def unencrypted(settings: Settings) -> int:
    store = Store.open(settings.store_address)
    query = text("SELECT count(*) FROM event_payload WHERE key_id IS NULL")
    found: int = store.read(lambda connection: connection.execute(query).scalar_one())
    store.close()
    return found


def keys_of(settings: Settings, session: str) -> list[str]:
    local = open_local(settings)
    assert list(local.chain.verify(session)) == []
    found = [event.idempotency_key for event, _ in local.chain.read(session)]
    local.close()
    return found


def test_a_store_is_copied_and_put_back(settings: Settings, gen4: Gen4, tmp_path: Path) -> None:
    record(settings, "before")
    code, made = gen4("backup", str(tmp_path / "copy"))
    assert code == 0 and made["bytes"] == (tmp_path / "copy").stat().st_size > 10_000
    record(settings, "after")
    _, info = gen4("info")
    code, restored = gen4("restore", str(tmp_path / "copy"))
    assert code == 0 and restored["events_behind"] == {"local": 1}
    assert Path(restored["kept"]).parent == settings.home and Path(restored["kept"]).is_file()
    assert keys_of(settings, "s") == ["before"]
    local = open_local(settings)
    [(actor, payload)] = [
        (event.actor, payload) for event, payload in local.chain.read(TENANT_CHAIN) if event.kind == "store.restored"
    ]
    local.close()
    assert actor.kind == "human" and unencrypted(settings) == 0
    assert payload["replaced_heads_root"] == info["tenants"]["local"]["heads_root"]
    assert payload["events_replaced"] == payload["events_backup"] + 1 == info["tenants"]["local"]["events"]
    code, _ = gen4("restore", restored["kept"])
    assert code == 0 and keys_of(settings, "s") == ["before", "after"]


def test_nothing_is_restored_under_a_running_fabric(settings: Settings, gen4: Gen4, tmp_path: Path) -> None:
    record(settings, "before")
    assert gen4("backup", str(tmp_path / "copy"))[0] == 0
    with lock_path(Home.open(settings.home)).open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        code, refused = gen4("restore", str(tmp_path / "copy"))
        assert (code, refused["error"]["code"]) == (1, "STORE_IN_USE")
    assert gen4("restore", str(tmp_path / "copy"))[0] == 0


def test_mistakes_are_named(settings: Settings, gen4: Gen4, tmp_path: Path) -> None:
    record(settings, "before")
    (tmp_path / "taken").write_text("mine")
    for arguments, wanted in (
        (("backup", str(tmp_path / "taken")), "FILE_EXISTS"), (("restore", str(tmp_path / "taken")), "BACKUP_UNREADABLE"),
        (("restore", str(tmp_path / "missing")), "BACKUP_UNREADABLE"),
    ):  # fmt: skip
        code, refused = gen4(*arguments)
        assert (code, refused["error"]["code"]) == (2, wanted)
    assert keys_of(settings, "s") == ["before"]


def test_where_the_store_stands(settings: Settings, gen4: Gen4) -> None:
    assert gen4("migrate") == (0, {"version": HEAD})
    record(settings, "one")
    code, info = gen4("info")
    assert code == 0 and info["version"] == HEAD and info["address"] == settings.store_address
    assert info["tenants"]["local"]["events"] >= 1 and len(info["tenants"]["local"]["heads_root"]) == 64


def test_a_damaged_file_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("GEN4_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("GEN4_STORE_URL", raising=False)
    settings = Settings()
    record(settings, "before")
    assert run(["store", "backup", str(tmp_path / "copy")]) == 0
    Home.open(settings.home).store.write_bytes(b"damage" * 1_000)
    assert run(["store", "restore", str(tmp_path / "copy")]) == 0
    assert keys_of(settings, "s") == ["before"]
    [kept] = [path for path in settings.home.glob("store.db.replaced-*") if path.suffix.count("-") == 1]
    assert kept.read_bytes().startswith(b"damage")
    with pytest.raises(sqlite3.DatabaseError):
        sqlite3.connect(kept).execute("SELECT 1 FROM event")


@pytest.mark.parametrize("url", ["postgresql://me:hunter2@host/db", "mysql://host/db"])
def test_a_bad_address_is_a_usage_error(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GEN4_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("GEN4_STORE_URL", url)
    assert run(["store", "info", "--json"]) == 2
    shown = capsys.readouterr()
    assert json.loads(shown.out)["error"]["code"].startswith("STORE_URL") and "hunter2" not in shown.out + shown.err

"""What keeps a fabric from starting reaches the caller as the error that it is."""

from __future__ import annotations

import os
import pwd
import tarfile
import time
from pathlib import Path

import pytest

from activities.kernel.sandbox.rootfs import RootFilesystems
from activities.record.home import Home
from schemas.error import Gen4Error, InfrastructureError, InputError, Refused
from workers import fabric
from workers.fabric import read_error, write_error
from workers.settings import Settings, read_settings
from workers.supervisor import LINE_SHOWN, _tail, signer_environment, temporal_environment
from workers.toolchain import locate


@pytest.mark.parametrize("kind", [InputError, Refused, InfrastructureError, Gen4Error])
def test_an_error_reaches_the_process_that_waits(tmp_path: Path, kind: type[Gen4Error]) -> None:
    path = tmp_path / "error.json"
    write_error(path, kind("CODE", "what — is wrong", "do this"))
    found = read_error(path)
    assert type(found) is kind
    assert (found.code, found.message, found.remedy) == ("CODE", "what — is wrong", "do this")
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("text", [None, "", "{", "[]", "{}", "1", '{"kind": "refused"}', '{"kind": "other", "code": "X"}'])
def test_what_is_no_error_is_none(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "error.json").write_text(text)
    assert read_error(tmp_path / "error.json") is None


def test_a_tool_that_cannot_be_used_is_told_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEN4_TEMPORAL", "/nonexistent/temporal")
    settings = Settings(home=tmp_path / "home", cache=tmp_path / "cache")
    began = time.monotonic()
    with pytest.raises(InputError) as refused:
        fabric.start(settings, lambda line: None)
    assert time.monotonic() - began < fabric.START_TIMEOUT_S / 2
    assert refused.value.code == "TOOL_REFUSED"
    assert "GEN4_TEMPORAL" in refused.value.message and "Traceback" not in refused.value.message
    assert fabric.running(Home(settings.home)) is None


def test_temporal_learns_who_runs_it_without_the_callers_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("USER", "HOME", "LOGNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SECRET", "hunter2")
    environment = temporal_environment(Home(tmp_path))
    assert environment["HOME"] == str(tmp_path)
    assert environment["USER"] == pwd.getpwuid(os.geteuid()).pw_name
    assert "SECRET" not in environment


def test_a_signer_learns_the_way_to_its_services_and_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"https_proxy": "http://127.0.0.1:3128", "SSL_CERT_FILE": "/etc/ca.pem", "SECRET": "hunter2"}
    for name, value in given.items():
        monkeypatch.setenv(name, value)

    def told(**choices: object) -> set[str]:
        return given.keys() & signer_environment(Settings(home=tmp_path, cache=tmp_path, **choices))  # type: ignore[arg-type]

    assert told() == set()
    assert told(sigstore_config=tmp_path / "config.json") == {"https_proxy", "SSL_CERT_FILE"}
    assert told(signing_key="awskms:key") == given.keys()


def test_temporal_gets_the_number_of_a_user_without_an_account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 64_322)
    assert temporal_environment(Home(tmp_path))["USER"] == "64322"


def test_the_end_of_a_long_log_line_is_shown(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("first\n" + "x" * 5_000 + " the cause\n")
    assert _tail(tmp_path / "log") == "first | " + ("x" * 5_000 + " the cause")[-LINE_SHOWN:]


def test_a_user_without_a_home_folder_is_told_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> Path:
        raise RuntimeError("Could not determine home directory.")

    for name in ("GEN4_HOME", "GEN4_CACHE", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", none)
    with pytest.raises(InputError) as refused:
        read_settings()
    assert refused.value.code == "HOME_UNSAFE"
    assert "GEN4_HOME" in refused.value.remedy


@pytest.fixture
def tools(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("temporal", "opa"):
        monkeypatch.setenv(f"GEN4_{name.upper()}", str(locate(name).path))


@pytest.mark.usefixtures("tools")
def test_no_base_is_made_where_no_sandbox_could_use_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("DOCKER_HOST", "unix:///nonexistent/docker.sock")
    said: list[str] = []
    with pytest.raises(Refused) as refused:
        fabric.start(Settings(home=tmp_path / "home", cache=tmp_path / "cache"), said.append)
    assert refused.value.code == "SANDBOX_UNAVAILABLE"
    assert said == []


@pytest.mark.usefixtures("tools")
def test_the_operators_base_is_copied_before_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with tarfile.open(tmp_path / "root.tar", "w") as tar:
        tar.addfile(tarfile.TarInfo("etc-hostname"))
    monkeypatch.setenv("GEN4_ROOTFS_TAR", str(tmp_path / "root.tar"))
    settings, said = Settings(home=tmp_path / "home", cache=tmp_path / "cache"), list[str]()
    fabric.prepare(settings, said.append)
    assert RootFilesystems(settings.cache).present()
    assert said == ["copying the sandbox's root filesystem …"]
    fabric.prepare(settings, said.append)
    assert len(said) == 1

"""What ``gen4 doctor`` says about users and sandboxes, and when it says that nothing can run here."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cli.doctor import Finding, examine, runnable
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

"""Settings reach the processes that a fabric starts, whole."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from workers.fabric import settings_environment
from workers.settings import Settings, read_settings


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in [name for name in os.environ if name.startswith(("GEN4_", "TEMPORAL_"))]:
        monkeypatch.delenv(name)
    return monkeypatch


def test_a_child_process_reads_what_its_parent_read(bare: pytest.MonkeyPatch, tmp_path: Path) -> None:
    given = {
        "GEN4_HOME": str(tmp_path), "GEN4_STORE_URL": "postgresql://gen4@db/gen4", "GEN4_TENANT": "acme",
        "GEN4_REPOSITORY_ROOTS": str(tmp_path), "GEN4_REPOSITORY_HOSTS": "git.example.org", "GEN4_TEMPORAL_PORT": "7001",
    }  # fmt: skip
    for name, value in given.items():
        bare.setenv(name, value)
    settings = read_settings()
    for name in given:
        bare.delenv(name)
    for name, value in settings_environment(settings).items():
        bare.setenv(name, value)
    assert read_settings() == settings and settings.store_address == given["GEN4_STORE_URL"]


def test_the_store_of_a_fabric_that_names_none_is_a_file_of_its_home(bare: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for url in ({}, {"store_url": None}):
        assert Settings(home=tmp_path, **url).store_address == f"sqlite:///{tmp_path}/store.db"
    bare.setenv("GEN4_STORE_URL", " ".strip())
    assert Settings(home=tmp_path).store_address == f"sqlite:///{tmp_path}/store.db"

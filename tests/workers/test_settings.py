"""Settings reach the processes that a fabric starts, whole."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic.fields import FieldInfo

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


def test_no_setting_is_left_behind(bare: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Every one that exists, each with another value than its default."""
    path = str(tmp_path)
    others: dict[str, Any] = {
        "store_url": "postgresql://gen4@db/gen4", "temporal_address": "temporal:7233", "temporal_ui": "https://ui.example",
        "signing_key": "awskms:alias/gen4", "signing_identity": "https://ci.example/job", "repository_hosts": ("git.example",),
        "repository_roots": (path,), "tenant": "acme", "namespace": "acme",
    }  # fmt: skip
    values = {name: others.get(name) or _another(field, path) for name, field in Settings.model_fields.items()}
    settings = Settings(**values)
    fields = Settings.model_fields.items()
    assert all(getattr(settings, name) != field.get_default(call_default_factory=True) for name, field in fields)
    for name, value in settings_environment(settings).items():
        bare.setenv(name, value)
    assert read_settings() == settings


def _another(field: FieldInfo, path: str) -> Any:
    choices = get_args(field.annotation)
    if field.annotation is int or int in choices:
        return (field.default or 7_000) + 1
    return path if field.annotation is Path or Path in choices else choices[-1]


def test_the_store_of_a_fabric_that_names_none_is_a_file_of_its_home(bare: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for url in ({}, {"store_url": None}):
        assert Settings(home=tmp_path, **url).store_address == f"sqlite:///{tmp_path}/store.db"
    bare.setenv("GEN4_STORE_URL", " ".strip())
    assert Settings(home=tmp_path).store_address == f"sqlite:///{tmp_path}/store.db"

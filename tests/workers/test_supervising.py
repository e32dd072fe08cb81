"""What dies is started again, but for a worker that says itself that it must not run."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from activities.record.home import Home
from schemas.error import InputError, Refused
from workers.fabric import (
    REFUSED_EXIT_CODE,
    UNAVAILABLE_EXIT_CODE,
    WORKER_REFUSED,
    FabricState,
    _environment,
    settings_environment,
    state_path,
    write_error,
)
from workers.settings import Settings, read_settings
from workers.supervisor import Child, Supervisor


class Yard:
    """A supervisor over one child named ``worker`` that ends at once, by ``code``."""

    def __init__(self, folder: Path, code: int) -> None:
        self.home = Home.open(folder / "home")
        self.supervisor = Supervisor(Settings(home=self.home.root, cache=folder / "cache"), self.home)
        log = self.home.logs / "worker.log"
        self.child = Child("worker", [sys.executable, "-c", f"raise SystemExit({code})"], {}, lambda: True, log)
        self.supervisor._children = [self.child]
        self.supervisor._state = FabricState(
            pid=1, temporal_address="127.0.0.1:1", ui_url="", opa_url="", policy_digest="", namespace="default",
            home=str(self.home.root), repository_roots=(), sandbox="auto",
        )  # fmt: skip
        self.child.start()

    def look(self, times: int) -> None:
        for _ in range(times):
            assert self.child.process is not None
            self.child.process.wait(10)
            self.supervisor._restart_dead()

    @property
    def state(self) -> FabricState:
        return FabricState.model_validate_json(state_path(self.home).read_bytes())


def test_a_worker_that_refuses_is_left_alone_and_its_reason_is_kept(tmp_path: Path) -> None:
    yard = Yard(tmp_path, REFUSED_EXIT_CODE)
    write_error(yard.home.run / WORKER_REFUSED, Refused("NAMESPACE_TAKEN", "it belongs to another tenant", "use your own"))
    first = yard.child.pid
    yard.look(3)
    assert (yard.child.pid, yard.child.restarts) == (first, 0)
    assert yard.state.refused == "NAMESPACE_TAKEN: it belongs to another tenant — use your own"


@pytest.mark.parametrize("code", [1, UNAVAILABLE_EXIT_CODE])
def test_a_worker_that_fails_or_lacks_something_for_now_is_started_again(tmp_path: Path, code: int) -> None:
    yard = Yard(tmp_path, code)
    yard.look(2)
    assert yard.child.restarts == 2
    assert yard.state.refused is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("GEN4_TEMPORAL_ADDRESS", "localhost"), ("GEN4_TEMPORAL_ADDRESS", "http://h:7233"), ("GEN4_TEMPORAL_ADDRESS", "h:7233/x"),
        ("GEN4_TEMPORAL_ADDRESS", "u@h:7233"), ("GEN4_TEMPORAL_UI", "h:8233"), ("GEN4_TEMPORAL_UI", "javascript:1"),
        ("GEN4_REAPER_S", "-1"), ("GEN4_REAPER_S", "1.5"), ("GEN4_RECONCILIATION_S", "86401"), ("GEN4_CHECKPOINT_S", "often"),
    ],
)  # fmt: skip
def test_a_setting_that_makes_no_sense_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(InputError) as refused:
        read_settings()
    assert refused.value.code == "SETTINGS_INVALID"
    assert name in refused.value.message


def test_settings_reach_the_child_processes_as_they_were_given(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    given = Settings(
        home=tmp_path, cache=tmp_path, temporal_address="[::1]:7233", temporal_ui="https://ui.example/temporal", reaper_s=0,
        reconciliation_s=7, checkpoint_s=8,
    )  # fmt: skip
    for name, value in settings_environment(given).items():
        monkeypatch.setenv(name, value)
    assert read_settings() == given


def test_credentials_of_a_server_go_to_children_only_where_it_is_external(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TEMPORAL_API_KEY", "k")
    monkeypatch.setenv("TEMPORAL_ADDRESS", "elsewhere:7233")
    own = _environment(Settings(home=tmp_path, cache=tmp_path))
    external = _environment(Settings(home=tmp_path, cache=tmp_path, temporal_address="h:7233"))
    assert "TEMPORAL_API_KEY" not in own and external["TEMPORAL_API_KEY"] == "k"
    assert "TEMPORAL_ADDRESS" not in external

"""A backend is used only if it is there and passes its probes; otherwise the refusal says what to do."""

from __future__ import annotations

import dataclasses
import json
import os
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from activities.kernel.sandbox import backends, probes
from activities.kernel.sandbox.backends import choose_backend, probed
from activities.kernel.sandbox.bubblewrap import BubblewrapBackend
from activities.kernel.sandbox.docker import DockerBackend
from activities.kernel.sandbox.owner import alive, owner
from activities.kernel.sandbox.port import Probe, RootFilesystem, SandboxProcess, SandboxSpec
from schemas.error import InfrastructureError, Refused
from schemas.testing import SandboxFacts


class LeakyBackend(BubblewrapBackend):
    """Real sandboxes whose probe found an open network."""

    def probe(self, root: RootFilesystem) -> tuple[Probe, ...]:
        return tuple(dataclasses.replace(one, ok=one.name != "network") for one in super().probe(root))


class CountingBackend(BubblewrapBackend):
    probes = 0

    def probe(self, root: RootFilesystem) -> tuple[Probe, ...]:
        self.probes += 1
        return super().probe(root)

    def facts(self) -> SandboxFacts:
        return super().facts().model_copy(update={"version": self.claimed}) if self.claimed else super().facts()

    claimed = ""


@pytest.fixture
def own_root(root: RootFilesystem, tmp_path: Path) -> RootFilesystem:
    """The same root, with a cache of probes of its own."""
    folder = tmp_path / "root"
    folder.symlink_to(root.path)
    return dataclasses.replace(root, path=folder)


def test_a_failed_probe_refuses_the_backend(own_root: RootFilesystem, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "BACKENDS", {"bubblewrap": LeakyBackend})
    with pytest.raises(Refused) as refused:
        choose_backend(own_root)
    assert refused.value.code == "SANDBOX_UNAVAILABLE"
    assert "bubblewrap: network" in refused.value.message
    assert "apt-get install bubblewrap" in refused.value.remedy


def test_a_probe_that_did_not_report_counts_as_failed() -> None:
    assert {one.name for one in probes.failures(())} == probes.EXPECTED


def test_no_backend_at_all_is_refused(own_root: RootFilesystem, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    with pytest.raises(Refused) as refused:
        choose_backend(own_root)
    assert refused.value.code == "SANDBOX_UNAVAILABLE"
    assert "bubblewrap: bwrap is not installed" in refused.value.message
    assert "docker: docker: no engine answers" in refused.value.message or "no engine answers" in refused.value.message


@pytest.mark.parametrize("host", ["tcp://127.0.0.1:2375", "ssh://me@example"])
def test_an_engine_elsewhere_is_refused(host: str) -> None:
    with pytest.raises(InfrastructureError) as refused:
        DockerBackend(host).facts()
    assert refused.value.code == "SANDBOX_UNAVAILABLE"


def test_an_unknown_program_is_no_bubblewrap(tmp_path: Path, own_root: RootFilesystem) -> None:
    with pytest.raises(InfrastructureError) as refused:
        BubblewrapBackend(str(tmp_path / "bwrap")).facts()
    assert refused.value.code == "SANDBOX_UNAVAILABLE"


def test_a_bubblewrap_that_fails_is_an_infrastructure_error(open_folder: Path, own_root: RootFilesystem) -> None:
    broken = open_folder / "bwrap"
    broken.write_text("#!/bin/sh\necho 'no user namespaces' >&2\nexit 1\n")
    broken.chmod(0o755)
    with pytest.raises(InfrastructureError) as refused:
        BubblewrapBackend(str(broken)).probe(own_root)
    assert refused.value.code == "SANDBOX_START_FAILED"


def test_probes_are_run_once_until_something_changes(own_root: RootFilesystem) -> None:
    backend = CountingBackend()
    first = probed(backend, own_root)
    assert probed(backend, own_root) == first
    assert backend.probes == 1
    backend.claimed = "bubblewrap 99"
    probed(backend, own_root)
    assert backend.probes == 2


def test_failures_are_not_remembered(own_root: RootFilesystem) -> None:
    probed(LeakyBackend(), own_root)
    assert not list(own_root.path.parent.glob("probes-*"))


def test_a_damaged_cache_is_ignored(own_root: RootFilesystem) -> None:
    backend = CountingBackend()
    (own_root.path.parent / f"probes-bubblewrap-{os.geteuid()}.json").write_text("{")
    assert not probes.failures(probed(backend, own_root))
    assert json.loads((own_root.path.parent / f"probes-bubblewrap-{os.geteuid()}.json").read_text())["probes"]


def test_an_owner_is_told_from_one_that_reuses_its_number() -> None:
    mark = owner()
    boot, pid, started = mark.split(":")
    assert alive(mark)
    assert not alive(f"{boot}:{pid}:{int(started) + 1}")
    assert not alive(f"{'0' * 36}:{pid}:{started}")
    assert not alive("") and not alive("x:y:z")


def test_both_backends_keep_the_protocol() -> None:
    def start(backend: BubblewrapBackend | DockerBackend, spec: SandboxSpec) -> AbstractContextManager[SandboxProcess]:
        return backend.start(spec)

    assert {BubblewrapBackend.name, DockerBackend.name} == {"bubblewrap", "docker"}
    assert callable(start)

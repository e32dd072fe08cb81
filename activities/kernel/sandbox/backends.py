"""Which backend a worker uses: the first that is there and passes every probe. There is no unsandboxed mode."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

from schemas.canonical import jcs_sha256
from schemas.error import Gen4Error, InfrastructureError, Refused

from . import probes
from .bubblewrap import BubblewrapBackend
from .docker import DockerBackend
from .port import Probe, RootFilesystem, SandboxBackend

Preference = Literal["auto", "docker", "bubblewrap"]

BACKENDS: dict[str, Callable[[], SandboxBackend]] = {"bubblewrap": BubblewrapBackend, "docker": DockerBackend}
"""In the order in which ``auto`` tries them: bubblewrap starts faster and needs no daemon that is root."""

REMEDY = (
    "run: apt-get install bubblewrap — or start a Docker engine that this user may open (DOCKER_HOST names its socket);"
    " then run `gen4 doctor`"
)


def choose_backend(root: RootFilesystem, preference: Preference = "auto") -> SandboxBackend:
    """A backend that passed its probes on this machine since it was started.

    Raises:
        Refused: SANDBOX_UNAVAILABLE, with what each backend lacks.
    """
    reasons: list[str] = []
    for backend in _present(preference, reasons):
        try:
            failed = probes.failures(probed(backend, root))
        except Gen4Error as error:
            reasons.append(f"{backend.name}: {error.message}")
            continue
        if not failed:
            return backend
        reasons.append(f"{backend.name}: " + ", ".join(f"{probe.name} ({probe.detail})" for probe in failed))
    raise _none(reasons)


def require_backend(preference: Preference = "auto") -> None:
    """Refuse at once where no backend is there at all; needs no root filesystem, and says nothing about probes.

    Raises:
        Refused: SANDBOX_UNAVAILABLE, with what each backend lacks.
    """
    reasons: list[str] = []
    if next(_present(preference, reasons), None) is None:
        raise _none(reasons)


def _present(preference: Preference, reasons: list[str]) -> Iterator[SandboxBackend]:
    """The backends that answer, in order; why another does not goes to ``reasons``."""
    for name, make in BACKENDS.items():
        if preference not in ("auto", name):
            continue
        try:
            backend = make()
            backend.facts()
        except Gen4Error as error:
            reasons.append(f"{name}: {error.message}")
            continue
        yield backend


def _none(reasons: list[str]) -> Refused:
    return Refused("SANDBOX_UNAVAILABLE", "no sandbox can be used — " + "; ".join(reasons), REMEDY)


def probed(backend: SandboxBackend, root: RootFilesystem) -> tuple[Probe, ...]:
    """The backend's probes, from the cache when nothing that they depend on has changed since."""
    facts = backend.facts()
    key = jcs_sha256({"boot": _boot(), "uid": os.geteuid(), "root": root.digest, "facts": facts.model_dump(mode="json")})
    path = root.path.parent / f"probes-{backend.name}-{os.geteuid()}.json"
    known = _cached(path, key)
    if known is not None:
        return known
    found = backend.probe(root)
    if not probes.failures(found):
        _store(path, key, found)
    return found


def _cached(path: Path, key: str) -> tuple[Probe, ...] | None:
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    if value.get("key") != key:
        return None
    return tuple(Probe(one["name"], one["ok"], one["detail"]) for one in value["probes"])


def _store(path: Path, key: str, found: tuple[Probe, ...]) -> None:
    partial = path.with_name(f"{path.name}.{os.getpid()}")
    rows = [{"name": probe.name, "ok": probe.ok, "detail": probe.detail} for probe in found]
    try:
        partial.write_text(json.dumps({"key": key, "probes": rows}))
        partial.replace(path)
    except OSError as error:
        raise InfrastructureError(
            "SANDBOX_UNAVAILABLE", f"cannot write {path.name}: {error}", "free space, or choose another GEN4_HOME"
        ) from error


def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()

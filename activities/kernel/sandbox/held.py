"""Sandboxes that one caller holds: they end with him, and he may be told what they use."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from schemas.error import InfrastructureError
from schemas.testing import SandboxFacts

from .port import CpuUsed, Probe, RootFilesystem, SandboxBackend, SandboxProcess, SandboxSpec


class Held:
    """A ``SandboxBackend`` whose sandboxes :meth:`kill` ends, also those that are just starting; then none starts any more."""

    def __init__(self, backend: SandboxBackend) -> None:
        self.name: Literal["docker", "bubblewrap"] = backend.name
        self._backend = backend
        self._lock = threading.Lock()
        self._running: set[SandboxProcess] = set()
        self._ended = CpuUsed()
        self.over = False

    def facts(self) -> SandboxFacts:
        return self._backend.facts()

    @contextmanager
    def start(self, spec: SandboxSpec) -> Iterator[SandboxProcess]:
        """As the port says; besides:

        Raises:
            InfrastructureError: SANDBOX_KILLED once its caller has ended it.
        """
        self._require()
        process: SandboxProcess | None = None
        try:
            with self._backend.start(spec) as process:
                with self._lock:
                    self._running.add(process)
                self._require()
                yield process
        finally:
            if process is not None:
                with self._lock:
                    self._running.discard(process)
                    used = process.cpu()
                    self._ended = CpuUsed(self._ended.ms + used.ms, used.source)
        self._require()

    def kill(self) -> None:
        """From any thread, at any time; returns at once."""
        self.over = True
        with self._lock:
            running = list(self._running)
        for process in running:
            process.kill()

    def cpu(self) -> CpuUsed:
        """Of all that ran and runs."""
        with self._lock:
            running = [process.cpu() for process in self._running]
            return CpuUsed(
                self._ended.ms + sum(used.ms for used in running), running[0].source if running else self._ended.source
            )

    def probe(self, root: RootFilesystem) -> tuple[Probe, ...]:
        return self._backend.probe(root)

    def reap(self, older_than_s: float) -> int:
        return self._backend.reap(older_than_s)

    def _require(self) -> None:
        if self.over:
            raise InfrastructureError("SANDBOX_KILLED", "its caller ended it or is gone", "nothing was judged; it is tried again")

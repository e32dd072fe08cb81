"""Scans as a worker has them made: an executor scans and signs, and the same trees are scanned once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from pydantic import ValidationError

from activities.record.blobs import BlobStore
from activities.record.home import Home
from activities.record.whole_files import write_whole
from activities.testbed.environment import Environments
from activities.testbed.harness import harness_version, pinned_requirements
from activities.testbed.scanning import SCANNERS, Missing, scanners_sha256
from schemas.canonical import jcs_sha256
from schemas.error import Refused
from schemas.model import Digest
from schemas.regression import ScannedTree, ScanTree

Heartbeat = Callable[[], None]


class ScanExecutor(Protocol):
    def scan(self, request: ScanTree, scanners: Digest | Missing, heartbeat: Heartbeat, *, tenant_id: str) -> ScannedTree:
        """``scanners``: an environment that the executor has, or why there is none. Raises InfrastructureError."""
        ...


class Scans:
    """Scans of one tenant's trees. Safe to use from several threads and processes.

    Args:
        machine: names base and executor; what another one found, or signed, is not taken for it.
    """

    def __init__(
        self, home: Home, blobs: BlobStore, environments: Environments, executor: ScanExecutor, machine: tuple[str, ...]
    ) -> None:
        self._folder = home.root / "scans" / blobs.tenant_id
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._blobs, self._environments, self._executor, self._machine = blobs, environments, executor, machine

    def scan(self, request: ScanTree, heartbeat: Heartbeat) -> ScannedTree:
        """Raises InfrastructureError where the index cannot be reached or no sandbox started: then nothing was learnt."""
        file = self._file(request)
        if not request.fresh and (seen := self._remembered(file)) is not None:
            return seen
        scanned = self._executor.scan(request, self._scanners(heartbeat), heartbeat, tenant_id=self._blobs.tenant_id)
        if scanned.findings is not None:
            write_whole(file, scanned.model_dump_json().encode())
        return scanned

    def _scanners(self, heartbeat: Heartbeat) -> Digest | Missing:
        try:
            return f"sha256:{self._environments.tools(pinned_requirements(SCANNERS), heartbeat).name}"
        except Refused as error:
            return Missing(error.message)

    def _file(self, request: ScanTree) -> Path:
        """Named by all that decides what is found and what a receipt says."""
        how = [*self._machine, harness_version(), scanners_sha256()]
        return self._folder / f"{jcs_sha256({'how': how, **request.model_dump(mode='json', exclude={'fresh'})})}.json"

    def _remembered(self, file: Path) -> ScannedTree | None:
        try:
            seen = ScannedTree.model_validate_json(file.read_bytes())
        except (OSError, ValidationError):
            return None
        whole = all(ref is not None and self._blobs.path(ref).is_file() for ref in (seen.findings, seen.receipt))
        return seen if whole else None

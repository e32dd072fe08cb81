"""Tenants that share a home, which they should not if they distrust each other (threats 2.5)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from activities.kernel.sandbox.port import RootFilesystem, SandboxBackend
from activities.record.blobs import BlobStore
from activities.testbed.environment import Environments
from schemas.error import InfrastructureError
from schemas.testing import Environment
from tests.testbed.conftest import Bed


@pytest.fixture
def stranger(bed: Bed, root: RootFilesystem, backend: SandboxBackend) -> Iterator[Environments]:
    """Another tenant in the same home, with the same trees and the same base."""
    yield Environments(bed.home, BlobStore(bed.home.blobs, "stranger"), bed.objects, root, backend)


def test_an_environment_is_not_found_by_another_tenant(bed: Bed, plain: Environment, stranger: Environments) -> None:
    assert bed.environments.path(plain.environment_digest).is_dir()
    with pytest.raises(InfrastructureError) as caught:
        stranger.path(plain.environment_digest)
    assert caught.value.code == "BLOB_MISSING"


def test_what_another_tenant_resolved_is_resolved_again(bed: Bed, plain: Environment, stranger: Environments) -> None:
    tree = bed.tree({"one.py": "X = 1\n"})
    mine = stranger.prepare(tree, (), lambda: None)
    assert stranger.path(mine.environment_digest) != bed.environments.path(plain.environment_digest)


def test_a_blob_of_another_tenant_is_missing(bed: Bed, plain: Environment) -> None:
    with pytest.raises(InfrastructureError) as caught:
        BlobStore(bed.home.blobs, "another").get(plain.lock)
    assert caught.value.code == "BLOB_MISSING"


def test_folders_of_tenants_are_private(bed: Bed, stranger: Environments) -> None:
    folders: list[Path] = [path for path in bed.home.environments.iterdir() if path.is_dir()]
    assert len(folders) >= 2 and all(path.stat().st_mode & 0o077 == 0 for path in folders)

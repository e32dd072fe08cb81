"""A real fabric in a throw-away home: Temporal, OPA, worker and sandbox, started and stopped here."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.harness import Fabric, closed, git


@pytest.fixture(scope="session")
def fabric(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fabric]:
    home = Path(tempfile.mkdtemp(prefix="gen4-e2e-home-"))
    repositories = tmp_path_factory.mktemp("repositories")
    kept = {key: value for key, value in os.environ.items() if not key.startswith("GEN4_") or key == "GEN4_CACHE"}
    made = Fabric(
        home / "gen4", repositories, kept | {"GEN4_HOME": str(home / "gen4"), "GEN4_REPOSITORY_ROOTS": str(repositories)}
    )
    up = made.gen4("up", "--json")
    assert up.code == 0, up.err
    yield made
    made.gen4("down")
    shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(scope="session")
def approved(fabric: Fabric) -> dict[str, Any]:
    """One session that went all the way by branch; several tests look at it."""
    repository = fabric.repository("shop")
    head = git(repository, "rev-parse", "HEAD")
    done = fabric.gen4(
        "remediate",
        "-r",
        str(repository),
        "-g",
        "clamp returns the upper bound for small values",
        "--until",
        "approval",
        "--json",
    )
    assert done.code == 0, done.err
    started = done.json
    digest = started["approval"]["action_digest"]
    approve = fabric.gen4("approve", started["workflow_id"], "--digest", digest, "--reason", "read it", "--json")
    assert approve.code == 0, approve.err
    ended = fabric.wait_for(started["workflow_id"], closed)
    return {
        "repository": repository,
        "head": head,
        "workflow_id": started["workflow_id"],
        "digest": digest,
        "result": ended["result"],
    }

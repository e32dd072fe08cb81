"""One fabric for all workflow tests."""

from __future__ import annotations

import subprocess
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.harness import git, write_repository
from tests.policy.running import RunningOpa, free_port
from tests.workflows.harness import BUGGY, LIB, Fabric
from workers.supervisor import PROMPT, SEARCH_ATTRIBUTES
from workers.toolchain import locate

TEST = "def test_answer():\n    from lib import answer\n\n    assert answer == 42\n\n\ndef test_other():\n    pass\n"


@pytest.fixture(scope="session")
def fabric(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fabric]:
    port = free_port()
    argv = [
        str(locate("temporal").path), "server", "start-dev", "--headless", "--ip", "127.0.0.1", "--port", str(port),
        "--log-level", "error", *PROMPT,
        *(word for name in SEARCH_ATTRIBUTES for word in ("--search-attribute", f"{name}=Keyword")),
    ]  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="gen4-workflows-") as folder, RunningOpa(tmp_path_factory.mktemp("opa")) as opa:
        server = subprocess.Popen(argv, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            running = Fabric(f"127.0.0.1:{port}", opa.engine, Path(folder))
            try:
                yield running
            finally:
                running.stop()
        finally:
            server.terminate()
            server.wait(timeout=20)


@pytest.fixture
def repository(fabric: Fabric) -> Callable[..., Path]:
    """``repository(lib=…, bare=…)``: a repository whose only product file is ``lib.py``."""

    def make(lib: bytes = BUGGY, *, bare: bool = False, proposals: list[bytes] | None = None) -> Path:
        path = fabric.repositories / uuid.uuid4().hex
        # Its own name in the tree gives every repository a tree of its own.
        write_repository(path, {LIB: lib.decode(), "tests/test_lib.py": TEST, "NAME": path.name})
        if proposals is not None:
            fabric.engine.proposals[git(path, "rev-parse", "HEAD^{tree}")] = proposals
        if not bare:
            return path
        git(fabric.repositories, "clone", "-q", "--bare", str(path), f"{path}.git")
        return Path(f"{path}.git")

    return make

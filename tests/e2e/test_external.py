"""A Temporal server that somebody else runs: two tenants side by side on it, and what keeps a fabric from using it."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.harness import Fabric
from tests.policy.running import free_port
from tests.record.postgres import running_postgres
from workers.supervisor import PROMPT
from workers.toolchain import locate

NAMESPACES = ("red", "blue")
PASSING = {"lib.py": "answer = 42\n", "test_lib.py": "from lib import answer\n\n\ndef test_answer():\n    assert answer == 42\n"}
Make = Callable[..., Fabric]


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server with two namespaces, that knows nothing of us."""
    port = free_port()
    argv = [str(locate("temporal").path), "server", "start-dev", "--headless", "--ip", "127.0.0.1", "--port", str(port)]
    argv += ["--log-level", "error", *PROMPT, *(word for name in NAMESPACES for word in ("--namespace", name))]
    folder = tmp_path_factory.mktemp("temporal")
    server = subprocess.Popen(argv, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    yield f"127.0.0.1:{port}"
    server.terminate()
    server.wait(20)


@contextmanager
def made(address: str, repositories: Path) -> Iterator[Make]:
    """``make(namespace, **settings)``: a fabric of a home of its own, stopped at the end."""
    with ExitStack() as stack:

        def make(namespace: str, **settings: str) -> Fabric:
            home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gen4-e2e-home-", ignore_cleanup_errors=True)))
            kept = {key: value for key, value in os.environ.items() if not key.startswith("GEN4_") or key == "GEN4_CACHE"}
            own = {
                "GEN4_HOME": str(home / "gen4"), "GEN4_REPOSITORY_ROOTS": str(repositories), "GEN4_TEMPORAL_ADDRESS": address,
                "GEN4_NAMESPACE": namespace, "GEN4_TENANT": namespace, "GEN4_REAPER_S": "1", "GEN4_RECONCILIATION_S": "1",
            }  # fmt: skip
            fabric = Fabric(home / "gen4", repositories, kept | own | settings)
            stack.callback(fabric.gen4, "down")
            return fabric

        yield make


@pytest.fixture
def make(address: str, tmp_path: Path) -> Iterator[Make]:
    with made(address, tmp_path) as make:
        yield make


def up(fabric: Fabric) -> Any:
    done = fabric.gen4("up", "--json")
    assert done.code == 0, done.err
    return done.json


def schedules_of(fabric: Fabric) -> dict[str, Any]:
    return {one["id"]: one for one in fabric.status()["schedules"]}


def wait_for_schedules(fabric: Fabric, names: tuple[str, ...]) -> dict[str, Any]:
    deadline = time.monotonic() + 30
    while True:
        found = schedules_of(fabric)
        if all(found[name]["status"] for name in names):
            return found
        assert time.monotonic() < deadline, found
        time.sleep(0.5)


def test_two_tenants_work_side_by_side_in_one_database(make: Make, tmp_path: Path) -> None:
    with ExitStack() as stack:
        database = stack.enter_context(running_postgres())
        settings = {
            "GEN4_STORE_URL": database.url(database.database()), "GEN4_TEMPORAL": str(tmp_path / "no-such-program"),
        }  # fmt: skip
        fabrics = [make(name, **settings) for name in NAMESPACES]
        stack.callback(lambda: [fabric.gen4("down") for fabric in fabrics])
        for fabric in fabrics:
            state = up(fabric)
            assert (state["external"], set(state["processes"])) == (True, {"opa", "executor", "signer", "worker"})
        path = fabrics[0].repository("shared", PASSING)
        ids = []
        for fabric in fabrics:
            done = fabric.gen4("remediate", "--repository", str(path), "--goal", "x", "--until", "closed", "--json")
            assert done.json["rejection"]["codes"] == ["NO_FAILING_TEST"], done.err
            ids.append(done.json["workflow_id"])
        for mine, other, fabric in (*zip(ids, reversed(ids), fabrics, strict=True),):
            assert fabric.gen4("events", mine, "--verify").code == 0
            assert fabric.gen4("session", other).code != 0, "another namespace's session"
            assert "session.opened" not in fabric.gen4("events", other).out
            found = wait_for_schedules(fabric, ("gen4-reaper", "gen4-reconciliation"))
            assert not any(one["failed"] for one in found.values()), found
        refused = make("red", GEN4_TENANT="green", **settings).gen4("up")
        assert (refused.code, "NAMESPACE_TAKEN" in refused.err) == (1, True), refused.err


def test_a_namespace_that_the_server_lacks_is_refused_with_what_to_do(make: Make) -> None:
    refused = make("absent").gen4("up")
    assert refused.code == 1
    assert "NAMESPACE_MISSING" in refused.err and "temporal operator namespace create -n absent" in refused.err

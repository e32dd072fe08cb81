"""Suites that flake by order, hash seed, time, network, port and temporary path, run for real and explained."""

from __future__ import annotations

import pytest

from activities.verify.diagnosing import ObservedRun, TreeRuns, flakes_of
from schemas.capabilities import RunTests
from schemas.test_command import parse_test_command
from schemas.testing import Environment, Flake, RunVariant
from tests.testbed.conftest import LIMITS, Bed, backend, bed, plain, root

__all__ = ["backend", "bed", "plain", "root"]

COMMIT_TIME = 1_700_000_000
TIMES = 20
"""Of this many tests that toss a coin, two runs agree on all about once in a million."""
SUITE = f"""
import os, random, socket, subprocess, sys, tempfile, time
import pytest

SEEN = []


def test_first(): SEEN.append(1)


def test_order(): assert SEEN


def test_seed():
    code = "print(hash('gen4'))"
    told = subprocess.run([sys.executable, "-c", code], env={{"PYTHONHASHSEED": "0"}}, capture_output=True, check=True)
    assert int(told.stdout) == hash("gen4")


def test_time(): assert time.time() > {COMMIT_TIME + 3600}


@pytest.mark.parametrize("n", range({TIMES}))
def test_network(n):
    try: socket.create_connection(("192.0.2.1", 9), timeout=0.01)
    except OSError: pass
    assert os.urandom(1)[0] < 128


@pytest.mark.parametrize("n", range({TIMES}))
def test_port(n):
    with socket.socket() as server:
        server.bind(("127.0.0.1", random.SystemRandom().randrange(20_000, 60_000)))
        assert server.getsockname()[1] % 2


@pytest.mark.parametrize("n", range({TIMES}))
def test_path(n): assert tempfile.mkdtemp()[-1] < "j"


def test_steady(): pass
"""


@pytest.fixture(scope="module")
def runs(bed: Bed, plain: Environment) -> TreeRuns:
    tree = bed.tree({"test_suite.py": SUITE})

    def run(**varied: object) -> ObservedRun:
        request = RunTests(
            tree=tree, environment=plain, plan=parse_test_command(()), limits=LIMITS, commit_time=COMMIT_TIME,
            purpose="diagnosis", variant=RunVariant.model_validate(varied),
        )  # fmt: skip
        observed = bed.testbed.observe(request, lambda: None)
        assert observed.run.codes == (), observed.run.message
        return ObservedRun(observed.run, observed.outcomes)

    standing = {"clock": COMMIT_TIME}
    return TreeRuns([run(), run()], [run(hash_seed=1), run(order="reversed"), run(**standing), run(**standing)])


@pytest.fixture(scope="module")
def flakes(runs: TreeRuns) -> list[Flake]:
    return list(flakes_of(runs, runs))


@pytest.mark.parametrize("cause", ["order", "seed", "time"])
def test_what_a_run_varies_is_named(flakes: list[Flake], cause: str) -> None:
    assert {flake.causes for flake in flakes if flake.nodeid.endswith(f"::test_{cause}")} == {(cause,)}


@pytest.mark.parametrize(("test", "cause"), [("network", "network"), ("port", "unknown"), ("path", "unknown")])
def test_chance_is_told_from_what_runs_vary(runs: TreeRuns, flakes: list[Flake], test: str, cause: str) -> None:
    """Where equal runs disagree. Two coins that fall alike under a standing clock look as if that had done it."""
    one, other = runs.plain
    found = [flake for flake in flakes if f"::test_{test}[" in flake.nodeid and one.of(flake.nodeid) != other.of(flake.nodeid)]
    assert any(flake.causes[0] == cause for flake in found)
    assert all(set(flake.causes) <= {cause, "time"} for flake in found)


def test_the_steady_test_is_no_flake_and_nothing_is_introduced(flakes: list[Flake]) -> None:
    assert not any(flake.introduced or flake.nodeid.endswith(("::test_steady", "::test_first")) for flake in flakes)

"""A search or a test run that somebody stops ends with the reason: no verdict on an edit, no test result, comes of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import pytest

from activities.explore.deciding import ForkServer
from activities.kernel.sandbox.running import Cause, KnownBackend, Running
from schemas.capabilities import RunTests
from schemas.error import Gen4Error, InfrastructureError, Stopped
from schemas.test_command import parse_test_command
from schemas.testing import Limits
from tests.explore.bed import COMMIT_TIME, EXAMPLES, IMPATIENT, Bed, Case, files_below

SWITCH, LOST = Cause("KILL_SWITCH", "leak"), Cause("STORE_LOST", "no answer")


@pytest.fixture(scope="module")
def route(bed: Bed) -> Case:
    """A bug that loops for ever, so that there is time to stop its search."""
    return bed.case(files_below(EXAMPLES / "route"), limits=IMPATIENT)


@pytest.fixture
def running(bed: Bed) -> Iterator[Running]:
    known = Running()
    backend = bed.testbed._backend
    bed.testbed._backend = KnownBackend(backend, known)
    yield known
    bed.testbed._backend = backend


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Callable[[], bool]:
    """Whether the search waits for the verdict on an edit."""
    servers: list[ForkServer] = []
    submit = ForkServer.submit
    monkeypatch.setattr(ForkServer, "submit", lambda self, *edit: (servers.append(self), submit(self, *edit)))
    return lambda: bool(servers and servers[-1]._asked)


def at_beat(number: int, act: Callable[[], object], counted: Callable[[], bool] = lambda: True) -> Callable[[], None]:
    beats = iter(range(10**9))

    def beat() -> None:
        if counted() and next(beats) == number:
            act()

    return beat


@pytest.mark.parametrize(("cause", "kind", "code"), [
    (SWITCH, Stopped, "KILL_SWITCH"), (LOST, InfrastructureError, "SANDBOX_KILLED"),
])  # fmt: skip
def test_killed_tests_are_no_failing_tests(bed: Bed, running: Running, cause: Cause, kind: type[Gen4Error], code: str) -> None:
    files = {"test_slow.py": b"import time\ndef test_quick(): pass\ndef test_slow(): time.sleep(60)\n"}
    assert bed.environment is not None
    request = RunTests(
        tree=bed.tree(files), environment=bed.environment, plan=parse_test_command(()), commit_time=COMMIT_TIME, purpose="base",
        limits=Limits(memory_mb=1_024, disk_mb=256),
    )  # fmt: skip
    with pytest.raises(kind) as caught:
        bed.testbed.run(request, at_beat(2, lambda: running.kill(lambda who: cause)))
    assert caught.value.code == code


@pytest.mark.parametrize(("cause", "code"), [(SWITCH, "KILL_SWITCH"), (LOST, "SANDBOX_KILLED")])
def test_a_killed_search_blames_no_edit_and_starts_no_other_server(
    bed: Bed, running: Running, route: Case, asked: Callable[[], bool], cause: Cause, code: str
) -> None:
    key = f"killed-{code}"
    with pytest.raises(Gen4Error) as caught:
        bed.repair(route, key, heartbeat=at_beat(3, lambda: running.kill(lambda who: cause), asked))
    assert caught.value.code == code
    assert "broken" not in json.dumps(bed.cursors.load(key))
    assert running.entries() == []


def test_a_store_that_is_down_is_blamed_on_no_edit(
    bed: Bed, running: Running, route: Case, asked: Callable[[], bool]
) -> None:
    def down() -> None:
        raise InfrastructureError("STORE_UNAVAILABLE", "the disk is full")

    with pytest.raises(InfrastructureError, match="STORE_UNAVAILABLE"):
        bed.repair(route, "store-down", heartbeat=at_beat(3, down, asked))
    assert "broken" not in json.dumps(bed.cursors.load("store-down"))

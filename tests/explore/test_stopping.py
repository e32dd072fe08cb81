"""A search or a test run that somebody stops ends with the reason: no verdict on an edit, no test result, comes of it."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator

import pytest

from activities.kernel.sandbox.running import Cause, KnownBackend, Running
from schemas.capabilities import RunTests
from schemas.error import Gen4Error, InfrastructureError, Stopped
from schemas.test_command import parse_test_command
from schemas.testing import Limits
from tests.explore.bed import COMMIT_TIME, EXAMPLES, Bed, files_below

SWITCH, LOST = Cause("KILL_SWITCH", "leak"), Cause("STORE_LOST", "no answer")


@pytest.fixture
def running(bed: Bed) -> Iterator[Running]:
    known = Running()
    backend = bed.testbed._backend
    bed.testbed._backend = KnownBackend(backend, known)
    yield known
    bed.testbed._backend = backend


def at_beat(number: int, act: Callable[[], object]) -> Callable[[], None]:
    beats = iter(range(10**9))

    def beat() -> None:
        if next(beats) == number:
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
    killer = threading.Timer(3.0, lambda: running.kill(lambda who: cause))
    killer.start()
    with pytest.raises(kind) as caught:
        bed.testbed.run(request, bed.beat)
    killer.join()
    assert caught.value.code == code


@pytest.mark.parametrize(("cause", "code"), [(SWITCH, "KILL_SWITCH"), (LOST, "SANDBOX_KILLED")])
def test_a_killed_search_blames_no_edit_and_starts_no_other_server(bed: Bed, running: Running, cause: Cause, code: str) -> None:
    case = bed.case(files_below(EXAMPLES / "route"))
    key = f"killed-{code}"
    with pytest.raises(Gen4Error) as caught:
        bed.repair(case, key, heartbeat=at_beat(40, lambda: running.kill(lambda who: cause)))
    assert caught.value.code == code
    assert "broken" not in json.dumps(bed.cursors.load(key))
    assert running.entries() == []


def test_a_store_that_is_down_is_blamed_on_no_edit(bed: Bed, running: Running) -> None:
    def down() -> None:
        raise InfrastructureError("STORE_UNAVAILABLE", "the disk is full")

    case = bed.case(files_below(EXAMPLES / "route"))
    with pytest.raises(InfrastructureError, match="STORE_UNAVAILABLE"):
        bed.repair(case, "store-down", heartbeat=at_beat(40, down))
    assert "broken" not in json.dumps(bed.cursors.load("store-down"))

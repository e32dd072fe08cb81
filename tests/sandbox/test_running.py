"""A sandbox that somebody kills gives no result: its user gets the reason, whatever it was doing. And what it used is counted."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from activities.kernel.acting import Acting, as_acting
from activities.kernel.metering import Meter, as_metered
from activities.kernel.sandbox.backends import choose_backend
from activities.kernel.sandbox.docker import DockerBackend
from activities.kernel.sandbox.port import RootFilesystem, SandboxBackend, SandboxProcess, SandboxSpec
from activities.kernel.sandbox.running import Cause, Entry, KnownBackend, Running
from schemas.error import Gen4Error, InfrastructureError, Refused, Stopped
from schemas.event import Actor
from schemas.limits import AttemptLimits
from schemas.task import TraceKeys
from schemas.testing import Limits

HERE = Path(__file__).parent
SLEEP = "import time\nprint('up', flush=True)\ntime.sleep(60)"
OPERATOR = Cause("KILL_SWITCH", "leak")


def acting_as(session_id: str, capability_id: str = "testbed.run_tests") -> Acting:
    keys = TraceKeys(tenant_id="acme", trace_id="t", session_id=session_id, task_id="k")
    return Acting(
        keys=keys, actor=Actor(principal_id="gen4", kind="engine"), phase="explore", workflow_id="w", run_id="r",
        effect_key=f"{session_id}/e", attempt_key=f"{session_id}/a", attempt=1, capability_id=capability_id,
    )  # fmt: skip


@pytest.fixture(scope="module", params=["bubblewrap", "docker"])
def real(request: pytest.FixtureRequest, root: RootFilesystem) -> SandboxBackend:
    if request.param == "docker":
        return DockerBackend(request.getfixturevalue("docker_host"))
    return choose_backend(root, "bubblewrap")


@pytest.fixture
def running() -> Running:
    return Running()


@pytest.fixture
def backend(real: SandboxBackend, running: Running) -> KnownBackend:
    return KnownBackend(real, running)


def spec(root: RootFilesystem, code: str) -> SandboxSpec:
    limits = Limits(memory_mb=256, pids=32, wall_ms=90_000, disk_mb=64)
    return SandboxSpec(root=root, argv=(root.python, "-c", code), env={}, limits=limits, runner=HERE / "runner")


@contextmanager
def killed_soon(running: Running, cause: Cause) -> Iterator[None]:
    killer = threading.Timer(0.5, lambda: running.kill(lambda who: cause))
    killer.start()
    try:
        yield
    finally:
        killer.cancel()


def read_to_the_end(process: SandboxProcess) -> object:
    return list(process.lines())


def read_line_by_line(process: SandboxProcess) -> object:
    while process.line(30) is not None:
        pass
    return None


def write_until_it_breaks(process: SandboxProcess) -> object:
    while True:
        process.send(b"x" * 65_536)


def take_the_death_for_something_else(process: SandboxProcess) -> object:
    try:
        read_to_the_end(process)
    except Gen4Error:
        raise ValueError("the report ends early") from None
    return None


def take_the_death_for_a_result(process: SandboxProcess) -> object:
    try:
        return process.finish()
    except Gen4Error:
        return "all tests passed"


@pytest.mark.parametrize(
    "use",
    [
        read_to_the_end, read_line_by_line, write_until_it_breaks, lambda process: process.finish(),
        take_the_death_for_something_else, take_the_death_for_a_result,
    ],
)  # fmt: skip
def test_whatever_its_user_does_a_killed_sandbox_ends_with_the_reason(
    root: RootFilesystem, running: Running, backend: KnownBackend, use: Callable[[SandboxProcess], object]
) -> None:
    began = time.monotonic()
    with pytest.raises(Stopped, match=r"KILL_SWITCH.*leak"), backend.start(spec(root, SLEEP)) as process:
        assert process.line(20) == b"up"
        with killed_soon(running, OPERATOR):
            use(process)
    assert time.monotonic() - began < 10
    assert running.entries() == []


def test_a_lost_store_is_an_outage_and_no_verdict(root: RootFilesystem, running: Running, backend: KnownBackend) -> None:
    expected = pytest.raises(InfrastructureError, match="SANDBOX_KILLED")
    with expected as caught, backend.start(spec(root, SLEEP)) as process:
        assert process.line(20) == b"up"
        with killed_soon(running, Cause("STORE_LOST", "no answer")):
            process.finish()
    assert caught.value.retryable


def test_a_stop_is_no_refusal_that_somebody_may_work_around() -> None:
    assert not isinstance(OPERATOR.error(), Refused)
    assert not OPERATOR.error().retryable


def test_only_what_is_meant_is_killed(root: RootFilesystem, running: Running, backend: KnownBackend) -> None:
    def only_b(who: Acting | None) -> Cause | None:
        return OPERATOR if who is not None and who.keys.session_id == "b" else None

    with as_acting(acting_as("a")), backend.start(spec(root, SLEEP)) as spared:
        assert spared.line(20) == b"up"
        with pytest.raises(Stopped), as_acting(acting_as("b")), backend.start(spec(root, SLEEP)) as hit:
            assert hit.line(20) == b"up"
            assert running.sessions() == {"a", "b"}
            killed = running.kill(only_b)
            assert [entry.who.keys.session_id for entry in killed if entry.who] == ["b"]
            assert running.kill(only_b) == [], "killed once"
            hit.finish()
        assert [entry.cause for entry in running.entries()] == [None]
        spared.kill()
        assert spared.finish().ending == "killed", "killed by its own user, which is no error"


def test_what_ends_by_itself_gives_its_result_and_is_metered(root: RootFilesystem, backend: KnownBackend) -> None:
    busy = "import time\nwhile time.process_time() < 0.4: pass"
    with as_metered(Meter()) as meter:
        for _ in range(2):
            with backend.start(spec(root, busy)) as process:
                assert process.finish().exit_code == 0
    used = meter.usage()
    assert used.tool_calls == 2
    assert 700 <= used.cpu_ms <= 2_500
    assert used.wall_ms >= 800


def test_what_a_killed_sandbox_used_is_metered_too(root: RootFilesystem, running: Running, backend: KnownBackend) -> None:
    busy = "print('up', flush=True)\nwhile True: pass"
    with as_metered(Meter()) as meter, pytest.raises(Stopped), backend.start(spec(root, busy)) as process:
        assert process.line(20) == b"up"
        with killed_soon(running, OPERATOR):
            process.finish()
    used = meter.usage()
    assert used.tool_calls == 1 and used.cpu_ms > 0 and used.wall_ms > 0


def test_an_attempt_starts_no_more_sandboxes_than_policy_allows(root: RootFilesystem, backend: KnownBackend) -> None:
    with as_metered(Meter(AttemptLimits(tool_calls=1, steps=1, tokens=1))):
        with backend.start(spec(root, "")) as process:
            process.finish()
        with pytest.raises(Stopped, match="TOOL_CALLS_LIMIT"), backend.start(spec(root, "")):
            pytest.fail("started")


def test_a_sandbox_that_no_activity_started_is_known_too(root: RootFilesystem, running: Running, backend: KnownBackend) -> None:
    with backend.start(spec(root, SLEEP)) as process:
        entries: list[Entry] = running.entries()
        assert [entry.who for entry in entries] == [None]
        process.kill()

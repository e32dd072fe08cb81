"""What an operator stops, ends within two seconds where it already runs; so does everything once the store is gone."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from activities.kernel.acting import Acting, as_acting
from activities.kernel.sandbox.backends import choose_backend
from activities.kernel.sandbox.docker import DockerBackend
from activities.kernel.sandbox.port import RootFilesystem, SandboxSpec
from activities.kernel.sandbox.rootfs import RootFilesystems
from activities.kernel.sandbox.running import Entry, KnownBackend, Running
from activities.kernel.watching import Stops, StoreView, Watch
from activities.record.chain import EventChain
from activities.record.directory import Directory
from activities.record.kill_switches import KillSwitches
from activities.record.leases import Leases
from activities.record.store import Store, TenantStore
from activities.testbed.protocol import HarnessBroken
from schemas.error import Gen4Error, InfrastructureError, Stopped
from schemas.event import Actor
from schemas.identity import Tenant
from schemas.kill_switch import KillScope, KillSwitch
from schemas.task import TraceKeys
from schemas.testing import Limits
from tests.record.postgres import Postgres
from tests.record.templates import new_sqlite
from workers.toolchain import cache_directory

ANN = Actor(principal_id="ann", kind="human")
CAPABILITY = "testbed.run_tests"


def keys(session_id: str) -> TraceKeys:
    return TraceKeys(tenant_id="acme", trace_id="t", session_id=session_id, task_id="k")


def who(session_id: str, capability_id: str = CAPABILITY) -> Acting:
    return Acting(
        keys=keys(session_id), actor=Actor(principal_id="gen4", kind="engine"), phase="explore", workflow_id="w", run_id="r",
        effect_key=f"{session_id}/e", attempt_key=f"{session_id}/a", attempt=1, capability_id=capability_id,
    )  # fmt: skip


@dataclass
class Sleeper:
    """An activity that sleeps for a minute in a real sandbox, on a thread of its own."""

    backend: KnownBackend
    root: RootFilesystem
    who: Acting
    up: threading.Event = field(default_factory=threading.Event)
    error: Exception | None = None
    ended_at: float = 0.0

    def begin(self) -> Sleeper:
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()
        assert self.up.wait(30), self.error
        return self

    def ended_within(self, seconds: float, since: float) -> Exception | None:
        self.thread.join(seconds + 8)
        assert not self.thread.is_alive()
        assert self.ended_at - since <= seconds, f"took {self.ended_at - since:.2f} s"
        return self.error

    def _run(self) -> None:
        code = "import time\nprint('up', flush=True)\ntime.sleep(60)"
        spec = SandboxSpec(
            root=self.root, argv=(self.root.python, "-c", code), env={}, runner=Path(__file__).parents[1] / "sandbox" / "runner",
            limits=Limits(memory_mb=256, pids=32, wall_ms=90_000, disk_mb=64),
        )  # fmt: skip
        try:
            with as_acting(self.who), self.backend.start(spec) as process:
                process.line(20)
                self.up.set()
                lines = list(process.lines())
                raise HarnessBroken(f"a report of {len(lines)} lines")  # what a user of the sandbox makes of an early end
        except Exception as error:
            self.error = error
        finally:
            self.ended_at = time.monotonic()


@pytest.fixture(scope="module")
def root() -> RootFilesystem:
    return RootFilesystems(cache_directory()).current()


@pytest.fixture
def running() -> Running:
    return Running()


@pytest.fixture
def backend(request: pytest.FixtureRequest, root: RootFilesystem, running: Running) -> KnownBackend:
    if getattr(request, "param", "bubblewrap") == "docker":
        return KnownBackend(DockerBackend(request.getfixturevalue("docker_host")), running)
    return KnownBackend(choose_backend(root, "bubblewrap"), running)


@pytest.fixture
def tenant(tmp_path: Path) -> Iterator[TenantStore]:
    store = Store.open(new_sqlite(tmp_path / "store.db"))
    yield store.tenant("acme")
    store.close()


@pytest.fixture
def watched(running: Running, tenant: TenantStore) -> Iterator[None]:
    view = StoreView(tenant)
    with Watch(running, view.look, view.tell):
        yield


@pytest.fixture
def sleeper(backend: KnownBackend, root: RootFilesystem) -> Iterator[Sleeper]:
    yield Sleeper(backend, root, who("session-1"))


def killed_events(tenant: TenantStore, session_id: str = "session-1") -> list[str]:
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        events = EventChain(tenant).read(session_id)
        codes = [str(payload["code"]) for event, payload in events if event.kind == "sandbox.killed"]
        if codes:
            return codes
        time.sleep(0.05)
    return []


@pytest.mark.parametrize(
    ("backend", "scope", "target"),
    [
        ("bubblewrap", "session", "session-1"), ("bubblewrap", "capability", CAPABILITY), ("bubblewrap", "tenant", ""),
        ("bubblewrap", "everything", ""), ("docker", "session", "session-1"),
    ],
    indirect=["backend"],
)  # fmt: skip
@pytest.mark.usefixtures("watched")
def test_a_switch_ends_what_runs_already_within_two_seconds(
    tenant: TenantStore, sleeper: Sleeper, scope: KillScope, target: str
) -> None:
    sleeper.begin()
    began = time.monotonic()
    KillSwitches(tenant).set(scope, target, True, "leak", ANN, 1)
    error = sleeper.ended_within(2.0, began)
    assert isinstance(error, Stopped) and error.code == "KILL_SWITCH" and "leak" in error.message
    assert killed_events(tenant) == ["KILL_SWITCH"]
    assert EventChain(tenant).verify("session-1") == []


@pytest.mark.usefixtures("watched")
def test_a_switch_for_something_else_ends_nothing(tenant: TenantStore, sleeper: Sleeper, running: Running) -> None:
    sleeper.begin()
    switches = KillSwitches(tenant)
    switches.set("session", "session-2", True, "leak", ANN, 1)
    switches.set("capability", "forge.deliver", True, "leak", ANN, 1)
    KillSwitches(tenant._store.tenant("globex")).set("tenant", "", True, "theirs", ANN, 1)
    time.sleep(1.5)
    assert [entry.cause for entry in running.entries()] == [None]
    for entry in running.entries():
        entry.process.kill()
    sleeper.thread.join(10)


@pytest.mark.usefixtures("watched")
def test_what_starts_while_a_switch_is_on_is_ended_too(tenant: TenantStore, sleeper: Sleeper) -> None:
    KillSwitches(tenant).set("tenant", "", True, "leak", ANN, 1)
    began = time.monotonic()
    sleeper.begin()
    assert isinstance(sleeper.ended_within(4.0, began), Stopped)


@pytest.mark.usefixtures("watched")
def test_a_revoked_lease_ends_what_runs_under_it(tenant: TenantStore, sleeper: Sleeper) -> None:
    leases = Leases(tenant)
    leases.issue(None, keys("session-1"), "ann", "policy", 1)
    sleeper.begin()
    began = time.monotonic()
    leases.revoke(None, reason="left the company", by=ANN, now_ms=2, session_id="session-1")
    error = sleeper.ended_within(2.0, began)
    assert isinstance(error, Stopped) and error.code == "LEASE_REVOKED" and "left the company" in error.message


@pytest.mark.usefixtures("watched")
def test_a_suspended_tenant_runs_nothing(tenant: TenantStore, sleeper: Sleeper) -> None:
    directory = Directory(tenant)
    directory.put_tenant(Tenant(tenant_id="acme", name="Acme"), ANN, 1)
    sleeper.begin()
    began = time.monotonic()
    directory.set_tenant_status("suspended", "unpaid", ANN, 2)
    error = sleeper.ended_within(2.0, began)
    assert isinstance(error, Stopped) and error.code == "TENANT_INACTIVE"


class Partition:
    """A store that answers until it is cut off, then hangs or fails, as told."""

    def __init__(self, how: str) -> None:
        self.how, self.cut, self.mended = how, threading.Event(), threading.Event()
        self.tried = threading.Event()
        self.told: list[str] = []

    def look(self, sessions: Collection[str]) -> Stops:
        self._answer()
        return Stops()

    def tell(self, entry: Entry) -> None:
        self.tried.set()
        self._answer()
        assert entry.cause is not None
        self.told.append(entry.cause.code)

    def _answer(self) -> None:
        if self.cut.is_set() and not self.mended.is_set():
            if self.how == "hangs":
                self.mended.wait(30)
            raise (InfrastructureError if self.how != "breaks" else RuntimeError)("STORE_UNAVAILABLE", "cut off")


@pytest.mark.parametrize("how", ["hangs", "fails", "breaks"])
def test_without_its_store_for_two_seconds_a_worker_kills_everything_and_judges_nothing(
    running: Running, sleeper: Sleeper, how: str
) -> None:
    partition = Partition(how)
    with Watch(running, partition.look, partition.tell):
        sleeper.begin()
        time.sleep(1.0)
        assert sleeper.error is None
        began = time.monotonic()
        partition.cut.set()
        error = sleeper.ended_within(4.0, began)
        assert sleeper.ended_at - began >= 1.0, "a short silence kills nothing"
        assert isinstance(error, InfrastructureError) and error.code == "SANDBOX_KILLED" and error.retryable
        assert partition.tried.wait(5)
        time.sleep(0.1)
        assert partition.told == []
        partition.mended.set()
        deadline = time.monotonic() + 5
        while not partition.told and time.monotonic() < deadline:
            time.sleep(0.05)
        assert partition.told == ["STORE_LOST"], "told once, when the store is back"


@pytest.mark.parametrize("how", ["killed", "frozen"])
def test_a_database_that_dies_or_freezes_ends_what_runs_and_is_told_of_it_later(
    postgres: Postgres, postgres_template: str, running: Running, sleeper: Sleeper, how: str
) -> None:
    def send(number: int) -> None:
        for process in processes:
            os.kill(process, number)

    store = Store.open(postgres.url(postgres.database(postgres_template)))
    tenant = store.tenant("acme")
    view = StoreView(tenant)
    with Watch(running, view.look, view.tell):
        sleeper.begin()
        time.sleep(1.0)
        assert sleeper.error is None
        assert postgres._process is not None
        processes = [postgres._process.pid, *postgres._children()]
        began = time.monotonic()
        postgres.kill() if how == "killed" else send(signal.SIGSTOP)
        error = sleeper.ended_within(4.0, began)
        assert isinstance(error, InfrastructureError) and error.code == "SANDBOX_KILLED"
        postgres.start() if how == "killed" else send(signal.SIGCONT)
        assert killed_events(tenant) == ["STORE_LOST"]
    store.close()


def test_a_short_silence_kills_nothing(running: Running, sleeper: Sleeper) -> None:
    partition = Partition("fails")
    with Watch(running, partition.look, partition.tell):
        sleeper.begin()
        partition.cut.set()
        time.sleep(1.2)
        partition.mended.set()
        time.sleep(2.0)
        assert [entry.cause for entry in running.entries()] == [None]
        for entry in running.entries():
            entry.process.kill()
        sleeper.thread.join(10)


def switch(scope: KillScope, tenant_id: str = "acme", target: str = "", active: bool = True) -> KillSwitch:
    return KillSwitch(scope=scope, tenant_id=tenant_id, target=target, active=active, epoch=1, reason="why", changed_by="ann")


@pytest.mark.parametrize(
    ("stops", "code"),
    [
        (Stops(), None),
        (Stops(switches=(switch("everything", "*"),)), "KILL_SWITCH"),
        (Stops(switches=(switch("tenant"),)), "KILL_SWITCH"),
        (Stops(switches=(switch("tenant", active=False),)), None),
        (Stops(switches=(switch("session", target="session-1"),)), None),
        (Stops(revoked={"session-1": "why"}), None),
        (Stops(tenant_status="closed"), "TENANT_INACTIVE"),
    ],
)
def test_what_no_activity_started_is_stopped_by_the_widest_reasons_only(stops: Stops, code: str | None) -> None:
    cause = stops.judge(None)
    assert (cause.code if cause else None) == code


def test_the_first_reason_is_given() -> None:
    stops = Stops(switches=(switch("tenant"),), revoked={"session-1": ""}, tenant_status="suspended")
    cause = stops.judge(who("session-1"))
    assert cause is not None and cause.code == "KILL_SWITCH"
    error: Gen4Error = cause.error()
    assert error.remedy

"""What an executor does for its callers: sandboxes by a fixed request; and test runs, scans and benchmarks with signed receipts.

Each of these: 1. the request, in fields of this version only, within our maximum; 2. the trees, as packs of what we lack, under
ids that we hash; 3. the environment, made here from lock and archives that we hash; 4. the run, in a fresh sandbox; 5. the
receipt, under our key. No path or result of the caller is believed. When the caller goes, its sandboxes end.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Annotated, Any, TypeVar

from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import Field

from activities.kernel.channel import Channel, Closed, need
from activities.kernel.sandbox.broker import MAXIMUM, Broker, Tenant, parse, require_limits, require_root
from activities.kernel.sandbox.held import Held
from activities.kernel.sandbox.port import RootFilesystem, SandboxBackend
from activities.kernel.signing_keys import hint_of, pem_of
from activities.record.blobs import BlobStore
from activities.record.home import Home
from activities.record.objects import ObjectStore
from activities.testbed import receipts
from activities.testbed.benchmarking import run_benchmark
from activities.testbed.environment import Environments
from activities.testbed.harness import HARNESS_LOCK, harness_version, pinned_requirements, sandbox_spec
from activities.testbed.keeping import note_blob, note_environment, note_objects, objects_folder, tidy
from activities.testbed.locks import checked_lock, require_pinned
from activities.testbed.receipts import Receipt, Seen, Tools
from activities.testbed.run import TestBed
from activities.testbed.scanning import SCANNERS, Missing, Scanner, scanners_sha256
from schemas.canonical import sha256_hex
from schemas.capabilities import RunTests
from schemas.error import InfrastructureError, InputError, Refused
from schemas.model import BlobRef, Digest, Door, GitId
from schemas.receipt import ReceiptLimits, ReceiptPlan, ReceiptVariant
from schemas.regression import BenchmarkSample, RunBenchmark, ScannedTree, ScanTree
from schemas.testing import Environment, Limits, RunVariant, TestPlan, TestRun

MODES = frozenset({"facts", "build", "tests", "trace", "forkserver", "scan", "benchmark", "node", "bytecode"})
"""Modes of the runner that a caller may drive. What comes of it is his word: only the requests below give receipts."""

BEAT_S = 1.0
TIDY_EVERY_S = 86_400.0
_KNOWN_TREES = 32
_LARGEST_LOCK = 1024 * 1024
Result = TypeVar("Result", TestRun, ScannedTree, BenchmarkSample)
CommitTime = Annotated[int, Field(ge=0, le=2**53 - 1)]

log = logging.getLogger(__name__)


class RunRequest(Door):
    """One run of a plan's tests."""

    tenant_id: Tenant
    tree: GitId
    environment_digest: Digest
    plan: ReceiptPlan
    limits: ReceiptLimits
    variant: ReceiptVariant
    commit_time: CommitTime
    measure: bool


class ScanRequest(Door):
    """What is in those files of ``tree`` that ``against`` does not have just so."""

    tenant_id: Tenant
    tree: GitId
    against: GitId
    limits: ReceiptLimits
    scanners: Digest | None = None
    """An environment with exactly the wheels that our own lock of scanners names; absent: the caller has none."""
    why_none: Annotated[str, Field(max_length=2_000)] = ""


class BenchmarkRequest(Door):
    """One sandbox in which a command is timed."""

    tenant_id: Tenant
    tree: GitId
    environment_digest: Digest
    plan: ReceiptPlan
    argv: Annotated[tuple[str, ...], Field(min_length=1)]
    limits: ReceiptLimits
    commit_time: CommitTime
    repeat: Annotated[int, Field(ge=1, le=100)]
    ordinal: int


class EnvironmentRequest(Door):
    tenant_id: Tenant
    environment_digest: Digest


class BaseRequest(Door):
    root_digest: Digest


@dataclass(frozen=True)
class Machine:
    """What an executor starts things with. ``packages``: names and versions in a base that it has."""

    root: RootFilesystem
    backend: SandboxBackend
    packages: Callable[[Digest], dict[str, str]]


@dataclass
class _Tenant:
    """The content that one tenant's callers have sent."""

    objects: ObjectStore
    whole: deque[GitId] = field(default_factory=lambda: deque(maxlen=_KNOWN_TREES))
    """Trees that were seen to be whole, the latest last."""
    measuring: Digest | None = None
    """The environment of what measures runs, once the caller has sent it."""


class Executing:
    """Answers calls. ``machine`` may take long the first time, or raise why nothing can be run here."""

    def __init__(
        self, home: Home, key: ec.EllipticCurvePrivateKey, machine: Callable[[], Machine], maximum: Limits = MAXIMUM,
        now_s: Callable[[], float] = time.time,
    ) -> None:  # fmt: skip
        self._home, self._key, self._machine, self._maximum, self._now_s = home, key, machine, maximum, now_s
        self._counting = threading.Lock()
        self._under_way = 0
        self._tidied_s = now_s()
        self._lock = threading.Lock()
        self._tenants: dict[str, _Tenant] = {}
        self._results = home.run / "results"
        shutil.rmtree(self._results, ignore_errors=True)  # of runs during which an earlier executor was killed
        self._results.mkdir(mode=0o700)

    def handle(self, channel: Channel, asked: Any, body: IO[bytes]) -> None:
        """One call.

        Raises:
            Gen4Error: what the caller is told.
        """
        if not isinstance(asked, dict) or len(asked) != 1:
            raise InputError("CALL_INVALID", "a call has one name", "speak the protocol of this version")
        ((name, value),) = asked.items()
        calls: dict[str, Callable[[Channel, Any], None]] = {
            "facts": self._facts, "packages": self._packages, "probe": self._probe, "start": self._start,
            "environment": self._environment, "run_tests": self._run_tests, "scan": self._scan, "benchmark": self._benchmark,
        }  # fmt: skip
        if name not in calls:
            raise InputError("CALL_INVALID", f"there is no call {str(name)[:80]!r}", f"one of {', '.join(calls)}")
        with self._counted():
            calls[name](channel, value)

    def tidy(self) -> None:
        """Delete what is old; nothing is answered meanwhile."""
        try:
            if deleted := tidy(self._home, self._now_s()):
                log.info("deleted %d things that callers can send again", deleted)
        except OSError as error:
            log.warning("what is old could not be deleted: %s", error)
        self._tenants.clear()
        self._tidied_s = self._now_s()

    @contextmanager
    def _counted(self) -> Iterator[None]:
        """Whoever ends as the last one tidies, once a day; whoever comes then waits."""
        with self._counting:
            self._under_way += 1
        try:
            yield
        finally:
            with self._counting:
                self._under_way -= 1
                if not self._under_way and self._now_s() > self._tidied_s + TIDY_EVERY_S:
                    self.tidy()

    # --- short calls -------------------------------------------------------------------------------------------------

    def _facts(self, channel: Channel, asked: Any) -> None:
        machine = self._machine()
        channel.send(
            {
                "result": {
                    "sandbox": machine.backend.facts().model_dump(mode="json"),
                    "root_digest": machine.root.digest,
                    "python": machine.root.python,
                    "public_key": pem_of(self._key.public_key()),
                    "harness_version": harness_version(),
                }
            }
        )

    def _packages(self, channel: Channel, asked: Any) -> None:
        channel.send({"result": self._machine().packages(parse(BaseRequest, asked).root_digest)})

    def _probe(self, channel: Channel, asked: Any) -> None:
        machine = self._machine()
        require_root(machine.root, parse(BaseRequest, asked).root_digest)
        channel.send({"result": [[probe.name, probe.ok, probe.detail] for probe in machine.backend.probe(machine.root)]})

    def _environment(self, channel: Channel, asked: Any) -> None:
        request = parse(EnvironmentRequest, asked)
        self._locked(channel, request.tenant_id, request.environment_digest)
        channel.send({"result": {}})

    # --- sandboxes ---------------------------------------------------------------------------------------------------

    def _start(self, channel: Channel, asked: Any) -> None:
        machine = self._machine()
        Broker(machine.root, machine.backend, sandbox_spec, MODES, self._locked, self._maximum).start(channel, asked)

    def _locked(self, channel: Channel, tenant_id: str, digest: Digest) -> Path:
        environments, _ = self._environments(channel, tenant_id, digest)
        return environments.path(digest)

    def _environments(self, channel: Channel, tenant_id: str, digest: Digest) -> tuple[_Made, Environment]:
        """The tenant's environments, with the lock of this one checked."""
        machine = self._machine()
        blobs = _Asking(self._home.blobs, tenant_id, channel)
        lock = checked_lock(blobs, digest, machine.root.digest)
        environments = _Made(self._home, blobs, self._tenant(tenant_id).objects, machine.root, machine.backend)
        environments.path(digest)
        environment = Environment(
            environment_digest=digest, base_digest=lock.base_digest, python_version=lock.python_version, platform=lock.platform,
            lock=BlobRef(sha256=digest.removeprefix("sha256:"), size=0),
        )  # fmt: skip
        return environments, environment

    # --- runs --------------------------------------------------------------------------------------------------------

    def _run_tests(self, channel: Channel, asked: Any) -> None:
        request = parse(RunRequest, asked)
        limits = require_limits(request.limits, self._maximum)
        with self._at_work(channel, request.tenant_id) as (held, results):
            objects = self._bring(channel, request.tenant_id, request.tree)
            environments, environment = self._environments(channel, request.tenant_id, request.environment_digest)
            if request.measure and request.plan.runner == "pytest":
                self._bring_measuring(channel, request.tenant_id, environments)
            wanted = RunTests(
                tree=request.tree, environment=environment, limits=limits, commit_time=request.commit_time, purpose="base",
                plan=TestPlan.model_validate(request.plan.model_dump()), measure=request.measure,
                variant=RunVariant.model_validate(request.variant.model_dump()),
            )  # fmt: skip
            bed = TestBed(self._home, results, objects, environments, self._machine().root, held)
            with _watching(channel, held):
                seen = bed.observe(wanted, lambda: None, tenant_id=request.tenant_id)
            about = Seen(request.tenant_id, harness_version(), seen.planted, seen.caught)
            run = seen.run.model_copy(update={"executor": hint_of(self._key.public_key())})
            self._tell(channel, results, run, receipts.receipt_of(wanted, run, about))

    def _scan(self, channel: Channel, asked: Any) -> None:
        request = parse(ScanRequest, asked)
        limits = require_limits(request.limits, self._maximum)
        with self._at_work(channel, request.tenant_id) as (held, results):
            self._bring(channel, request.tenant_id, request.against)
            objects = self._bring(channel, request.tenant_id, request.tree)
            scanners: Path | Missing = Missing(request.why_none)
            if request.scanners is not None:
                scanners = self._pinned(channel, request.tenant_id, request.scanners, SCANNERS)
            wanted = ScanTree(tree=request.tree, against=request.against, limits=limits)
            with _watching(channel, held):
                scanned = Scanner(results, objects, self._machine().root, held).scan(wanted, scanners, lambda: None)
            tools = self._tools(request.tenant_id)
            self._tell(channel, results, scanned, receipts.receipt_of_scan(wanted, scanned, scanners_sha256(), tools))

    def _benchmark(self, channel: Channel, asked: Any) -> None:
        request = parse(BenchmarkRequest, asked)
        limits = require_limits(request.limits, self._maximum)
        with self._at_work(channel, request.tenant_id) as (held, results):
            objects = self._bring(channel, request.tenant_id, request.tree)
            environments, environment = self._environments(channel, request.tenant_id, request.environment_digest)
            wanted = RunBenchmark(
                tree=request.tree, environment=environment, plan=TestPlan.model_validate(request.plan.model_dump()),
                argv=request.argv, limits=limits, commit_time=request.commit_time, repeat=request.repeat,
                ordinal=request.ordinal,
            )  # fmt: skip
            bed = TestBed(self._home, results, objects, environments, self._machine().root, held)
            with _watching(channel, held):
                sample = run_benchmark(bed, wanted, lambda: None)
            self._tell(channel, results, sample, receipts.receipt_of_benchmark(wanted, sample, self._tools(request.tenant_id)))

    @contextmanager
    def _at_work(self, channel: Channel, tenant_id: str) -> Iterator[tuple[Held, BlobStore]]:
        """Where sandboxes of this call start, and where its results lie until the caller has them; he hears that we live."""
        held = Held(self._machine().backend)
        with _progress(channel, held), tempfile.TemporaryDirectory(dir=self._results) as name:
            yield held, BlobStore(Path(name), tenant_id)

    def _tools(self, tenant_id: str) -> Tools:
        return Tools(tenant_id, harness_version(), self._machine().backend.facts())

    def _bring(self, channel: Channel, tenant_id: str, tree: GitId) -> ObjectStore:
        tenant = self._tenant(tenant_id)
        if tree not in tenant.whole and not tenant.objects.has_tree(tree):
            with need(channel, {"pack": tree, "known": list(tenant.whole)}) as pack:
                tenant.objects.unpack(pack)
            if not tenant.objects.has_tree(tree):
                raise Refused("TREE_MISMATCH", f"what was sent is not all of tree {tree}", "send the tree that is named")
        if tree not in tenant.whole:
            tenant.whole.append(tree)
        return tenant.objects

    def _pinned(self, channel: Channel, tenant_id: str, digest: Digest, pins: Path) -> Path:
        """Tools that come from the caller, who has an index, as exactly the wheels that our own lock ``pins`` names."""
        blobs = _Asking(self._home.blobs, tenant_id, channel)
        require_pinned(checked_lock(blobs, digest, self._machine().root.digest), pinned_requirements(pins))
        environments, _ = self._environments(channel, tenant_id, digest)
        return environments.path(digest)

    def _bring_measuring(self, channel: Channel, tenant_id: str, environments: _Made) -> None:
        tenant = self._tenant(tenant_id)
        if tenant.measuring is None:
            with need(channel, {"measuring": True}) as content:
                digest = f"sha256:{sha256_hex(content.read(_LARGEST_LOCK))}"
            self._pinned(channel, tenant_id, digest, HARNESS_LOCK)
            tenant.measuring = digest
        environments.measuring = tenant.measuring

    def _tell(self, channel: Channel, results: BlobStore, result: Result, receipt: Receipt) -> None:
        """Everything that the result refers to, then the result with its receipt."""
        envelope = results.put(receipts.sign(self._key, receipt), "application/vnd.dsse.envelope.v1+json")
        result = result.model_copy(update={"receipt": envelope})
        for reference in contents_of(result):
            channel.send({"blob": reference.model_dump(mode="json")}, results.get(reference))
        channel.send({"result": result.model_dump(mode="json")})

    def _tenant(self, tenant_id: str) -> _Tenant:
        with self._lock:
            folder = objects_folder(self._home, tenant_id)
            if tenant_id not in self._tenants:
                self._tenants[tenant_id] = _Tenant(ObjectStore.open(folder))
            note_objects(folder)
            return self._tenants[tenant_id]


def contents_of(result: TestRun | ScannedTree | BenchmarkSample) -> tuple[BlobRef, ...]:
    """What a result refers to."""
    match result:
        case TestRun():
            found = [result.outcomes, result.coverage, result.timings, result.receipt]
        case ScannedTree():
            found = [result.findings, result.receipt]
        case BenchmarkSample():
            found = [result.receipt]
    return tuple(one for one in found if one is not None)


class _Made(Environments):
    """Environments that are made here; what measures was brought before."""

    measuring: Digest | None = None

    def tools(self, pinned: Sequence[str], heartbeat: Callable[[], None]) -> Path:
        if self.measuring is None or tuple(pinned) != pinned_requirements(HARNESS_LOCK):
            raise InfrastructureError("HARNESS_MISSING", "there is nothing to measure with", "run the tests again")
        return self.path(self.measuring)

    def path(self, environment_digest: Digest) -> Path:
        folder = super().path(environment_digest)
        note_environment(folder)
        return folder


class _Asking(BlobStore):
    """Blobs of a tenant; what is not here is asked for, and hashed."""

    def __init__(self, root: Path, tenant_id: str, channel: Channel) -> None:
        super().__init__(root, tenant_id)
        self._channel = channel

    def get(self, ref: BlobRef | str) -> bytes:
        if self.path(ref).is_file():
            note_blob(self.path(ref))
            return super().get(ref)
        sha256 = ref.sha256 if isinstance(ref, BlobRef) else ref
        with need(self._channel, {"blob": sha256}) as content:
            data = content.read()
        if sha256_hex(data) != sha256:
            raise Refused("CONTENT_MISMATCH", f"the bytes that were sent are not {sha256}", "send what is asked for")
        self.put(data)
        return data


@contextmanager
def _progress(channel: Channel, held: Held) -> Iterator[None]:
    """Tell about every second that we live and what the sandbox used."""
    done = threading.Event()

    def beat() -> None:
        try:
            while not done.wait(BEAT_S):
                channel.send({"progress": list(held.cpu())})
        except Closed:
            return

    thread = threading.Thread(target=beat, name="gen4-progress", daemon=True)
    thread.start()
    try:
        yield
        channel.send({"progress": list(held.cpu())})
    finally:
        done.set()
        thread.join()


@contextmanager
def _watching(channel: Channel, held: Held) -> Iterator[None]:
    """While a run goes on, its caller has nothing to say but to kill it or to go."""

    def watch() -> None:
        try:
            channel.receive()
        except InfrastructureError:
            pass
        held.kill()

    thread = threading.Thread(target=watch, name="gen4-watch", daemon=True)
    thread.start()
    yield

"""A running fabric for tests of the workflows: a real server, OPA, gate, store, control, policy, forge, compile and verify.

Only what needs a sandbox or an engine is played: the bed reads outcomes off the tree, the engine proposes what it was told.
"""

from __future__ import annotations

import asyncio
import threading
import time
import uuid
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

from temporalio import activity
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.workflowservice.v1 import ResetWorkflowExecutionRequest
from temporalio.client import Client, WorkflowExecutionStatus, WorkflowFailureError, WorkflowHandle
from temporalio.exceptions import ApplicationError
from temporalio.worker import Worker
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner, SandboxRestrictions

from activities.compile.activities import CompileActivities
from activities.control.activities import ControlActivities, OperationsActivities
from activities.control.approvers import ensure_operator, sign_decision
from activities.control.reaping import Reaping
from activities.control.reconciling import Reconciling
from activities.evidence.activities import CheckpointActivities
from activities.evidence.checkpointing import load_checkpoint_signer
from activities.forge.activities import ForgeActivities
from activities.kernel.gate import Gate
from activities.kernel.implementing import implements
from activities.kernel.repositories import RepositoryRules
from activities.policy.activities import PolicyActivities
from activities.policy.opa import PolicyEngine
from activities.record.blobs import BlobStore
from activities.record.chain import EventChain
from activities.record.home import Home
from activities.record.objects import ObjectStore
from activities.record.run_cache import RunCache
from activities.record.store import Store
from activities.testbed.activities import PlacementActivities, RunCacheActivities
from activities.testbed.run import run_key
from activities.verify.activities import RegressionActivities, VerifyActivities
from schemas.approval import ApprovalRequest, DecisionKind
from schemas.candidate import Candidate, Exploration
from schemas.canonical import jcs, sha256_hex
from schemas.capabilities import (
    ASSEMBLE_MEMBERS,
    LOCALIZE,
    PREPARE_ENVIRONMENT,
    REPAIR,
    REREAD_PATCH,
    RUN_BENCHMARK,
    RUN_TESTS,
    SCAN_TREE,
    SEAL_BUNDLE,
    SEAL_REJECTION,
    TRUST_GATE,
    AssembleMembers,
    ImportPatch,
    Localization,
    Localize,
    Members,
    PrepareEnvironment,
    ReadMembers,
    Repair,
    RunTests,
    SealBundle,
    SealedBundle,
    SealedRejection,
    SealRejection,
    VerifyBundle,
)
from schemas.capability import WORKFLOW_QUEUE, Pool, executor_tag, queue_beside, queue_of
from schemas.error import InfrastructureError, Refused
from schemas.evidence import CHECKSUMS, CONTENT_MEMBERS, PATCH, TEST_RESULTS
from schemas.gates import Check, GateReport
from schemas.model import BlobRef
from schemas.regression import BenchmarkSample, RunBenchmark, ScannedTree, ScanTree
from schemas.request import BundleRef, SessionResult
from schemas.status import SessionStatus
from schemas.task import SessionConfig
from schemas.testing import Environment, EnvironmentLock, Outcomes, Patch, SandboxFacts, TestRun, counts_of, outcomes_sha256
from workers.converter import data_converter
from workers.executions import ServerExecutions
from workers.kernel import open_kernel
from workers.registration import activities_of, served_by
from workflows import PASSTHROUGH, WORKFLOWS

T = TypeVar("T")
TENANT = "local"
POOLS: tuple[Pool, ...] = ("stable", "adaptive", "forge", "signing")
LIB = "lib.py"
BUGGY = b"answer = 41\n"
FIXED = b"answer = 42\n"
SANDBOX = SandboxFacts(backend="bubblewrap", version="played", profile_sha256="0" * 64, enforcement={})
ENVIRONMENT_DIGEST = "sha256:" + "e" * 64
LOCK = EnvironmentLock(
    base_digest=ENVIRONMENT_DIGEST, platform="linux", python_version="3.11", profile="played", wheels=(), origin="played"
)


@dataclass
class Bed:
    """Outcomes follow from ``lib.py``: 42 mends one test, ``LOSES`` breaks another, ``FLAKY`` changes its mind on the re-run."""

    blobs: BlobStore
    objects: ObjectStore
    hold: threading.Event = field(default_factory=threading.Event)
    """While it is set, runs of the suite wait (until they are cancelled)."""
    hold_only: str = ""
    """The purpose of the runs that wait; empty: all of them."""
    mood: bool = False
    """Trees with ``MOODY`` have other outcomes, and agree on them."""
    deaf: bool = False
    """Runs do not hear of a cancellation; they end by themselves."""
    runs: list[RunTests] = field(default_factory=list)

    @implements(PREPARE_ENVIRONMENT)
    def prepare(self, request: PrepareEnvironment) -> Environment:
        if b"NEWER" in self._lib(request.base_tree):
            raise Refused("PYTHON_TOO_OLD", "the project needs Python 3.99", "use a base with that Python")
        return Environment(
            environment_digest=ENVIRONMENT_DIGEST, base_digest=ENVIRONMENT_DIGEST, lock=self.blobs.put(jcs(LOCK)),
            python_version="3.11", platform="linux",
        )  # fmt: skip

    @implements(RUN_TESTS)
    def run(self, request: RunTests) -> TestRun:
        with activity.shield_thread_cancel_exception() if self.deaf else nullcontext():
            while self.hold.is_set() and self.hold_only in ("", request.purpose):
                time.sleep(0.05)
        self.runs.append(request)
        outcomes = {nodeid: outcome for nodeid, outcome in self._outcomes(request).items() if self._wanted(request, nodeid)}
        failed = any(outcome == "failed" for outcome in outcomes.values())
        return TestRun(
            status="failed" if failed or not outcomes else "passed", codes=() if outcomes else self._why_none(request),
            outcomes=self.blobs.put(jcs(outcomes)), outcomes_sha256=outcomes_sha256(outcomes), counts=counts_of(outcomes),
            exit_code=1 if failed else 0, runner="played 1", run_key=run_key(request, TENANT), sandbox=SANDBOX,
            variant=request.variant, coverage=self.blobs.put(jcs({})) if request.measure else None,
            receipt=self.blobs.put(uuid.uuid4().bytes), executor=self.executor_of(request),
        )  # fmt: skip

    def executor_of(self, request: RunTests) -> str:
        return "other" if activity.info().task_queue == queue_beside("adaptive", "other") else "first"

    @implements(SCAN_TREE)
    def scan(self, request: ScanTree) -> ScannedTree:
        return ScannedTree(findings=self.blobs.put(b"[]"), files=1, size_bytes=len(self._lib(request.tree)))

    @implements(RUN_BENCHMARK)
    def benchmark(self, request: RunBenchmark) -> BenchmarkSample:
        slow = b"SLOW" in self._lib(request.tree)
        took = 2_000_000 if slow else 1_000_000
        return BenchmarkSample(micros=tuple(took + 100 * number for number in range(request.repeat)))

    def _wanted(self, request: RunTests, nodeid: str) -> bool:
        return not request.variant.only or nodeid in request.variant.only

    def _why_none(self, request: RunTests) -> tuple[str, ...]:
        return ("MEMORY_LIMIT",) if b"GREEDY" in self._lib(request.tree) else ("TESTS_NONE_COLLECTED",)

    def _outcomes(self, request: RunTests) -> Outcomes:
        lib = self._lib(request.tree)
        if b"MOODY" in lib and self.mood:
            return {f"tests/test_lib.py::{name}": "passed" for name in ("test_answer", "test_other", "test_more")}
        if b"UNTESTED" in lib or b"GREEDY" in lib:
            return {}
        flaky = (b"FLAKY" in lib and request.purpose == "rerun") or (b"ORDERED" in lib and request.variant.order == "reversed")
        return {
            "tests/test_lib.py::test_answer": "passed" if b"42" in lib and not flaky else "failed",
            "tests/test_lib.py::test_other": "failed" if b"LOSES" in lib else "passed",
        }

    def _lib(self, tree: str) -> bytes:
        return self.objects.file(tree, LIB) or b""


@dataclass
class Engine:
    """Proposes the contents of ``lib.py`` that the goal's repository was registered with, in order."""

    blobs: BlobStore
    objects: ObjectStore
    proposals: dict[str, list[bytes]] = field(default_factory=dict)
    """By base tree."""

    @implements(LOCALIZE)
    def localize(self, request: Localize) -> Localization:
        return Localization(ranking=self.blobs.put(b"[]"), suspects=1, targets=("tests/test_lib.py::test_answer",), tests=2)

    @implements(REPAIR)
    def repair(self, request: Repair) -> Exploration:
        proposals = self.proposals.get(request.base_tree, [FIXED])[: request.keep]
        candidates = tuple(self._candidate(request.base_tree, number, text) for number, text in enumerate(proposals, start=1))
        return Exploration(candidates=candidates, tried=7, space=9, stopped="enough" if candidates else "exhausted")

    def _candidate(self, base_tree: str, number: int, text: bytes) -> Candidate:
        path = "conftest.py" if b"CONFTEST" in text else LIB
        tree = self.objects.write_tree(base_tree, {path: text})
        diff = self.objects.diff(base_tree, tree)
        patch = Patch(
            base_tree=base_tree, result_tree=tree, diff=self.blobs.put(diff), patch_sha256=sha256_hex(diff), paths=(path,)
        )
        trajectory = self.blobs.put(b"{}\n")
        return Candidate(
            candidate_id=f"candidate-{number}", engine="templates", engine_version="1", patch=patch, fix="complete",
            trajectory=trajectory, trajectory_sha256=trajectory.sha256, path=path, line=1, template="played", rank=number,
        )  # fmt: skip


@dataclass
class Notary:
    """Plays the evidence layer: members follow from diff and outcomes; the seal is a folder with one file."""

    blobs: BlobStore
    folder: Path
    distrusts: bool = False
    absent: bool = False
    """No signer answers for rejections."""
    sealed: list[SealBundle] = field(default_factory=list)

    @implements(ASSEMBLE_MEMBERS)
    def assemble(self, request: AssembleMembers) -> Members:
        members = {name: self.blobs.put(name.encode()) for name in CONTENT_MEMBERS}
        members[PATCH] = request.patch.diff
        members[TEST_RESULTS] = self.blobs.put(f"{request.base.outcomes_sha256} {request.patched.outcomes_sha256}".encode())
        sums = "".join(f"{ref.sha256}  {name}\n" for name, ref in sorted(members.items()))
        return Members(
            blobs={**members, CHECKSUMS: self.blobs.put(sums.encode())}, bundle_digest="sha256:" + sha256_hex(sums.encode())
        )

    @implements(REREAD_PATCH)
    def reread(self, request: ReadMembers) -> ImportPatch:
        return ImportPatch(source=request.source, patch_ref=request.members.blobs[PATCH])

    @implements(SEAL_BUNDLE)
    def seal(self, request: SealBundle) -> SealedBundle:
        assert request.members.bundle_digest == request.rerun_bundle_digest
        self.sealed.append(request)
        directory = self.folder / request.members.bundle_digest.removeprefix("sha256:")
        bundle = BundleRef(
            directory=str(directory),
            bundle_digest=request.members.bundle_digest,
            stamp_id="stm_" + "0" * 32,
            stamp_sha256="5" * 64,
        )
        return SealedBundle(bundle=bundle, trust=str(self.folder / "trust.json"))

    @implements(SEAL_REJECTION)
    def reject(self, request: SealRejection) -> SealedRejection:
        if self.absent:
            raise InfrastructureError("SIGNER_UNAVAILABLE", "played")
        return SealedRejection(directory=str(self.folder / "rejection"), report_id="rej_" + "0" * 32)

    @implements(TRUST_GATE)
    def verify(self, request: VerifyBundle) -> GateReport:
        check = Check(
            code="TRUST_SIGNATURE", ok=not self.distrusts, remedy="sign it with a trusted key" if self.distrusts else ""
        )
        return GateReport(gate="trust", verdict="fail" if self.distrusts else "pass", checks=(check,))


def workflow_runner() -> SandboxedWorkflowRunner:
    return SandboxedWorkflowRunner(restrictions=SandboxRestrictions.default.with_passthrough_modules(*PASSTHROUGH))


class Fabric:
    """Workers of all pools on an event loop of their own; tests are plain functions."""

    def __init__(self, address: str, policy: PolicyEngine, folder: Path) -> None:
        self.folder = folder
        self.repositories = folder / "repositories"
        self.repositories.mkdir()
        self.home = Home.open(folder / "home")
        self.operator_key = ensure_operator(self.home)
        self.store = Store.open(f"sqlite:///{self.home.store}")
        self.chain = EventChain(self.store.tenant(TENANT))
        self.blobs, self.objects = BlobStore(self.home.blobs, TENANT), ObjectStore.open(self.home.objects)
        self.policy = policy
        rules = RepositoryRules((self.repositories,))
        self.control = ControlActivities(self.store.tenant(TENANT), self.home.keys, policy, rules, SessionConfig())
        self.kernel = open_kernel(self.store.tenant(TENANT), policy, policy.check(), "default", chain=self.chain)
        self.bed, self.engine = Bed(self.blobs, self.objects), Engine(self.blobs, self.objects)
        self.notary = Notary(self.blobs, self.home.bundles)
        self.implementers: tuple[object, ...] = (
            self.control, self.bed, self.engine, self.notary, CompileActivities(self.blobs, self.objects),
            PlacementActivities(lambda: self.executors),
            RunCacheActivities(self.blobs, RunCache(self.store.tenant(TENANT))),
            VerifyActivities(self.blobs, policy), RegressionActivities(self.blobs, self.objects, policy, self.chain),
            CheckpointActivities(self.store.tenant(TENANT), load_checkpoint_signer(self.home.keys)),
            PolicyActivities(policy, self.blobs, self.objects, self.chain, roots=(self.repositories,)),
            ForgeActivities(self.store.tenant(TENANT), self.objects, self.home.objects, self.home.keys, policy, rules),
        )  # fmt: skip
        self.executors = {executor_tag("first")}
        """Tags of those whose workers are said to poll."""
        self._address = address
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fabric", daemon=True)
        self._thread.start()
        self._stack = AsyncExitStack()
        self.run(self._start())

    def run(self, coroutine: Coroutine[Any, Any, T], timeout: float = 60) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(timeout)

    @contextmanager
    def held(self, purpose: str = "") -> Iterator[None]:
        """Runs of the suite, for this purpose or all, wait until they are cancelled or the block ends."""
        self.bed.hold_only = purpose
        self.bed.hold.set()
        try:
            yield
        finally:
            self.bed.hold.clear()
            self.bed.hold_only = ""

    def stop(self) -> None:
        self.bed.hold.clear()
        self.run(self._stack.aclose())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self.store.close()

    async def _start(self) -> None:
        deadline = time.monotonic() + 30
        while True:
            try:
                self.client = await Client.connect(self._address, data_converter=data_converter)
                break
            except RuntimeError:
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(0.1)
        executions, store = ServerExecutions(self.client, self._loop), self.store.tenant(TENANT)
        reaping = Reaping(store, self.blobs, executions, lambda session_id: 0)
        self.implementers += (OperationsActivities(reaping, Reconciling(store, executions, self.kernel.pricing, quiet_ms=0)),)
        for worker in self._workers():
            await self._stack.enter_async_context(worker)

    def _workers(self) -> list[Worker]:
        workers = [
            Worker(
                self.client,
                task_queue=WORKFLOW_QUEUE,
                workflows=WORKFLOWS,
                workflow_runner=workflow_runner(),
                max_cached_workflows=50,
            )
        ]
        queues: list[tuple[Pool, str]] = [(pool, queue_of(pool)) for pool in POOLS]
        queues.append(("adaptive", queue_beside("adaptive", "other")))
        for pool, queue in queues:
            gate = Gate(client=self.client, kernel=self.kernel, served=served_by(pool))
            activities = activities_of(self.implementers, pool)
            workers.append(
                Worker(
                    self.client,
                    task_queue=queue,
                    activities=activities,
                    interceptors=[gate],
                    activity_executor=ThreadPoolExecutor(4),
                    max_concurrent_activities=4,
                    max_heartbeat_throttle_interval=timedelta(seconds=1),
                )
            )
        return workers

    # --- what tests do -----------------------------------------------------------------------------------------------

    def start(self, *arguments: Any, kind: str = "Remediation") -> WorkflowHandle[Any, Any]:
        return self.run(
            self.client.start_workflow(kind, args=list(arguments), id=f"{kind.lower()}-{uuid.uuid4()}", task_queue=WORKFLOW_QUEUE)
        )

    def result(self, handle: WorkflowHandle[Any, Any]) -> SessionResult:
        return SessionResult.model_validate(self.run(handle.result()))

    def failure(self, handle: WorkflowHandle[Any, Any]) -> ApplicationError:
        try:
            self.run(handle.result(), timeout=15)
        except WorkflowFailureError as error:
            assert isinstance(error.cause, ApplicationError), error.cause
            return error.cause
        raise AssertionError("the workflow did not fail")

    def ended(self, handle: WorkflowHandle[Any, Any]) -> WorkflowExecutionStatus | None:
        """How the workflow ended, once it did."""
        try:
            self.run(handle.result(), timeout=30)
        except WorkflowFailureError:
            pass
        return self.run(handle.describe()).status

    def status(self, handle: WorkflowHandle[Any, Any]) -> SessionStatus:
        return SessionStatus.model_validate(self.run(handle.query("status")))

    def wait(
        self, handle: WorkflowHandle[Any, Any], reached: Callable[[SessionStatus], bool], timeout: float = 30
    ) -> SessionStatus:
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            status = self.status(handle)
            if reached(status):
                return status
            time.sleep(0.05)
        raise AssertionError(f"not reached: {status}")

    def pending(self, handle: WorkflowHandle[Any, Any]) -> ApprovalRequest:
        status = self.wait(handle, lambda now: now.approval is not None and now.approval.status == "pending")
        assert status.approval is not None
        return status.approval

    def refused(self, handle: WorkflowHandle[Any, Any], count: int) -> list[str]:
        """Codes of the first ``count`` refusals; the session is still waiting."""
        status = self.wait(handle, lambda now: len(now.refused) >= count)
        assert status.approval is not None and status.approval.status == "pending"
        return [item.code for item in status.refused]

    def signal(self, handle: WorkflowHandle[Any, Any], name: str, *arguments: Any) -> None:
        self.run(handle.signal(name, args=list(arguments)))

    def decision(
        self,
        pending: ApprovalRequest,
        kind: DecisionKind = "approve",
        *,
        reason: str = "",
        key: Path | None = None,
        **changes: Any,
    ) -> dict[str, Any]:
        signature = sign_decision(pending, kind, reason, changes.get("argument_pins", {}), key or self.operator_key)
        document = {
            "approval_id": pending.approval_id,
            "action_digest": pending.action_digest,
            "reason": reason,
            "signature": signature,
        }
        return document | changes

    def kinds(self, handle: WorkflowHandle[Any, Any]) -> list[str]:
        assert handle.first_execution_run_id
        return [event.kind for event, _ in self.chain.read(handle.first_execution_run_id)]

    def payloads(self, handle: WorkflowHandle[Any, Any], kind: str) -> list[dict[str, Any]]:
        assert handle.first_execution_run_id
        return [payload for event, payload in self.chain.read(handle.first_execution_run_id) if event.kind == kind]

    def reset(self, handle: WorkflowHandle[Any, Any], event_id: int) -> WorkflowHandle[Any, Any]:
        execution = WorkflowExecution(workflow_id=handle.id, run_id=handle.first_execution_run_id or "")
        request = ResetWorkflowExecutionRequest(
            namespace=self.client.namespace, workflow_execution=execution, reason="test", workflow_task_finish_event_id=event_id,
            request_id=str(uuid.uuid4()),
        )  # fmt: skip
        answer = self.run(self.client.workflow_service.reset_workflow_execution(request))
        return self.client.get_workflow_handle(handle.id, run_id=answer.run_id)

    def blob(self, data: bytes) -> BlobRef:
        return self.blobs.put(data)

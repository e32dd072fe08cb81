"""Wires ports to implementations: what each activity class gets, and nothing more."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path

from activities.compile.activities import CompileActivities
from activities.control.activities import ControlActivities, OperationsActivities
from activities.control.approvers import ensure_operator
from activities.control.executions import Executions
from activities.control.reaping import Reaping
from activities.control.reconciling import Reconciling
from activities.evidence.activities import CheckpointActivities, EvidenceActivities, EvidencePorts, SigningActivities
from activities.evidence.checkpointing import load_checkpoint_signer
from activities.evidence.signer_client import SignerClient
from activities.evidence.trusting import ensure_trust
from activities.explore.activities import ExploreActivities
from activities.forge.activities import ForgeActivities
from activities.kernel.acting import acting
from activities.kernel.channel import connect
from activities.kernel.kernel import Kernel
from activities.kernel.metrics import KernelMetrics
from activities.kernel.repositories import RepositoryRules
from activities.kernel.rollout import Rollout
from activities.kernel.sandbox.remote import Executor, RemoteBackend
from activities.kernel.sandbox.running import Cause, KnownBackend, Running
from activities.policy.activities import PolicyActivities
from activities.policy.bundle import load_bundle
from activities.policy.opa import PolicyEngine
from activities.record.blobs import BlobStore
from activities.record.chain import EventChain
from activities.record.checkpoints import Checkpoints
from activities.record.cursors import Cursors
from activities.record.home import Home
from activities.record.objects import ObjectStore
from activities.record.payloads import PayloadVault
from activities.record.run_cache import RunCache
from activities.record.sink import Sink
from activities.record.store import Store, now_ms
from activities.testbed.activities import ComparingActivities, PlacementActivities, RunCacheActivities, TestbedActivities
from activities.testbed.environment import Environments
from activities.testbed.harness import sandbox_spec
from activities.testbed.remote_runs import Contents, RemoteRuns
from activities.testbed.run import TestBed
from activities.testbed.scans import Scans
from activities.verify.activities import RegressionActivities, VerifyActivities
from schemas.error import InfrastructureError
from schemas.stamp import StampCheckpoint
from schemas.task import SessionConfig
from workers.fabric import CANDIDATE_BUNDLE, OPA_TOKEN, POLICY_BUNDLE, FabricState
from workers.kernel import open_kernel
from workers.settings import Settings

SIGNER_TIMEOUT_S = 20.0
READY_TIMEOUT_S = 30.0
"""The executor starts at the same time as we do."""


@dataclass(frozen=True)
class Ports:
    """One object graph per worker process."""

    kernel: Kernel
    implementers: tuple[object, ...]
    executor: str
    """Hint of the key of the executor that runs what comes to this process."""
    running: Running = field(default_factory=Running)
    """The sandboxes of this process."""


def open_ports(
    settings: Settings, home: Home, endpoints: FabricState, executions: Executions, metrics: KernelMetrics
) -> Ports:
    """Everything that a worker of this home needs.

    Raises:
        Refused: SANDBOX_UNAVAILABLE: there is no unsandboxed mode.
        InfrastructureError: POLICY_UNAVAILABLE, POLICY_BUNDLE_MISMATCH, STORE_UNAVAILABLE.
    """
    ensure_operator(home)
    store = Store.open(settings.store_address, metrics.on_commit, PayloadVault(home.keys)).tenant(settings.tenant)
    policy = _policy(home, endpoints.opa_url, POLICY_BUNDLE)
    blobs, objects, chain = BlobStore(home.blobs, settings.tenant), ObjectStore.open(home.objects), EventChain(store)
    running = Running()
    contents = Contents(blobs, objects)
    executor = Executor(settings.executor_path, contents)
    executor.await_ready(READY_TIMEOUT_S)
    remote = RemoteBackend(executor, settings.tenant, sandbox_spec, home.environments / settings.tenant)
    runs = RemoteRuns(executor, blobs, running)
    root, backend, hint = remote.root(), KnownBackend(remote, running), remote.executor_hint()
    environments = Environments(home, blobs, objects, root, backend, partial(runs.prepare, settings.tenant))
    contents.environments = environments
    testbed = TestBed(home, blobs, objects, environments, root, backend)
    signer = SignerClient(partial(connect, settings.signer_path), blobs, objects)
    sink = Sink(settings.checkpoint_sink, home.root) if settings.checkpoint_sink else None
    evidence = EvidencePorts(
        blobs=blobs,
        objects=objects,
        bundles=home.bundles,
        attestations=home.attestations,
        rejections=home.rejections,
        trust=_trust(home, signer, policy.policy_digest),
        base_packages=lru_cache(maxsize=16)(remote.packages),
    )
    rules = RepositoryRules(settings.repository_roots, settings.repository_hosts)
    config = SessionConfig(approval_expiry_ms=settings.approval_expiry_s * 1000)
    kernel = open_kernel(
        store, policy, policy.check(), settings.namespace, chain=chain, identity=settings.identity,
        rollout=_rollout(settings, home, endpoints), metrics=metrics,
    )  # fmt: skip
    implementers = (
        ControlActivities(store, home.keys, policy, rules, config),
        OperationsActivities(
            Reaping(store, blobs, executions, partial(_kill_sandboxes, running)), Reconciling(store, executions, kernel.pricing)
        ),
        PolicyActivities(policy, blobs, objects, chain, roots=settings.repository_roots, hosts=settings.repository_hosts),
        ForgeActivities(store, objects, home.objects, home.keys, policy, rules),
        TestbedActivities(environments, runs),
        PlacementActivities(partial(executions.executors_polling, settings.namespace)),
        ComparingActivities(Scans(home, blobs, environments, runs, (root.digest, hint)), runs),
        RunCacheActivities(blobs, RunCache(store)),
        ExploreActivities(blobs, objects, Cursors(store), testbed),
        CompileActivities(blobs, objects),
        VerifyActivities(blobs, policy),
        RegressionActivities(blobs, objects, policy, chain),
        EvidenceActivities(evidence),
        SigningActivities(evidence, signer, partial(_last_checkpoint, Checkpoints(store))),
        CheckpointActivities(store, load_checkpoint_signer(home.keys), sink),
    )
    return Ports(kernel, implementers, hint, running)


def _trust(home: Home, client: SignerClient, policy_digest: str) -> Path:
    """The trust file of this home, which names the signer that answers now. The signer starts at the same time as we do."""
    deadline = time.monotonic() + SIGNER_TIMEOUT_S
    while True:
        try:
            found = client.signer()
            now_s = now_ms() // 1000
            return ensure_trust(home.keys, found.trusted, (policy_digest,), now_s, found.executors, found.trusted_roots)
        except InfrastructureError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def _last_checkpoint(checkpoints: Checkpoints) -> StampCheckpoint | None:
    found = checkpoints.last(acting().keys.session_id)
    return None if found is None else StampCheckpoint(number=found.number, root_sha256=found.root_sha256)


def _kill_sandboxes(running: Running, session_id: str) -> int:
    """Those of this process; other workers see the revoked lease and kill theirs."""
    cause = Cause("LEASE_REVOKED", "its session was reaped")
    return len(running.kill(lambda who: cause if who is not None and who.keys.session_id == session_id else None))


def _policy(home: Home, url: str, bundle: str) -> PolicyEngine:
    port = int(url.rpartition(":")[2])
    return PolicyEngine(port, (home.run / OPA_TOKEN).read_text(), load_bundle(home.run / bundle))


def _rollout(settings: Settings, home: Home, endpoints: FabricState) -> Rollout | None:
    """The candidate policy version, if the operator tries one; it must answer before anything starts."""
    if not endpoints.candidate_url:
        return None
    candidate = _policy(home, endpoints.candidate_url, CANDIDATE_BUNDLE)
    candidate.check()
    return Rollout(candidate, settings.gate_mode, settings.gate_enforce_bp)

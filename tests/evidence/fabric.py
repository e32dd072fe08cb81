"""The stores of one home, an executor's key, and a signer on its socket: all that sealing needs but a sandbox."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec

from activities.compile.activities import CompileActivities
from activities.evidence.activities import EvidenceActivities, EvidencePorts, SigningActivities
from activities.evidence.signer_client import SignerClient
from activities.evidence.signer_service import SignerPorts, SignerService
from activities.evidence.signing import Signer, StatementSigner, load_signer
from activities.evidence.trusting import ensure_trust
from activities.evidence.witnessing import Believed
from activities.kernel.acting import Acting, as_acting
from activities.kernel.channel import connect
from activities.kernel.judging import PolicyPort
from activities.kernel.listening import Listener
from activities.kernel.signing_keys import pem_of
from activities.record.blobs import BlobStore
from activities.record.home import Home
from activities.record.objects import ObjectStore
from activities.testbed import receipts
from activities.testbed.harness import harness_version
from activities.testbed.receipts import Seen, Tools
from activities.testbed.run import run_key
from activities.testbed.scanning import scanners_sha256
from activities.verify.activities import VerifyActivities
from activities.verify.gating import METRICS, RegressionGate, report_if_allowed
from schemas.canonical import jcs
from schemas.capabilities import (
    AssembleMembers,
    DeterminismInput,
    ImportedPatch,
    ImportPatch,
    JudgeRuns,
    ReadMembers,
    RegressionInput,
    RunTests,
    SealBundle,
    SealedBundle,
    SealRejection,
    VerifyBundle,
)
from schemas.event import Actor
from schemas.evidence import timestamp_of
from schemas.gates import GateReport
from schemas.regression import BenchmarkSample, Finding, RunBenchmark, ScannedTree, ScanTree
from schemas.task import Source, TraceKeys
from schemas.test_command import parse_test_command
from schemas.testing import Environment, Limits, Outcomes, RunVariant, TestRun
from tests.evidence.workshop import BASE, NOW_S, PATCHED, POLICY_DIGEST, make_inputs, make_run

EMPTY_TREE = "4b825dc642cb6eb9a060e54bf8d69288fbee4904"
PACKAGES = {"libc6:amd64": "2.36-9"}
NOTHING: Mapping[str, Any] = MappingProxyType({})
PROBED: Outcomes = {"tests/test_calc.py::test_add": "failed"}


def who(task: str = "task-1", effect: str = "task-1:seal") -> Acting:
    keys = TraceKeys(tenant_id="local", trace_id="trace", session_id="session", task_id=task)
    actor = Actor(principal_id="local:operator", kind="human")
    return Acting(
        keys=keys, actor=actor, phase="compile", workflow_id="w", run_id="r", effect_key=effect, attempt_key=f"{effect}/1",
        attempt=1,
    )  # fmt: skip


@dataclass
class Fabric:
    """A repository of one commit, its stores, and the activities of compile, verify and evidence on them."""

    home: Home
    blobs: BlobStore
    objects: ObjectStore
    ports: EvidencePorts
    source: Source
    evidence: EvidenceActivities
    signing: SigningActivities
    client: SignerClient
    verify: VerifyActivities
    compile: CompileActivities
    environment: Environment
    signer: Signer
    policy: PolicyPort
    executor: ec.EllipticCurvePrivateKey = field(repr=False)

    def imported(self) -> ImportedPatch:
        edits = {"calc.py": b"def add(a, b):\n    return a + b\n"}
        diff = self.objects.diff(self.source.base_tree, self.objects.write_tree(self.source.base_tree, edits))
        return self.compile.import_patch(ImportPatch(source=self.source, patch=diff.decode()))

    def run(
        self, outcomes: Outcomes, tree: str, *, variant: RunVariant | None = None, key: ec.EllipticCurvePrivateKey | None = None,
        tenant: str = "local", planted: int = 3, caught: int = 3, harness: str = "", **changes: Any,
    ) -> TestRun:  # fmt: skip
        """A run with the receipt that an executor of this fabric signs for it; ``changes`` are made before that."""
        harness = harness or harness_version()
        asked = RunTests(
            tree=tree, environment=self.environment, plan=parse_test_command(("pytest", "-q")), limits=Limits(),
            commit_time=self.source.commit_time, purpose="patched", variant=variant or RunVariant(),
        )  # fmt: skip
        run = make_run(outcomes, "0").model_copy(
            update={
                "outcomes": self.blobs.put(jcs(dict(outcomes))), "run_key": run_key(asked, tenant, harness),
                "variant": asked.variant, **changes,
            }
        )  # fmt: skip
        receipt = receipts.receipt_of(asked, run, Seen(tenant, harness, planted, caught))
        return run.model_copy(update={"receipt": self.blobs.put(receipts.sign(key or self.executor, receipt))})

    def scan(
        self, tree: str, against: str, *findings: Finding, key: ec.EllipticCurvePrivateKey | None = None, tenant: str = "local",
        harness: str = "", scanners: str = "", **changes: Any,
    ) -> ScannedTree:  # fmt: skip
        """A scan with the receipt that an executor of this fabric signs for it."""
        found = self.blobs.put_json([finding.model_dump(mode="json") for finding in findings])
        scanned = ScannedTree(**{"findings": found, "files": 1, "size_bytes": 1_000, **changes})
        tools = Tools(tenant, harness or harness_version(), make_run(BASE, "0").sandbox)
        asked = ScanTree(tree=tree, against=against, limits=Limits())
        receipt = receipts.receipt_of_scan(asked, scanned, scanners or scanners_sha256(), tools)
        return scanned.model_copy(update={"receipt": self.blobs.put(receipts.sign(key or self.executor, receipt))})

    def regression(self, request: SealBundle, now_s: int = NOW_S) -> GateReport:
        """What the worker's gate says of what this request refers to."""
        asked = RegressionInput(
            judged=request.judged, baseline_commit=request.source.base_commit, base_tree=request.source.base_tree,
            result_tree=request.patch.result_tree, base=request.base_runs, patched=request.patched_runs,
            environment=request.environment, waivers=request.waivers, base_scan=request.base_scan,
            patched_scan=request.patched_scan, in_turn=request.in_turn, base_benchmark=request.base_benchmark,
            patched_benchmark=request.patched_benchmark,
        )  # fmt: skip
        gate = RegressionGate(self.objects, self.blobs.get, lambda question: self.policy.decide(METRICS, question))
        return gate.report(asked, timestamp_of(now_s))

    def sample(
        self, tree: str, *micros: int, argv: tuple[str, ...] = ("python", "b.py"), tenant: str = "local", harness: str = "",
        environment: Environment | None = None,
    ) -> BenchmarkSample:  # fmt: skip
        """One sandbox in which a benchmark ran, with its receipt."""
        asked = RunBenchmark(
            tree=tree, environment=environment or self.environment, plan=parse_test_command(("pytest", "-q")), argv=argv,
            limits=Limits(), commit_time=self.source.commit_time, repeat=max(len(micros), 1),
        )  # fmt: skip
        sample = BenchmarkSample(micros=micros)
        tools = Tools(tenant, harness or harness_version(), make_run(BASE, "0").sandbox)
        receipt = receipts.receipt_of_benchmark(asked, sample, tools)
        return sample.model_copy(update={"receipt": self.blobs.put(receipts.sign(self.executor, receipt))})

    def assembling(
        self, trajectory: bytes | None = None, base_run: Mapping[str, Any] = NOTHING, patched_run: Mapping[str, Any] = NOTHING
    ) -> AssembleMembers:
        imported, policy = self.imported(), make_inputs().policy
        base = [self.run(BASE, self.source.base_tree, **base_run) for _ in range(2)]
        patched = [self.run(PATCHED, imported.harness_tree, **patched_run) for _ in range(2)]
        return AssembleMembers(
            source=self.source, patch=imported.patch, environment=self.environment, plan=parse_test_command(("pytest", "-q")),
            base=base[0], patched=patched[0], policy=policy,
            judged=self.verify.judge_runs(JudgeRuns(base=tuple(base), patched=tuple(patched))),
            trajectory=None if trajectory is None else self.blobs.put(trajectory),
        )  # fmt: skip

    def sealing(
        self, trajectory: bytes | None = None, base_run: Mapping[str, Any] = NOTHING, patched_run: Mapping[str, Any] = NOTHING
    ) -> SealBundle:
        """The request of a workflow in which everything went well: two runs of each tree, probe, re-run, both gates.

        ``base_run``, ``patched_run``: changes of the runs of that tree, see :meth:`run`.
        """
        request = self.assembling(trajectory, base_run, patched_run)
        members = self.evidence.assemble_members(request)
        reread = self.compile.import_patch(self.evidence.reread_patch(ReadMembers(members=members, source=self.source)))
        rerun = self.evidence.assemble_members(request.model_copy(update={"patch": reread.patch}))
        determinism = self.verify.determinism_gate(
            DeterminismInput(first=members, rerun=rerun, runs=2, isolation="fresh_sandbox")
        )
        fields = {name: getattr(request, name) for name in AssembleMembers.model_fields if name != "trajectory"}
        harness, probe = reread.harness_tree, reread.probe_tree
        assert probe is not None
        mended = RunVariant(only=("tests/test_calc.py::test_add",))
        base, result = self.source.base_tree, request.patch.result_tree
        sealing = SealBundle(
            **fields, regression=determinism, determinism=determinism, limits=Limits(), members=members,
            rerun_bundle_digest=rerun.bundle_digest, candidate_id="cand-1",
            explorer_name="external", explorer_version="1", base_runs=(request.base, self.run(BASE, base, **base_run)),
            patched_runs=(request.patched, self.run(PATCHED, harness, **patched_run)),
            rerun_runs=(self.run(BASE, base, **base_run), self.run(PATCHED, harness, **patched_run)),
            probe=self.run(PROBED, probe, variant=mended),
            base_scan=self.scan(base, result), patched_scan=self.scan(result, base),
        )  # fmt: skip
        return sealing.model_copy(update={"regression": self.regression(sealing)})

    def rejecting(self) -> SealRejection:
        """A patch that loses a test, with the receipts that show it."""
        imported = self.imported()
        worse: Outcomes = {**PATCHED, "tests/test_calc.py::test_zero": "failed"}
        base = tuple(self.run(BASE, self.source.base_tree) for _ in range(2))
        patched = tuple(self.run(worse, imported.harness_tree) for _ in range(2))
        judged = self.verify.judge_runs(JudgeRuns(base=base, patched=patched))
        return SealRejection(
            source=self.source, patch=imported.patch, candidate_id="cand-1", verdict=judged.verdict, codes=judged.codes,
            message=judged.message, policy=make_inputs().policy, judged=judged, runs=(*base, *patched),
        )  # fmt: skip

    def seal(self, request: SealBundle) -> SealedBundle:
        with as_acting(who()):
            return self.signing.seal_bundle(request)

    def sealed(self) -> SealedBundle:
        with as_acting(who()):
            return self.signing.seal_bundle(self.sealing())

    def trust_gate(self, sealed: SealedBundle, **changes: Any) -> GateReport:
        with as_acting(who(task=changes.pop("task", "task-1"))):
            source = changes.pop("source", self.source)
            return self.evidence.trust_gate(VerifyBundle(bundle=sealed.bundle.model_copy(update=changes), source=source))


@contextlib.contextmanager
def running_signer(ports: SignerPorts, socket: Path) -> Iterator[None]:
    """The signer's service in a thread, on its socket."""
    listener = Listener(socket, {os.geteuid()}, os.geteuid(), SignerService(ports).handle)
    thread = threading.Thread(target=listener.serve)
    thread.start()
    try:
        yield
    finally:
        listener.stop()
        thread.join()


@contextlib.contextmanager
def make_fabric(
    root: Path, policy: PolicyPort, now_s: Callable[[], float] = lambda: float(NOW_S), signing: StatementSigner | None = None
) -> Iterator[Fabric]:
    """Args:
    signing: who signs; default: the key in the signer's folder, as it is at each call.
    """
    home = Home.open(root / "home")
    home.signer.mkdir(mode=0o700)
    blobs, objects = BlobStore(home.blobs, "local"), ObjectStore.open(home.objects)
    inputs = make_inputs()
    files = {"calc.py": b"def add(a, b):\n    return a - b\n", "tests/test_calc.py": b"from calc import add\n"}
    tree = objects.write_tree(EMPTY_TREE, files)
    person = f"A <a@example.org> {inputs.source.commit_time} +0000"
    commit = objects.take_commit(f"tree {tree}\nauthor {person}\ncommitter {person}\n\nbase\n".encode())
    source = inputs.source.model_copy(update={"base_tree": tree, "base_commit": commit})
    lock = blobs.put(jcs(inputs.lock))
    environment = Environment(
        environment_digest=f"sha256:{lock.sha256}", base_digest=inputs.lock.base_digest, lock=lock,
        python_version=inputs.lock.python_version, platform=inputs.lock.platform,
    )  # fmt: skip
    signer, executor = load_signer(home.signer), ec.generate_private_key(ec.SECP256R1())
    began = int(now_s()) - 60
    named, document = (signing or signer).trusted(began), (signing or signer).root_document
    ports = EvidencePorts(
        blobs=blobs, objects=objects, bundles=home.bundles, attestations=home.attestations, rejections=home.rejections,
        trust=ensure_trust(home.keys, named, (POLICY_DIGEST,), began, trusted_roots=(document,) if document else ()),
        base_packages=lambda _: PACKAGES, now_s=now_s,
    )  # fmt: skip
    believed = Believed(executors=(pem_of(executor.public_key()),), policy_digests=frozenset({POLICY_DIGEST}))
    service = SignerPorts(
        folder=home.signer, own_uid=os.geteuid(), signer=lambda: signing or load_signer(home.signer), believed=lambda: believed,
        base_packages=lambda _: PACKAGES, regression=report_if_allowed, gen4_version="0.1.0", git_version="2.39.5", now_s=now_s,
    )  # fmt: skip
    socket = home.run / "signer.sock"
    client = SignerClient(lambda: connect(socket), blobs, objects)
    with running_signer(service, socket):
        yield Fabric(
            home, blobs, objects, ports, source, EvidenceActivities(ports), SigningActivities(ports, client, lambda: None),
            client, VerifyActivities(blobs, policy), CompileActivities(blobs, objects), environment, signer, policy,
            executor,
        )  # fmt: skip
    for folder in home.bundles.iterdir():
        folder.chmod(0o700)

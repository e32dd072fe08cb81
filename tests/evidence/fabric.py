"""The stores of one home, an executor's key, and a signer on its socket: all that sealing needs but a sandbox."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec

from activities.compile.activities import CompileActivities
from activities.evidence.activities import EvidenceActivities, EvidencePorts, SigningActivities
from activities.evidence.establishing import Believed
from activities.evidence.signer_client import SignerClient
from activities.evidence.signer_service import SignerPorts, SignerService
from activities.evidence.signing import Signer, StatementSigner, load_signer
from activities.evidence.trusting import ensure_trust
from activities.kernel.acting import Acting, as_acting
from activities.kernel.channel import connect
from activities.kernel.judging import PolicyPort
from activities.kernel.listening import Listener
from activities.kernel.signing_keys import pem_of
from activities.record.blobs import BlobStore
from activities.record.home import Home
from activities.record.objects import ObjectStore
from activities.testbed import receipts
from activities.testbed.receipts import Seen
from activities.testbed.run import run_key
from activities.verify.activities import VerifyActivities
from schemas.canonical import jcs
from schemas.capabilities import (
    AssembleMembers,
    DeterminismInput,
    ImportedPatch,
    ImportPatch,
    JudgeRuns,
    ReadMembers,
    RunTests,
    SealBundle,
    SealedBundle,
    SealRejection,
    VerifyBundle,
)
from schemas.event import Actor
from schemas.gates import GateReport
from schemas.task import Source, TraceKeys
from schemas.test_command import parse_test_command
from schemas.testing import Environment, Limits, Outcomes, RunVariant, TestRun
from tests.evidence.workshop import BASE, NOW_S, PATCHED, POLICY_DIGEST, make_inputs, make_run, passing

EMPTY_TREE = "4b825dc642cb6eb9a060e54bf8d69288fbee4904"
PACKAGES = {"libc6:amd64": "2.36-9"}
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
    executor: ec.EllipticCurvePrivateKey = field(repr=False)

    def imported(self) -> ImportedPatch:
        edits = {"calc.py": b"def add(a, b):\n    return a + b\n"}
        diff = self.objects.diff(self.source.base_tree, self.objects.write_tree(self.source.base_tree, edits))
        return self.compile.import_patch(ImportPatch(source=self.source, patch=diff.decode()))

    def run(
        self, outcomes: Outcomes, tree: str, *, variant: RunVariant | None = None, key: ec.EllipticCurvePrivateKey | None = None,
        tenant: str = "local", planted: int = 3, caught: int = 3, **changes: Any,
    ) -> TestRun:  # fmt: skip
        """A run with the receipt that an executor of this fabric signs for it; ``changes`` are made before that."""
        asked = RunTests(
            tree=tree, environment=self.environment, plan=parse_test_command(("pytest", "-q")), limits=Limits(),
            commit_time=self.source.commit_time, purpose="patched", variant=variant or RunVariant(),
        )  # fmt: skip
        run = make_run(outcomes, "0").model_copy(
            update={
                "outcomes": self.blobs.put(jcs(dict(outcomes))), "run_key": run_key(asked, tenant), "variant": asked.variant,
                **changes,
            }
        )  # fmt: skip
        receipt = receipts.receipt_of(asked, run, Seen(tenant, "ee" * 32, planted, caught))
        return run.model_copy(update={"receipt": self.blobs.put(receipts.sign(key or self.executor, receipt))})

    def assembling(self, trajectory: bytes | None = None) -> AssembleMembers:
        imported, policy = self.imported(), make_inputs().policy
        base = [self.run(BASE, self.source.base_tree) for _ in range(2)]
        patched = [self.run(PATCHED, imported.harness_tree) for _ in range(2)]
        return AssembleMembers(
            source=self.source, patch=imported.patch, environment=self.environment, plan=parse_test_command(("pytest", "-q")),
            base=base[0], patched=patched[0], policy=policy,
            judged=self.verify.judge_runs(JudgeRuns(base=tuple(base), patched=tuple(patched))),
            trajectory=None if trajectory is None else self.blobs.put(trajectory),
        )  # fmt: skip

    def sealing(self, trajectory: bytes | None = None) -> SealBundle:
        """The request of a workflow in which everything went well: two runs of each tree, probe, re-run, both gates."""
        request = self.assembling(trajectory)
        members = self.evidence.assemble_members(request)
        reread = self.compile.import_patch(self.evidence.reread_patch(ReadMembers(members=members, source=self.source)))
        rerun = self.evidence.assemble_members(request.model_copy(update={"patch": reread.patch}))
        gates: dict[str, GateReport] = {
            "regression": passing("regression", "REG_TEST_LOST"),
            "determinism": self.verify.determinism_gate(
                DeterminismInput(first=members, rerun=rerun, runs=2, isolation="fresh_sandbox")
            ),
        }
        fields = {name: getattr(request, name) for name in AssembleMembers.model_fields if name != "trajectory"}
        harness, probe = reread.harness_tree, reread.probe_tree
        assert probe is not None
        mended = RunVariant(only=("tests/test_calc.py::test_add",))
        return SealBundle(
            **fields, **gates, limits=Limits(), members=members, rerun_bundle_digest=rerun.bundle_digest, runs=2,
            candidate_id="cand-1", explorer_name="external", explorer_version="1",
            base_runs=(request.base, self.run(BASE, self.source.base_tree)),
            patched_runs=(request.patched, self.run(PATCHED, harness)),
            rerun_runs=(self.run(BASE, self.source.base_tree), self.run(PATCHED, harness)),
            probe=self.run(PROBED, probe, variant=mended),
        )  # fmt: skip

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
        base_packages=lambda _: PACKAGES, gen4_version="0.1.0", git_version="2.39.5", now_s=now_s,
    )  # fmt: skip
    socket = home.run / "signer.sock"
    client = SignerClient(lambda: connect(socket), blobs, objects)
    with running_signer(service, socket):
        yield Fabric(
            home, blobs, objects, ports, source, EvidenceActivities(ports), SigningActivities(ports, client, lambda: None),
            client, VerifyActivities(blobs, policy), CompileActivities(blobs, objects), environment, signer, executor,
        )  # fmt: skip
    for folder in home.bundles.iterdir():
        folder.chmod(0o700)

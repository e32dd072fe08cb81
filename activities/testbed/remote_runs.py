"""Test runs, scans and benchmarks as a worker has them made: an executor runs and signs, the worker keeps and follows."""

from __future__ import annotations

import logging
import select
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import IO, Any, Generic, cast

from activities.kernel.channel import Channel, Closed, begin, error_of
from activities.kernel.sandbox.port import CpuUsed
from activities.kernel.sandbox.remote import END_TIMEOUT_S, Executor
from activities.kernel.sandbox.running import Running, known
from activities.record.blobs import BlobStore
from activities.record.objects import ObjectStore
from activities.testbed.environment import Environments
from activities.testbed.executing import BenchmarkRequest, Result, RunRequest, ScanRequest, contents_of
from activities.testbed.harness import HARNESS_LOCK, pinned_requirements
from activities.testbed.scanning import Missing
from schemas.capabilities import RunTests
from schemas.error import InfrastructureError
from schemas.model import BlobRef, Digest, Door
from schemas.receipt import ReceiptLimits, ReceiptPlan, ReceiptVariant
from schemas.regression import BenchmarkSample, RunBenchmark, ScannedTree, ScanTree
from schemas.testing import TestRun

log = logging.getLogger(__name__)

Heartbeat = Callable[[], None]
_PATIENCE_S = 1.0
_LOST = frozenset({"CHANNEL_CLOSED", "CHANNEL_UNAVAILABLE"})
RESTART_S = 15.0
"""How long the supervisor may take to start an executor again."""
_RETRY_S = 0.2
SILENT_S = 60.0
"""An executor tells every second that it lives; one that is silent for so long is given up."""
_IN_MEMORY = 16 << 20
_LONGEST_REASON = 2_000


class Contents:
    """What an executor may ask a worker for: blobs and trees of its tenant, by their hashes, and what measures runs."""

    def __init__(self, blobs: BlobStore, objects: ObjectStore) -> None:
        self._blobs, self._objects = blobs, objects
        self.environments: Environments | None = None
        """Set as soon as there are any: they need the executor that these contents are for."""

    def __call__(self, wanted: Mapping[str, Any]) -> bytes | IO[bytes]:
        match wanted:
            case {"blob": str(sha256)}:
                return self._blobs.get(sha256)
            case {"pack": str(tree), "known": list(known)}:
                out = cast(IO[bytes], tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY))  # noqa: SIM115  sent, then dropped
                self._objects.pack(tree, out, known)
                return out
            case {"measuring": True} if self.environments is not None:
                folder = self.environments.tools(pinned_requirements(HARNESS_LOCK), lambda: None)
                return self._blobs.get(folder.name)
        raise InfrastructureError("CALL_INVALID", f"the executor asks for {list(wanted)}", "run both in one version")


class RemoteRuns:
    """Has an executor run what needs a receipt. Runs are registered in ``running``, so that kill switches reach them.

    An executor that dies is started again by whoever watches it: the run is then made again, from its beginning.
    """

    __test__ = False

    def __init__(self, executor: Executor, blobs: BlobStore, running: Running) -> None:
        self._executor, self._blobs, self._running = executor, blobs, running

    def prepare(self, tenant_id: str, environment_digest: Digest) -> None:
        """Have an environment made, so that what is wrong with it shows now."""
        self._executor.ask({"environment": {"tenant_id": tenant_id, "environment_digest": environment_digest}})

    def run(self, request: RunTests, heartbeat: Heartbeat, *, tenant_id: str = "local") -> TestRun:
        """One run of tests. ``heartbeat`` is called about every second and may raise to stop.

        Raises:
            Refused: LIMITS_EXCEEDED, BASE_UNKNOWN, TREE_MISMATCH, and what is wrong with the environment.
            InfrastructureError: the executor or its sandbox is gone, or killed the run.
        """
        asked = RunRequest(
            tenant_id=tenant_id, tree=request.tree, environment_digest=request.environment.environment_digest,
            plan=ReceiptPlan.of(request.plan),
            limits=ReceiptLimits.of(request.limits),
            variant=ReceiptVariant.of(request.variant),
            commit_time=request.commit_time, measure=request.measure,
        )  # fmt: skip
        return self._made("run_tests", asked, TestRun, heartbeat)

    def scan(
        self, request: ScanTree, scanners: Digest | Missing, heartbeat: Heartbeat, *, tenant_id: str = "local"
    ) -> ScannedTree:
        """One scan of a tree, by the tools of an environment that the executor has. Raises as :meth:`run`."""
        asked = ScanRequest(
            tenant_id=tenant_id, tree=request.tree, against=request.against, limits=ReceiptLimits.of(request.limits),
            scanners=None if isinstance(scanners, Missing) else scanners,
            why_none=scanners.why[:_LONGEST_REASON] if isinstance(scanners, Missing) else "",
        )  # fmt: skip
        return self._made("scan", asked, ScannedTree, heartbeat)

    def benchmark(self, request: RunBenchmark, heartbeat: Heartbeat, *, tenant_id: str = "local") -> BenchmarkSample:
        """One benchmark of a tree. Raises as :meth:`run`."""
        asked = BenchmarkRequest(
            tenant_id=tenant_id, tree=request.tree, environment_digest=request.environment.environment_digest,
            plan=ReceiptPlan.of(request.plan), argv=request.argv, limits=ReceiptLimits.of(request.limits),
            commit_time=request.commit_time, repeat=request.repeat, ordinal=request.ordinal,
        )  # fmt: skip
        return self._made("benchmark", asked, BenchmarkSample, heartbeat)

    def _made(self, call: str, asked: Door, kind: type[Result], heartbeat: Heartbeat) -> Result:
        lost_at: float | None = None
        while True:
            try:
                return self._once(call, asked, kind, heartbeat)
            except InfrastructureError as error:
                lost_at = time.monotonic() if lost_at is None else lost_at
                if error.code not in _LOST or time.monotonic() > lost_at + RESTART_S:
                    raise
                log.warning("the executor is gone; the run is made again: %s", error)
            time.sleep(_RETRY_S)

    def _once(self, call: str, asked: Door, kind: type[Result], heartbeat: Heartbeat) -> Result:
        with known(self._started(call, asked, kind), self._running) as (_, remote):
            return remote.result(heartbeat)

    @contextmanager
    def _started(self, call: str, asked: Door, kind: type[Result]) -> Iterator[_RemoteRun[Result]]:
        channel = self._executor.connect()
        try:
            channel.wait_at_most(SILENT_S)
            begin(channel, {call: asked.model_dump(mode="json", exclude_none=True)})
            remote = _RemoteRun(channel, self._executor, self._blobs, kind)
            try:
                yield remote
            finally:
                remote.discard()
        finally:
            channel.close()


class _RemoteRun(Generic[Result]):
    """One run on the other side of a channel, with a result of this kind."""

    def __init__(self, channel: Channel, executor: Executor, blobs: BlobStore, kind: type[Result]) -> None:
        self._channel, self._executor, self._blobs = channel, executor, blobs
        self._kind: type[Result] = kind
        self._cpu = CpuUsed()
        self._kept: set[str] = set()
        self._result: Result | None = None
        self._over = False

    def result(self, heartbeat: Heartbeat) -> Result:
        while self._result is None:
            heartbeat()
            self._await(heartbeat)
            self._take()
        missing = {reference.sha256 for reference in contents_of(self._result)} - self._kept
        if missing or self._result.receipt is None:
            raise _nonsense(f"a result without {', '.join(sorted(missing)) or 'a receipt'}")
        return self._result

    def kill(self) -> None:
        try:
            self._channel.send({"kill": True})
        except Closed:
            pass  # it is gone, and so is the sandbox

    def cpu(self) -> CpuUsed:
        return self._cpu

    def discard(self) -> None:
        """Kill what still runs, and wait until the executor has ended it or is gone."""
        if self._over:
            return
        self.kill()
        deadline = time.monotonic() + END_TIMEOUT_S
        try:
            while not self._over and time.monotonic() < deadline:
                self._take()
        except Exception:  # noqa: S110  the end was what we waited for, however it is told
            pass

    def _await(self, heartbeat: Heartbeat) -> None:
        deadline = time.monotonic() + SILENT_S
        while not select.select([self._channel], [], [], _PATIENCE_S)[0]:
            heartbeat()
            if time.monotonic() > deadline:
                self._over = True
                raise InfrastructureError("EXECUTOR_SILENT", f"the executor said nothing for {SILENT_S:.0f} s", "see its log")

    def _take(self) -> None:
        try:
            answer, body = self._channel.receive()
        except Closed:
            self._over = True
            raise
        match answer:
            case {"need": dict(wanted)}:
                self._channel.send({"content": True}, self._executor.supply(wanted))
            case {"progress": [int(ms), str(source)]}:
                self._cpu = CpuUsed(ms, cast(Any, source))
            case {"blob": dict(reference)}:
                self._keep(BlobRef.model_validate(reference), body)
            case {"error": dict(described)}:
                self._over = True
                raise error_of(described)
            case {"result": dict(result)}:
                self._over = True
                self._result = self._kind.model_validate(result)
            case _:
                raise _nonsense("an unknown frame")

    def _keep(self, reference: BlobRef, body: IO[bytes]) -> None:
        kept = self._blobs.put(body.read(), reference.media_type)
        if kept != reference:
            raise _nonsense(f"other bytes than {reference.sha256}")
        self._kept.add(kept.sha256)


def _nonsense(what: str) -> InfrastructureError:
    return InfrastructureError("EXECUTOR_BROKEN", f"the executor sent {what}", "see its log; run it in this version")

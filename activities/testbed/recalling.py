"""The run cache: which runs need not be run again, and which are worth keeping (contracts §10)."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import TypeAdapter, ValidationError

from activities.kernel.acting import acting
from activities.record.blobs import BlobStore
from activities.record.run_cache import AgreedRuns, CacheEntry, RunCache
from activities.testbed.run import run_key
from schemas.canonical import jcs_sha256
from schemas.capabilities import (
    RecalledRuns,
    RecallRuns,
    RememberedRuns,
    RememberRuns,
    RunTests,
)
from schemas.error import Gen4Error
from schemas.testing import Outcomes, RunVariant, TestRun
from schemas.verdict import MINIMUM_RUNS, PROBED, judge, mended_tests

_RUNS: TypeAdapter[tuple[TestRun, ...]] = TypeAdapter(tuple[TestRun, ...])
_OUTCOMES: TypeAdapter[Outcomes] = TypeAdapter(Outcomes)


class Recalling:
    """What is recalled is believed by nobody for that: the signer looks at the receipts of the runs."""

    def __init__(self, blobs: BlobStore, cache: RunCache) -> None:
        self._blobs = blobs
        self._cache = cache

    def recall(self, request: RecallRuns) -> RecalledRuns:
        tenant_id = acting().keys.tenant_id
        keys = [run_key(one, tenant_id) for one in request.requests]
        known = self._cache.recall(keys)
        runs = tuple(self._hit(one, known.get(key)) for one, key in zip(request.requests, keys, strict=True))
        return RecalledRuns(
            runs=runs,
            irreproducible=tuple(dict.fromkeys(key for key in keys if key in known and known[key].state == "irreproducible")),
            probe=self._probe(request, runs) if request.probe is not None and all(runs) else None,
        )

    def remember(self, request: RememberRuns) -> RememberedRuns:
        who = acting()
        stored, conflicts = 0, []
        for group in filter(worth_keeping, request.groups):
            agreed = AgreedRuns(
                run_key=group[0].run_key,
                outcomes_sha256=group[0].outcomes_sha256,
                runs=self._blobs.put_json([run.model_dump(mode="json") for run in group]),
                measured=all(run.coverage is not None for run in group),
            )
            kept = self._cache.remember(who.keys, who.actor, who.effect_key, agreed)
            stored += kept != "conflict"
            if kept == "conflict":
                conflicts.append(agreed.run_key)
        return RememberedRuns(stored=stored, conflicts=tuple(conflicts))

    def _probe(self, request: RecallRuns, runs: tuple[tuple[TestRun, ...], ...]) -> TestRun | None:
        """The probe of exactly the tests that these runs show to be mended."""
        base, patched = (_OUTCOMES.validate_python(self._blobs.get_json(each[0].outcomes)) for each in runs)
        only = mended_tests(judge(base, patched, request.named_targets, request.waived_tests), patched)[:PROBED]
        if request.probe is None or not only:
            return None
        probe = request.probe.model_copy(update={"variant": RunVariant(only=only)})
        key = run_key(probe, acting().keys.tenant_id)
        return next(iter(self._hit(probe, self._cache.recall([key]).get(key))), None)

    def _hit(self, request: RunTests, entry: CacheEntry | None) -> tuple[TestRun, ...]:
        """The agreed runs, or none where anything that they refer to is gone, or was not measured."""
        if entry is None or entry.state != "agreed" or not _is_plain(request.variant):
            return ()
        if request.measure and not entry.agreed.measured:
            return ()
        try:
            runs = _RUNS.validate_json(self._blobs.get(entry.agreed.runs))
        except (Gen4Error, ValidationError):
            return ()
        if not worth_keeping(runs) or any(run.run_key != entry.agreed.run_key or not self._whole(run) for run in runs):
            return ()
        return tuple(run.model_copy(update={"cached": True}) for run in runs)

    def _whole(self, run: TestRun) -> bool:
        try:
            for ref in (run.receipt, run.coverage, run.timings):
                if ref is not None:
                    self._blobs.get(ref)
            return jcs_sha256(self._blobs.get_json(run.outcomes)) == run.outcomes_sha256
        except Gen4Error:
            return False


def worth_keeping(runs: Sequence[TestRun]) -> bool:
    """Enough executions of one key that agree, with a real verdict: no code says that something came in between.

    Of a probe, which is confined to some tests, one is all there is.
    """
    return (
        bool(runs)
        and (len(runs) >= MINIMUM_RUNS or bool(runs[0].variant.only))
        and len({(run.run_key, run.outcomes_sha256) for run in runs}) == 1
        and all(run.status in ("passed", "failed") and not run.codes for run in runs)
        and all(_is_plain(run.variant) and not run.cached for run in runs)
        and _executed_apart(runs)
    )


def _is_plain(variant: RunVariant) -> bool:
    return variant == RunVariant(only=variant.only)


def _executed_apart(runs: Sequence[TestRun]) -> bool:
    receipts = [run.receipt.sha256 for run in runs if run.receipt is not None]
    return len(set(receipts)) == len(receipts)

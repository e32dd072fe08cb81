"""What a search leaves behind: trajectory steps, confirmed candidates, and a cursor that the next attempt goes on from."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from pydantic import TypeAdapter

from activities.explore.deciding import Decided, Ready
from activities.explore.progress import Progress
from activities.explore.search import Goal
from activities.explore.space import Ranked, Space
from activities.record.blobs import BlobStore
from activities.record.cursors import Cursors
from activities.record.objects import ObjectStore
from activities.record.trajectory import TrajectoryWriter
from activities.testbed.run import TestBed
from schemas.candidate import Candidate
from schemas.canonical import jcs, sha256_hex
from schemas.capabilities import Repair, RunTests
from schemas.task import TraceKeys
from schemas.testing import Outcomes, Patch
from schemas.trajectory import ToolCall
from schemas.verdict import judge

ENGINE_VERSION = "1"
AGENT = f"gen4:templates/{ENGINE_VERSION}"
_OUTCOMES: TypeAdapter[Outcomes] = TypeAdapter(Outcomes)


@dataclass(frozen=True)
class Stores:
    """The ports that a search writes to. ``clock``: None for the machine's."""

    blobs: BlobStore
    objects: ObjectStore
    cursors: Cursors
    testbed: TestBed
    clock: Callable[[], datetime] | None = None


class RecordedSearch:
    """The journal of one search; see :class:`activities.explore.search.Journal`."""

    def __init__(
        self, stores: Stores, request: Repair, goal: Goal, keys: TraceKeys, cursor_key: str, heartbeat: Callable[[], None]
    ) -> None:
        self._stores, self._request, self._goal = stores, request, goal
        self._keys, self._cursor_key, self._heartbeat = keys, cursor_key, heartbeat
        self._base_snapshot = stores.objects.snapshot_hash(request.base_tree)
        self._base = _OUTCOMES.validate_python(stores.blobs.get_json(request.baseline.outcomes))
        self._space: Space | None = None

    def resume(self) -> Progress:
        """The progress of an earlier attempt, or none."""
        stored = self._stores.cursors.load(self._cursor_key)
        progress = Progress() if stored is None else Progress.model_validate(stored)
        clock = {} if self._stores.clock is None else {"clock": self._stores.clock}
        self._writer = TrajectoryWriter(AGENT, self._stores.blobs, progress.steps, **clock)
        return progress

    def begin(self, space: Space, ready: Ready) -> None:
        """The first two steps; nothing when an earlier attempt has recorded them."""
        self._space = space
        if self._writer.steps:
            return
        localization = self._request.localization
        self._step(
            "The lines that failing tests run and passing tests do not are the suspects.",
            "localize",
            {"targets": list(self._goal.targets[:50]), "formula": "ochiai"},
            {"suspects": localization.suspects, "tests": localization.tests, "ranking_sha256": localization.ranking.sha256},
        )
        self._step(
            "Try single edits of suspicious statements, best suspiciousness × prior first, on the failing tests, then on all.",
            "plan",
            {"keep": self._goal.keep, "all_targets": self._goal.named, "engine": AGENT},
            {"statements": len(space.units), "collected": ready.collected, "unsteady": list(ready.unsteady[:50])},
        )

    def summary(self, verdicts: dict[str, int], tried: int) -> None:
        self._step("Decided a batch of edits in forks.", "try_edits", {"until": tried}, dict(sorted(verdicts.items())))

    def confirm(self, ranked: Ranked, decided: Decided, tried: int) -> Candidate | None:
        edit, request = ranked.edit, self._request
        module = self._space.module(edit.path) if self._space is not None else None
        if module is None:
            return None
        tree = self._stores.objects.write_tree(request.base_tree, {edit.path: edit.apply(module.data)})
        run = self._stores.testbed.run(
            RunTests(
                tree=tree, environment=request.environment, plan=request.plan, limits=request.limits,
                commit_time=request.commit_time, purpose="explore",
            ),
            self._heartbeat,
            tenant_id=self._keys.tenant_id,
        )  # fmt: skip
        patched = _OUTCOMES.validate_python(self._stores.blobs.get_json(run.outcomes))
        judgement = judge(self._base, patched, request.named_targets)
        diff = self._stores.objects.diff(request.base_tree, tree)
        candidate_id = sha256_hex(jcs({"base_tree": request.base_tree, "patch_sha256": sha256_hex(diff), "engine": AGENT}))[:32]
        self._writer.add(
            thought=f"{edit.template} at {edit.path}:{edit.line} mends {len(decided.mended)} of {len(self._goal.targets)} "
            "failing tests in a fork; the whole suite in a fresh process decides.",
            snapshot_hash=self._stores.objects.snapshot_hash(tree),
            tool_call=ToolCall(
                name="run_tests",
                args={
                    "tree": tree,
                    "path": edit.path,
                    "line": edit.line,
                    "template": edit.template,
                    "patch_sha256": sha256_hex(diff),
                    "tried": tried,
                },
            ),
            tool_output=json.dumps(
                {
                    "verdict": judgement.verdict,
                    "codes": judgement.codes,
                    "fix": judgement.fix,
                    "mended": judgement.fail_to_pass,
                    "lost": judgement.lost,
                },
                sort_keys=True,
            ),
            candidate_id=candidate_id,
        )
        if judgement.verdict != "accepted":
            return None
        trajectory = self._writer.lines()
        patch = Patch(
            base_tree=request.base_tree,
            result_tree=tree,
            diff=self._stores.blobs.put(diff, "text/x-diff"),
            patch_sha256=sha256_hex(diff),
            paths=tuple(self._stores.objects.changed_paths(request.base_tree, tree)),
        )
        return Candidate(
            candidate_id=candidate_id,
            engine="templates",
            engine_version=ENGINE_VERSION,
            patch=patch,
            fix=judgement.fix,
            trajectory=self._stores.blobs.put(trajectory, "application/jsonl"),
            trajectory_sha256=sha256_hex(trajectory),
            template=edit.template,
            path=edit.path,
            line=edit.line,
            score=round(ranked.value, 6),
        )

    def save(self, progress: Progress) -> None:
        stored = progress.model_copy(update={"steps": self._writer.steps})
        self._stores.cursors.save(self._keys, self._cursor_key, stored.model_dump(mode="json"))

    def _step(self, thought: str, tool: str, args: dict[str, object], output: dict[str, object] | dict[str, int]) -> None:
        self._writer.add(
            thought=thought,
            snapshot_hash=self._base_snapshot,
            tool_call=ToolCall(name=tool, args=args),
            tool_output=json.dumps(output, sort_keys=True),
        )

"""One repair: ranking in, candidates out; fork servers that die are replaced, and the search goes on behind what killed them."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager

from pydantic import TypeAdapter

from activities.explore.deciding import ForkServer
from activities.explore.product import files_of, is_product
from activities.explore.progress import ranked
from activities.explore.recording import RecordedSearch, Stores
from activities.explore.search import Goal, Search
from activities.explore.space import Space
from activities.explore.tracing import targets_of
from activities.kernel.limiting import KernelPolicy
from activities.kernel.sandbox.port import SandboxProcess
from schemas.candidate import Candidate, Exploration, StopReason, Suspect
from schemas.capabilities import Repair
from schemas.error import InfrastructureError
from schemas.task import TraceKeys
from schemas.testing import FAILING, Limits, Outcomes

_SUSPECTS: TypeAdapter[list[Suspect]] = TypeAdapter(list[Suspect])
_OUTCOMES: TypeAdapter[Outcomes] = TypeAdapter(Outcomes)
MAX_SERVERS = 20
"""Fork servers that one attempt may lose before it gives up."""
LOST = frozenset({"FORK_SERVER_GONE", "SANDBOX_GONE"})
"""What an edit may have done to its server. Anything else, such as a store that is down, is not the edit's doing."""
_WALL_MARGIN_MS = 120_000
_OUTPUT_BYTES = 512 * 1024 * 1024


class Repairing:
    """``heartbeat`` is called at least every second and may raise to stop."""

    def __init__(self, stores: Stores, request: Repair, keys: TraceKeys, cursor_key: str, heartbeat: Callable[[], None]) -> None:
        self._stores, self._request, self._keys, self._cursor_key, self._heartbeat = stores, request, keys, cursor_key, heartbeat
        self._outcomes = _OUTCOMES.validate_python(stores.blobs.get_json(request.baseline.outcomes))
        self._until = time.monotonic() + (request.wall_ms + _WALL_MARGIN_MS) / 1000

    def run(self) -> Exploration:
        request = self._request
        if not self._outcomes:
            return _nothing("no_tests", "no test ran on the base tree")
        targets = targets_of(self._outcomes, request.named_targets)
        unfailing = [nodeid for nodeid in targets if self._outcomes.get(nodeid) not in FAILING]
        if not targets or unfailing:
            return _nothing(
                "no_failing_test",
                f"not failing on base: {', '.join(unfailing[:5])}" if unfailing else "every test passes on base",
            )
        suspects = _SUSPECTS.validate_python(self._stores.blobs.get_json(request.localization.ranking))
        space = Space(suspects, self._read, files_of(list(self._outcomes)))
        if not space.units:
            return _nothing("no_suspects", _why_no_unit(suspects, files_of(list(self._outcomes))))
        steps = KernelPolicy.load().limits.attempt.steps
        goal = Goal(targets, bool(request.named_targets), request.keep, request.wall_ms, steps)
        return self._search(goal, space)

    def _search(self, goal: Goal, space: Space) -> Exploration:
        journal = RecordedSearch(self._stores, self._request, goal, self._keys, self._cursor_key, self._heartbeat)
        progress = journal.resume()
        for lost in range(MAX_SERVERS):
            search: Search | None = None
            try:
                with self._session(goal) as process:
                    server = ForkServer(process, self._heartbeat)
                    journal.begin(space, server.ready())
                    search = Search(space, server, journal, goal, progress)
                    stopped = search.run()
                return self._concluded(search.progress.found, search.progress.tried, space.offered, stopped)
            except InfrastructureError as error:
                if search is None or lost + 1 == MAX_SERVERS or error.code not in LOST:
                    raise
                progress = search.skip_lost()
                if time.monotonic() >= self._until:
                    return self._concluded(progress.found, progress.tried, space.offered, "wall_time")
        raise AssertionError("unreachable")

    def _session(self, goal: Goal) -> AbstractContextManager[SandboxProcess]:
        request = self._request
        return self._stores.testbed.session(
            request.base_tree,
            request.environment,
            request.plan,
            self._limits(),
            "forkserver",
            self._job(goal),
            commit_time=request.commit_time,
        )

    def _concluded(self, found: tuple[Candidate, ...], tried: int, offered: int, stopped: StopReason) -> Exploration:
        sizes = {candidate.patch.patch_sha256: candidate.patch.diff.size for candidate in found}
        message = "" if found else f"none of {tried} single edits mends the failing tests without breaking others"
        return Exploration(candidates=ranked(found, sizes), tried=tried, space=offered, stopped=stopped, message=message)

    def _read(self, path: str) -> bytes | None:
        self._heartbeat()
        return self._stores.objects.file(self._request.base_tree, path)

    def _job(self, goal: Goal) -> dict[str, object]:
        passing = [nodeid for nodeid, outcome in self._outcomes.items() if outcome == "passed"]
        return {
            "targets": list(goal.targets),
            "passing": passing,
            "named": goal.named,
            "memory_mb": self._request.limits.memory_mb,
        }

    def _limits(self) -> Limits:
        # One sandbox serves the whole search, so its limits are the search's and not those of one run; a second one what is left.
        limits, left_ms = self._request.limits, max(1, round((self._until - time.monotonic()) * 1000))
        return limits.model_copy(update={"wall_ms": left_ms, "output_bytes": max(limits.output_bytes, _OUTPUT_BYTES)})


def _why_no_unit(suspects: list[Suspect], test_files: frozenset[str]) -> str:
    """Product code that ran and that no edit can be made in is named, so that nobody looks for missing coverage."""
    product = sorted({suspect.path for suspect in suspects if is_product(suspect.path, test_files)})
    if not product:
        return "the failing tests run no line of product code"
    return f"no statement that an edit could change in {', '.join(product[:5])}: read are files of UTF-8 Python up to 1 MB"


def _nothing(stopped: StopReason, message: str) -> Exploration:
    return Exploration(candidates=(), tried=0, space=0, stopped=stopped, message=message)

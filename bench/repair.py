"""Solve rate and times of the offline engine on pairs of a pair file: one JSON document on standard output.

python -m bench.repair [--pairs FILE] [--unnamed] [ID …]
python -m bench.repair --examples FOLDER      every folder in it is a tree whose failing tests are the targets
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from activities.explore.recording import Stores
from activities.explore.repairing import Repairing
from activities.explore.tracing import read_spectra, targets_of, trace_job
from bench.bed import Bed, open_bed
from cli.demo_source import Pair, fetch_pair, load_pairs
from schemas.candidate import Exploration
from schemas.capabilities import Localization, Localize, Repair, RunTests
from schemas.task import TraceKeys
from schemas.test_command import parse_test_command
from schemas.testing import Limits

DEFAULT_PAIRS = Path(__file__).parent.parent / "deploy" / "demo" / "pairs.json"
KEYS = TraceKeys(tenant_id="local", trace_id="bench", session_id="bench", task_id="bench")
COMMIT_TIME = 1_700_000_000


def repair_tree(
    bed: Bed,
    folder: Path,
    command: tuple[str, ...],
    requirements: tuple[str, ...],
    named: tuple[str, ...],
    wall_ms: int,
    limits: Limits,
    keep: int = 4,
) -> tuple[Exploration, dict[str, float]]:
    """Baseline, localisation and repair of the tree in ``folder``; the exploration and seconds by stage."""
    tree, plan = bed.tree_of(folder), parse_test_command(command)
    seconds: dict[str, float] = {}
    began = time.monotonic()

    def lap(name: str) -> None:
        nonlocal began
        seconds[name] = round(time.monotonic() - began, 2)
        began = time.monotonic()

    environment = bed.environments.prepare(tree, requirements, beat)
    lap("environment")
    run = RunTests(tree=tree, environment=environment, plan=plan, limits=limits, commit_time=COMMIT_TIME, purpose="base")
    baseline = bed.testbed.run(run, beat)
    lap("baseline")
    common: dict[str, Any] = {
        "base_tree": tree, "environment": environment, "plan": plan, "limits": limits, "commit_time": COMMIT_TIME,
        "baseline": baseline, "named_targets": named,
    }  # fmt: skip
    outcomes = bed.blobs.get_json(baseline.outcomes)
    targets = targets_of(outcomes, named)
    request = Localize(**common)
    job = trace_job(request, outcomes, targets)
    with bed.testbed.session(tree, environment, plan, limits, "trace", job, commit_time=COMMIT_TIME) as process:
        suspects, tests = read_spectra(process, targets, outcomes, beat)
    ranking = bed.blobs.put_json([suspect.model_dump(mode="json") for suspect in suspects])
    lap("localize")
    localization = Localization(ranking=ranking, suspects=len(suspects), targets=targets, tests=tests)
    stores = Stores(bed.blobs, bed.objects, bed.cursors, bed.testbed)
    asked = Repair(**common, localization=localization, keep=keep, wall_ms=wall_ms)
    exploration = Repairing(stores, asked, KEYS, f"{folder.name}-{bool(named)}", beat).run()
    lap("repair")
    return exploration, seconds


def beat() -> None:
    """Nobody listens."""


def report(exploration: Exploration, seconds: dict[str, float]) -> dict[str, Any]:
    return {
        "solved": any(candidate.fix == "complete" for candidate in exploration.candidates),
        "candidates": [
            {"fix": found.fix, "template": found.template, "path": found.path, "line": found.line, "score": found.score}
            for found in exploration.candidates
        ],
        "tried": exploration.tried, "stopped": exploration.stopped, "message": exploration.message,
        "seconds": seconds, "engine_seconds": round(seconds["localize"] + seconds["repair"], 2),
    }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=Path, default=DEFAULT_PAIRS)
    parser.add_argument("--unnamed", action="store_true", help="name no failing test: all that fail are targets")
    parser.add_argument("--wall-ms", type=int, default=300_000)
    parser.add_argument("--examples", type=Path)
    parser.add_argument("ids", nargs="*")
    options = parser.parse_args()
    return _examples(options) if options.examples else _pairs(options)


def _examples(options: argparse.Namespace) -> int:
    results: dict[str, Any] = {}
    with open_bed() as bed:
        for folder in sorted(path for path in options.examples.iterdir() if path.is_dir()):
            results[folder.name] = report(*repair_tree(bed, folder, (), (), (), options.wall_ms, Limits(test_ms=5_000)))
            print(json.dumps({folder.name: results[folder.name]}), file=sys.stderr)
    return _print(results)


def _pairs(options: argparse.Namespace) -> int:
    pairs = load_pairs(options.pairs)
    results: dict[str, Any] = {}
    with open_bed() as bed, tempfile.TemporaryDirectory(prefix="gen4-pairs-") as name:
        for pair_id in options.ids or sorted(pairs):
            results[pair_id] = _one(bed, pairs[pair_id], Path(name), options)
            print(json.dumps({pair_id: results[pair_id]}), file=sys.stderr)
    return _print(results)


def _print(results: dict[str, Any]) -> int:
    solved = sum(result["solved"] for result in results.values())
    print(json.dumps({"solved": solved, "of": len(results), "results": results}, indent=2))
    return 0


def command_of(pair: Pair) -> tuple[str, ...]:
    return tuple(shlex.split(pair.test_cmd))


def _one(bed: Bed, pair: Pair, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    tree = fetch_pair(pair, folder / pair.id)
    named = () if options.unnamed else pair.fail_to_pass
    return report(*repair_tree(bed, tree, command_of(pair), pair.extra_requirements, named, options.wall_ms, Limits()))


if __name__ == "__main__":
    sys.exit(main())

"""``python -m bench [NAME …]``: every benchmark, or those named, one after the other; one JSON document of all results.

Exit code 1 when a target was missed, 3 when a benchmark could not be run.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

from bench import BENCHMARKS


def main(names: list[str]) -> int:
    if unknown := sorted(set(names) - BENCHMARKS.keys()):
        print(f"no benchmark is called {', '.join(unknown)}; there are {', '.join(BENCHMARKS)}", file=sys.stderr)
        return 2
    results: dict[str, Any] = {}
    for name in names or BENCHMARKS:
        print(f"bench: {name}: {BENCHMARKS[name]}", file=sys.stderr, flush=True)
        done = subprocess.run([sys.executable, "-m", f"bench.{name}"], stdout=subprocess.PIPE, text=True)
        results[name] = _document(done)
    print(json.dumps(results, indent=2))
    missed = sorted(path for name, result in results.items() for path, met in targets(name, result) if not met)
    print(f"bench: targets missed: {', '.join(missed) or 'none'}", file=sys.stderr)
    return 3 if any("failed" in result for result in results.values()) else int(bool(missed))


def _document(done: subprocess.CompletedProcess[str]) -> Any:
    """What a benchmark printed; it does so too when a target was missed, and then its exit code is 1."""
    try:
        return json.loads(done.stdout)
    except ValueError:
        return {"failed": f"no result, exit code {done.returncode}"}


def targets(path: str, result: Any) -> Iterator[tuple[str, bool]]:
    """Every ``met`` in a result, with where it stands."""
    if isinstance(result, dict):
        if isinstance(result.get("met"), bool):
            yield path, result["met"]
        for name, inner in result.items():
            yield from targets(f"{path}.{name}", inner)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

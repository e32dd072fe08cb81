"""Benchmarks: every figure in ``docs/benchmarks.md`` is printed by one of these programs, as one JSON document.

Where something is promised the document says ``ratio`` (or what was measured), ``target`` and ``met``, and the exit code is 1
when a target was missed. What is compared is measured in one run, in turns: times of two runs of this machine differ by more
than most of what is looked for. ``make bench`` runs them all; ``python -m bench kernel throughput`` those that are named.
"""

BENCHMARKS = {
    "explore": "deciding a candidate in the fork server, against a fresh pytest process",
    "repair": "how many published bugs the offline engine repairs, and how long it takes",
    "compile": "test executions of a Compile against bare `docker run`, and a Compile whose runs are all cached",
    "kernel": "the gate's decision against govern() of the agent-governance-toolkit, and everything but its commit",
    "throughput": "one-activity workflows a second through the gate and without it, on one Temporal server",
    "events": "appending and verifying events against bare writers and readers of the same rows",
    "ledger": "reserve and settle against the bare rows, on SQLite and PostgreSQL; memory of reconciling",
    "evidence": "verifying a bundle against cosign, hashing against sha256sum, memory of a 500 MB trajectory",
    "simulator": "simulated events a second, and whether a million of them take more memory than a quarter",
}
"""Name of the module: what it measures."""

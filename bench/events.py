"""How fast events are appended and verified, and that memory does not grow with their number.

    python -m bench.events [--events N] [--batch N] [--folder DIR] [--memory N]

``append``: an encrypting chain against a bare sqlite3 writer that canonicalises (rfc8785), hashes and commits the same rows in
the same batches, alternating. ``single``: appends of one event each against writing and fsyncing a file beside, alternating.
``verify``: the verifier against a loop that only reads the same rows and hashes them, in SQL order, alternating; ``plain`` is a
store that encrypts nothing, ``encrypted`` one that does. ``memory``: peak of a process that verifies N events, and 4 N, in one
session. Prints one JSON document; times are of this machine, the ratios were taken in one run.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import rfc8785

from activities.record.chain import EventChain
from activities.record.payloads import PayloadVault
from activities.record.store import Store
from schemas.event import GENESIS, Actor, EventDraft
from schemas.task import TraceKeys

KEYS = TraceKeys(tenant_id="acme", trace_id="trace", session_id="session", task_id="task")
ACTOR = Actor(principal_id="operator:1000", kind="engine")
TARGETS = {"append": 0.7, "single_p99": 3.0, "verify": 0.5}
ROUNDS = 5


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=20_000)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--folder", type=Path, default=None, help="on the file system to measure; default: a temporary one")
    parser.add_argument("--memory", type=int, default=0, help="events of the memory test; 0: leave it out")
    parser.add_argument("--verify-only", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.verify_only:
        return _verify_and_tell(options.verify_only)
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        result: dict[str, Any] = {"targets": TARGETS, "append": append(folder, options.events, options.batch)}
        result["single"] = single(folder, max(200, options.events // 20))
        result["verify"] = {kind: verify(folder / f"{kind}.db") for kind in ("plain", "encrypted")}
        if options.memory:
            result["memory"] = memory(folder, options.memory)
    print(json.dumps(result, indent=2))
    return 0


def payload_of(number: int) -> dict[str, Any]:
    """What an outcome event of the gate looks like."""
    return {
        "decision": "allow", "check_no": 12, "code": "ALLOW", "policy_digest": "sha256:" + "a" * 64, "lease_generation": 1,
        "attempt": number, "outcome": "succeeded", "effect_ref": f"refs/heads/gen4/{number}", "latency_ms": 17,
    }  # fmt: skip


def drafts_of(start: int, count: int) -> list[EventDraft]:
    return [
        EventDraft(kind="task.receipt", idempotency_key=f"run/{n}/receipt", capability_id="forge.fetch", payload=payload_of(n))
        for n in range(start, start + count)
    ]


def open_chain(file: Path, *, encrypted: bool) -> tuple[Store, EventChain]:
    keys = file.with_suffix(".keys")
    keys.mkdir(mode=0o700, exist_ok=True)
    store = Store.open(f"sqlite:///{file}", vault=PayloadVault(keys) if encrypted else None)
    return store, EventChain(store.tenant(KEYS.tenant_id))


# --- appending -------------------------------------------------------------------------------------------------------


def append(folder: Path, events: int, batch: int) -> dict[str, Any]:
    chains = {kind: open_chain(folder / f"{kind}.db", encrypted=kind == "encrypted") for kind in ("plain", "encrypted")}
    bare = Bare(folder / "bare.db")
    arms: dict[str, Callable[[Sequence[EventDraft]], object]] = {
        "bare": bare.append,
        **{kind: lambda some, chain=chain: chain.append(KEYS, ACTOR, *some) for kind, (_, chain) in chains.items()},  # type: ignore[misc]
    }
    rates: dict[str, list[float]] = {name: [] for name in arms}
    for round_ in range(ROUNDS):
        share = events // ROUNDS
        batches = [drafts_of(round_ * share + n, min(batch, share - n)) for n in range(0, share, batch)]
        for name, arm in arms.items():
            started = time.perf_counter()
            for some in batches:
                arm(some)
            rates[name].append(share / (time.perf_counter() - started))
    for store, _ in chains.values():
        store.close()
    middle = {name: round(statistics.median(values)) for name, values in rates.items()}
    ratios = {kind: round(statistics.median(_ratios(rates[kind], rates["bare"])), 2) for kind in chains}
    return {"events": events, "batch": batch, "per_second": middle, "ratio": ratios}


class Bare:
    """The same rows, the same batches and the same durability, and nothing else."""

    def __init__(self, file: Path) -> None:
        self._connection = sqlite3.connect(file, isolation_level=None)
        for statement in ("PRAGMA journal_mode=WAL", "PRAGMA synchronous=FULL", *_TABLES):
            self._connection.execute(statement)
        self._seq, self._previous = 0, GENESIS

    def append(self, drafts: Sequence[EventDraft]) -> None:
        events, payloads = [], []
        for draft in drafts:
            body, salt, now = rfc8785.dumps(draft.payload), os.urandom(32), time.time_ns() // 1_000_000
            self._seq += 1
            fields = {
                "event_id": os.urandom(16).hex(), **KEYS.__dict__, "capability_id": draft.capability_id, "version": "1",
                "seq": self._seq, "kind": draft.kind, "actor": {"principal_id": ACTOR.principal_id, "kind": ACTOR.kind},
                "idempotency_key": draft.idempotency_key, "payload_commitment": hashlib.sha256(salt + body).hexdigest(),
                "recorded_at_ms": now, "prev_hash": self._previous,
            }  # fmt: skip
            self._previous = hashlib.sha256(rfc8785.dumps(fields)).hexdigest()
            row = {**fields, "hash": self._previous, "actor_principal_id": ACTOR.principal_id, "actor_kind": ACTOR.kind}
            del row["actor"]
            events.append(row)
            payloads.append({**row, "salt": salt, "payload": body, "created_at_ms": now})
        self._connection.execute("BEGIN IMMEDIATE")
        self._connection.executemany(_INSERT_EVENT, events)
        self._connection.executemany(_INSERT_PAYLOAD, payloads)
        self._connection.execute("COMMIT")


_TRACE = "tenant_id TEXT, trace_id TEXT, session_id TEXT, task_id TEXT, capability_id TEXT, version TEXT"
_TABLES = (
    f"CREATE TABLE event (event_id TEXT PRIMARY KEY, {_TRACE}, seq INTEGER, kind TEXT, actor_principal_id TEXT, actor_kind TEXT,"
    " idempotency_key TEXT, payload_commitment TEXT, recorded_at_ms INTEGER, prev_hash TEXT, hash TEXT,"
    " UNIQUE (tenant_id, session_id, seq), UNIQUE (tenant_id, idempotency_key))",
    f"CREATE TABLE event_payload (event_id TEXT PRIMARY KEY, {_TRACE}, salt BLOB, payload BLOB, created_at_ms INTEGER)",
    "CREATE INDEX ix_event_payload_session ON event_payload (tenant_id, session_id)",
)
_INSERT_EVENT = (
    "INSERT INTO event VALUES (:event_id, :tenant_id, :trace_id, :session_id, :task_id, :capability_id, :version, :seq, :kind,"
    " :actor_principal_id, :actor_kind, :idempotency_key, :payload_commitment, :recorded_at_ms, :prev_hash, :hash)"
)
_INSERT_PAYLOAD = (
    "INSERT INTO event_payload VALUES (:event_id, :tenant_id, :trace_id, :session_id, :task_id, :capability_id, :version,"
    " :salt, :payload, :created_at_ms)"
)


def single(folder: Path, count: int) -> dict[str, Any]:
    store, chain = open_chain(folder / "single.db", encrypted=True)
    appends, fsyncs, page = [], [], b"x" * 4096
    with (folder / "beside").open("wb", buffering=0) as file:
        for n, draft in enumerate(drafts_of(0, count + 50)):
            started = time.perf_counter()
            chain.append(KEYS, ACTOR, draft)
            middle = time.perf_counter()
            file.write(page)
            os.fsync(file.fileno())
            if n >= 50:
                appends.append(middle - started)
                fsyncs.append(time.perf_counter() - middle)
    store.close()
    ours, theirs = _percentiles(appends), _percentiles(fsyncs)
    return {"count": count, "append_ms": ours, "fsync_ms": theirs, "p99_ratio": round(ours["p99"] / theirs["p99"], 2)}


# --- verifying -------------------------------------------------------------------------------------------------------


def verify(file: Path) -> dict[str, Any]:
    store, chain = open_chain(file, encrypted=file.stem == "encrypted")
    ours, theirs = [], []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        examined = chain.examine(KEYS.session_id)
        middle = time.perf_counter()
        read = read_and_hash(file)
        theirs.append(read / (time.perf_counter() - middle))
        ours.append(examined.events / (middle - started))
        if examined.finding is not None or read != examined.events:
            raise SystemExit(f"not verified: {examined}")
    store.close()
    rates = {"verifier": round(statistics.median(ours)), "loop": round(statistics.median(theirs))}
    return {"events": read, "per_second": rates, "ratio": round(statistics.median(_ratios(ours, theirs)), 2)}


def read_and_hash(file: Path) -> int:
    """Two hashes a row, of record and payload, over the columns as they come; nothing is compared."""
    connection = sqlite3.connect(f"file:{file}?mode=ro", uri=True)
    count = 0
    query = (
        "SELECT e.*, p.key_id, p.salt, p.payload FROM event e LEFT JOIN event_payload p ON p.event_id = e.event_id"
        " WHERE e.tenant_id = ? AND e.session_id = ? ORDER BY e.seq"
    )
    for row in connection.execute(query, (KEYS.tenant_id, KEYS.session_id)):
        hashlib.sha256("\n".join(map(str, row[:16])).encode()).hexdigest()
        hashlib.sha256(row[-2] + row[-1]).hexdigest()
        count += 1
    connection.close()
    return count


def memory(folder: Path, count: int) -> dict[str, Any]:
    peaks = {}
    store, chain = open_chain(folder / "memory.db", encrypted=True)
    for goal in (count, 4 * count):
        for start in range(0 if goal == count else count, goal, 2_000):
            chain.append(KEYS, ACTOR, *drafts_of(start, min(2_000, goal - start)))
        command = [sys.executable, "-m", "bench.events", "--verify-only", str(folder / "memory.db")]
        peaks[goal] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    store.close()
    return {str(goal): peak for goal, peak in peaks.items()}


def _verify_and_tell(file: Path) -> int:
    store, chain = open_chain(file, encrypted=True)
    started = time.perf_counter()
    examined = chain.examine(KEYS.session_id)
    seconds = time.perf_counter() - started
    read = sum(1 for _ in chain.read(KEYS.session_id))
    store.close()
    peak_mib = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)
    print(json.dumps({"events": examined.events, "read": read, "verify_s": round(seconds, 2), "peak_mib": peak_mib}))
    return 1 if examined.finding else 0


def _ratios(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    return [mine / other for mine, other in zip(ours, theirs, strict=True)]


def _percentiles(seconds: Sequence[float]) -> dict[str, float]:
    ordered = sorted(seconds)
    return {name: round(1000 * ordered[int(share * (len(ordered) - 1))], 3) for name, share in (("p50", 0.5), ("p99", 0.99))}


if __name__ == "__main__":
    sys.exit(main())

"""``python -m tests.replay.record [sessions|operations|evidence]``: run workflows on the test fabric and keep their histories.

Old histories stay: they are what an upgrade meets. Record anew only what is meant to change, and say so in the commit.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from temporalio.client import WorkflowHandle

from schemas.capability import WORKFLOW_QUEUE, executor_tag
from tests.e2e.harness import git, write_repository
from tests.policy.running import RunningOpa, free_port
from tests.workflows.harness import BUGGY, FIXED, LIB, Fabric
from tests.workflows.test_reconciliation import cut_off
from workers.supervisor import PROMPT, SEARCH_ATTRIBUTES
from workers.toolchain import locate

HISTORIES = Path(__file__).parent / "histories"


def main(wanted: list[str]) -> None:
    port = free_port()
    argv = [
        str(locate("temporal").path), "server", "start-dev", "--headless", "--ip", "127.0.0.1", "--port", str(port),
        "--log-level", "error", *PROMPT,
        *(word for name in SEARCH_ATTRIBUTES for word in ("--search-attribute", f"{name}=Keyword")),
    ]  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="gen4-replay-") as folder:
        (Path(folder) / "opa").mkdir()
        server = subprocess.Popen(argv, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            with RunningOpa(Path(folder) / "opa") as opa:
                fabric = Fabric(f"127.0.0.1:{port}", opa.engine, Path(folder))
                try:
                    for name in wanted or RECORDED:
                        RECORDED[name](fabric)
                finally:
                    fabric.stop()
        finally:
            server.terminate()
            server.wait(timeout=20)


def record_sessions(fabric: Fabric) -> None:
    released = _start(fabric, "released", [FIXED + b"# LOSES\n", FIXED])
    pending = fabric.pending(released)
    fabric.signal(released, "approve", "not an object")
    fabric.signal(released, "revise")
    fabric.signal(released, "approve", fabric.decision(pending))
    fabric.result(released)
    _keep(fabric, released, "released")
    rejected = _start(fabric, "rejected", [FIXED])
    fabric.signal(rejected, "reject", fabric.decision(fabric.pending(rejected), "reject", reason="not like this"))
    fabric.result(rejected)
    _keep(fabric, rejected, "rejected")
    nothing = _start(fabric, "nothing", [])
    fabric.result(nothing)
    _keep(fabric, nothing, "nothing")
    cancelled = _start(fabric, "cancelled", [FIXED])
    fabric.pending(cancelled)
    fabric.run(cancelled.cancel())
    fabric.ended(cancelled)
    _keep(fabric, cancelled, "cancelled")
    refused = fabric.start({"repository": "/outside", "goal": "x"})
    fabric.ended(refused)
    _keep(fabric, refused, "refused")
    path = _repository(fabric, "ci", [])
    (path / LIB).write_bytes(FIXED)
    patch = git(path, "diff") + "\n"
    ci = fabric.start({"repository": str(path), "ref": "main", "patch": patch}, kind="Compile")
    fabric.result(ci)
    _keep(fabric, ci, "ci")


def record_operations(fabric: Fabric) -> None:
    """What the schedules start: a session that was terminated is reaped, a delivery that was cut off is read back."""
    abandoned = _start(fabric, "abandoned", [FIXED])
    fabric.pending(abandoned)
    fabric.run(abandoned.terminate())
    with pytest.MonkeyPatch.context() as monkeypatch:
        cut_off(fabric, _repository(fabric, "cut-off", [FIXED]), monkeypatch, (fabric.objects, "push"))
    for kind in ("Reconciliation", "Reaper", "Checkpoint"):
        handle = fabric.run(fabric.client.start_workflow(kind, id=f"gen4-{kind.lower()}", task_queue=WORKFLOW_QUEUE))
        fabric.run(handle.result())
        _keep(fabric, handle, kind.lower())


def record_evidence(fabric: Fabric) -> None:
    """Compile since runs are measured, recalled and put to the proof, with every kind of end; and GaDiff."""
    path = _repository(fabric, "measured", [])

    def compiled(name: str, content: bytes, **more: Any) -> None:
        (path / LIB).write_bytes(content)
        patch = git(path, "diff") + "\n"
        git(path, "checkout", "-q", ".")
        handle = fabric.start({"repository": str(path), "ref": "main", "patch": patch, **more}, kind="Compile")
        fabric.result(handle)
        _keep(fabric, handle, name)

    compiled("measured-ci", FIXED)
    compiled("measured-ci-cached", FIXED)
    fabric.executors = {executor_tag("first"), executor_tag("other")}
    compiled("measured-ci-elsewhere", FIXED, cache=False)
    fabric.executors = {executor_tag("first"), executor_tag("gone")}
    compiled("measured-ci-nobody-elsewhere", FIXED, cache=False)
    fabric.executors = {executor_tag("first")}
    compiled("measured-ci-refused", FIXED + b"# LOSES\n")
    compiled("measured-ci-flaky", FIXED + b"# ORDERED\n")
    git(path, "checkout", "-q", "-b", "head")
    (path / LIB).write_bytes(FIXED)
    git(path, "commit", "-q", "-am", "change")
    diff = fabric.start({"repository": str(path), "base": "main", "head": "head", "benchmark": ["python", "b.py"]}, kind="GaDiff")
    fabric.run(diff.result())
    _keep(fabric, diff, "ga-diff")


def _repository(fabric: Fabric, name: str, proposals: list[bytes]) -> Path:
    path = fabric.repositories / name
    write_repository(path, {LIB: BUGGY.decode(), "NAME": name})
    fabric.engine.proposals[git(path, "rev-parse", "HEAD^{tree}")] = proposals
    return path


def _start(fabric: Fabric, name: str, proposals: list[bytes]) -> WorkflowHandle[Any, Any]:
    return fabric.start({"repository": str(_repository(fabric, name, proposals)), "goal": "the answer is wrong"})


def _keep(fabric: Fabric, handle: WorkflowHandle[Any, Any], name: str) -> None:
    """The session's own history, and those of its children, numbered by kind."""
    history = fabric.run(handle.fetch_history())
    _write(name, history.to_json())
    counts: dict[str, int] = {}
    for event in history.events:
        if not event.HasField("child_workflow_execution_started_event_attributes"):
            continue
        started = event.child_workflow_execution_started_event_attributes
        kind = started.workflow_type.name.lower()
        counts[kind] = counts.get(kind, 0) + 1
        child = fabric.client.get_workflow_handle(
            started.workflow_execution.workflow_id, run_id=started.workflow_execution.run_id
        )
        _write(f"{name}-{kind}-{counts[kind]}", fabric.run(child.fetch_history()).to_json())


def _write(name: str, history: str) -> None:
    document = json.loads(history)
    for event in document["events"]:
        _drop_identities(event)
    (HISTORIES / f"{name}.json").write_text(json.dumps(document, separators=(",", ":"), sort_keys=True) + "\n")


def _drop_identities(value: Any) -> None:
    """Names of processes and machines, which no replay reads."""
    if isinstance(value, dict):
        value.pop("identity", None)
        value.pop("stackTrace", None)
        for item in value.values():
            _drop_identities(item)
    elif isinstance(value, list):
        for item in value:
            _drop_identities(item)


RECORDED = {"evidence": record_evidence, "sessions": record_sessions, "operations": record_operations}


if __name__ == "__main__":
    main(sys.argv[1:])

"""Drives one backend as whatever user runs it: one JSON order a line on standard input, one JSON answer a line.

An order is ``{"code": Python source, "limits": {…}, "stdin": text, "program": path?}``; the answer says how the run
ended and what a sandbox with that mark left behind on the host.
"""

from __future__ import annotations

import json
import os
import secrets
import sys
import time
from pathlib import Path
from typing import Any

from activities.kernel.sandbox import probes
from activities.kernel.sandbox.backends import BACKENDS
from activities.kernel.sandbox.port import RootFilesystem, SandboxBackend, SandboxProcess, SandboxSpec
from activities.kernel.sandbox.rootfs import RootFilesystems, RootSource
from schemas.error import Gen4Error
from schemas.testing import Limits

LINES_KEPT = 2_000


def left_behind(mark: str) -> list[int]:
    """Processes of the host whose command line has the mark."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and int(folder.name) != os.getpid():
            try:
                if mark.encode() in (folder / "cmdline").read_bytes():
                    found.append(int(folder.name))
            except OSError:
                continue
    return found


def drive(backend: SandboxBackend, root: RootFilesystem, order: dict[str, Any], runner: Path) -> dict[str, Any]:
    mark = "mark-" + secrets.token_hex(8)
    spec = SandboxSpec(
        root=root,
        argv=(order.get("program", root.python), "-c", order["code"], mark),
        env={"LC_ALL": "C.UTF-8"},
        limits=Limits(**order["limits"]),
        runner=runner,
    )
    started = time.monotonic()
    try:
        with backend.start(spec) as process:
            answer = converse(process, order)
    except Gen4Error as error:
        answer = {"error": error.code, "kind": type(error).__name__, "message": error.message}
    return {**answer, "seconds": time.monotonic() - started, "left": left_behind(mark)}


def converse(process: SandboxProcess, order: dict[str, Any]) -> dict[str, Any]:
    if order.get("leave"):
        return {"first": (process.line(20) or b"").decode()}
    if order.get("stdin"):
        process.send(order["stdin"].encode())
    process.close_input()
    lines: list[str] = []
    for line in process.lines():
        if len(lines) < LINES_KEPT:
            lines.append(line[:10_000].decode(errors="replace"))
    ended = process.finish()
    return {
        "ending": ended.ending,
        "exit_code": ended.exit_code,
        "stderr": ended.stderr.decode(errors="replace"),
        "wall_ms": ended.wall_ms,
        "cpu": list(ended.cpu),
        "lines": lines,
    }


def main() -> None:
    settings = json.loads(sys.argv[1])
    backend = BACKENDS[settings["backend"]]()
    root = RootFilesystem(digest=settings["digest"], path=Path(settings["path"]), tar=Path(settings["tar"]))
    for line in sys.stdin:
        order = json.loads(line)
        answer: dict[str, Any]
        if order.get("ask") == "facts":
            answer = backend.facts().model_dump(mode="json")
        elif order.get("ask") == "probes":
            found = backend.probe(root)
            failed = [f"{one.name}: {one.detail}" for one in probes.failures(found)]
            answer = {"ran": [one.name for one in found], "failed": failed}
        elif order.get("ask") == "build":
            target = Path(order["target"])
            answer = {"sha256": RootFilesystems(target.parent, RootSource()).build_tar(target)}
        elif order.get("ask") == "reap":
            answer = {"count": backend.reap(0)}
        else:
            answer = drive(backend, root, order, Path(settings["runner"]))
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()

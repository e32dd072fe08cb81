"""Supervisor: the first process in the sandbox and the only one that talks to the host.

Start protocol: standard input carries one JSON line ``{"mode", "job", "archive_bytes"}``, then that many bytes of tar,
then, for interactive modes, JSON lines. Standard output carries JSON lines, each an object with ``kind``; the last is
``{"kind": "end", …}``. A mode is a module of this folder with ``run(job, host) -> dict``; what it returns is the end line.

With a descriptor as its argument it is a child of the supervisor instead, see :mod:`inside`.
"""

from __future__ import annotations

import importlib
import os
import sys
import types
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from activities.testbed.runner.host import Host

PACKAGE = "_gen4"
MODES = frozenset({"facts", "tests", "build", "trace", "forkserver", "scan", "benchmark", "node", "bytecode"})


def main() -> int:
    """Serve one job; the exit code is 0 whenever an end line was written."""
    _name_the_package()
    if len(sys.argv) > 1:
        descriptor = int(sys.argv.pop())
        importlib.import_module(f"{PACKAGE}.inside").run(descriptor)
    # The same on every machine, whatever a container engine or a shell has handed down.
    os.umask(0o022)
    host: Host = importlib.import_module(f"{PACKAGE}.host").Host.take_over()
    header = host.receive()
    if header is None:
        return 2
    mode, job = header["mode"], header["job"]
    if mode not in MODES:
        raise SystemExit(f"unknown mode {mode!r}")
    importlib.import_module(f"{PACKAGE}.unpack").unpack(host.input, header["archive_bytes"], job["work"])
    result: dict[str, Any] = importlib.import_module(f"{PACKAGE}.{mode}").run(job, host)
    host.send("end", **result)
    return 0


def _name_the_package() -> None:
    # /gen4 never joins sys.path: a folder of the target named "tests" must stay importable, and ours must not be.
    package = types.ModuleType(PACKAGE)
    package.__path__ = [os.path.dirname(os.path.abspath(__file__))]
    sys.modules[PACKAGE] = package


if __name__ == "__main__":
    sys.exit(main())

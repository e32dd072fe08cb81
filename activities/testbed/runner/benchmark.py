"""Mode ``benchmark``: run a command several times and time it. What it prints decides nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from typing import Any

from .child import kill_descendants
from .host import Host

_TAIL_BYTES = 2_000


def run(job: dict[str, Any], host: Host) -> dict[str, Any]:
    """``job``: work, environment, python_path, env, argv, repeat, wall_ms (for all repetitions).

    One repetition more than asked for is run: the first warms up and does not count.
    """
    ends_at = time.monotonic() + job["wall_ms"] / 1000
    micros: list[int] = []
    for _ in range(job["repeat"] + 1):
        code, took, tail = _once(job, ends_at)
        if code != 0:
            return {"micros": [], "exit_code": code, "tail": tail}
        micros.append(took)
    return {"micros": micros[1:], "exit_code": 0, "tail": ""}


def _once(job: dict[str, Any], ends_at: float) -> tuple[int, int, str]:
    path = [os.path.normpath(os.path.join(job["work"], folder)) for folder in job["python_path"]]
    environment = {**os.environ, **job["env"], "PYTHONPATH": os.pathsep.join([*path, job["environment"]])}
    name, *arguments = job["argv"]
    program = sys.executable if name in ("python", "python3") else name
    with tempfile.TemporaryFile() as output:
        began = time.perf_counter_ns()
        try:
            process = subprocess.Popen(  # noqa: S603  what the request names, in the sandbox
                [program, *arguments], cwd=job["work"], env=environment, stdin=subprocess.DEVNULL, stdout=output,
                stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            return 127, 0, f"{name}: {error.strerror}"
        timer = threading.Timer(max(0.0, ends_at - time.monotonic()), os.killpg, (process.pid, signal.SIGKILL))
        timer.start()
        # Without a time limit of its own: wait() with one looks only every now and then.
        code = process.wait()
        took = (time.perf_counter_ns() - began) // 1000
        timer.cancel()
        kill_descendants()
        output.seek(max(0, output.seek(0, os.SEEK_END) - _TAIL_BYTES))
        return code, took, output.read().decode("utf-8", "backslashreplace")

"""The port's promises that are not limits: streams, exit codes, errors, clean-up, facts, probes."""

from __future__ import annotations

import base64
import io
import os
import signal
import tarfile
import time
from typing import Any

import pytest

from activities.kernel.sandbox import probes
from activities.kernel.sandbox.port import RootFilesystem
from tests.sandbox.driving import Driver, start


def test_every_probe_runs_and_passes(driver: Driver) -> None:
    answer = driver.ask({"ask": "probes"})
    assert answer["failed"] == []
    assert set(answer["ran"]) == probes.EXPECTED


def test_facts_say_how_each_limit_is_enforced(driver: Driver) -> None:
    facts = driver.ask({"ask": "facts"})
    assert facts["backend"] == driver.backend
    assert set(facts["enforcement"]) == {"memory", "cpus", "pids", "disk", "wall", "output", "network"}
    assert "none" not in facts["enforcement"].values()
    if driver.backend == "docker":
        assert {facts["enforcement"][name] for name in ("memory", "cpus", "pids")} == {"cgroup"}
    elif driver.user == "ordinary":
        assert facts["enforcement"]["memory"] in ("cgroup", "watchdog", "rlimit")


def test_the_profile_differs_between_backends_and_stays_the_same_within_one(driver: Driver) -> None:
    assert driver.ask({"ask": "facts"})["profile_sha256"] == driver.ask({"ask": "facts"})["profile_sha256"]


def test_a_tar_on_standard_input_arrives_whole(driver: Driver) -> None:
    content = os.urandom(3 << 20)
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        entry = tarfile.TarInfo("src/a file.bin")
        entry.size = len(content)
        archive.addfile(entry, io.BytesIO(content))
    ended = driver.run(
        "import base64, io, os, sys, tarfile, hashlib\n"
        "data = base64.b64decode(sys.stdin.buffer.read())\n"
        "tarfile.open(fileobj=io.BytesIO(data)).extractall('/work')\n"
        "sys.stdout.write(base64.b64encode(open(os.path.join('/work', 'src', 'a file.bin'), 'rb').read()).decode())",
        stdin=base64.b64encode(data.getvalue()).decode(),
        output_bytes=8 << 20,
    )
    assert (ended["ending"], ended["exit_code"]) == ("exited", 0), ended
    assert ended["lines"] == [base64.b64encode(content).decode()[:10_000]]


@pytest.mark.parametrize(
    ("code", "exit_code"),
    [("pass", 0), ("raise SystemExit(7)", 7), ("import os; os.kill(os.getpid(), 11)", 128 + signal.SIGSEGV), ("1/0", 1)],
)
def test_exit_codes_are_those_of_the_process(driver: Driver, code: str, exit_code: int) -> None:
    ended = driver.run(code)
    assert (ended["ending"], ended["exit_code"]) == ("exited", exit_code)


def test_stderr_keeps_its_tail(driver: Driver) -> None:
    ended = driver.run("import sys\nfor n in range(40000): sys.stderr.write(f'{n:07d}\\n')")
    assert len(ended["stderr"]) == 64 * 1024
    assert ended["stderr"].endswith("0039999\n")


def test_the_last_line_needs_no_newline(driver: Driver) -> None:
    assert driver.run("import sys; sys.stdout.write('a\\n\\nb')")["lines"] == ["a", "", "b"]


def test_a_program_that_is_not_there_is_an_infrastructure_error(driver: Driver) -> None:
    answer = driver.run("pass", program="/usr/bin/no-such-program")
    assert (answer["error"], answer["kind"]) == ("SANDBOX_START_FAILED", "InfrastructureError")


def test_input_to_an_ended_process_is_an_infrastructure_error(driver: Driver) -> None:
    answer = driver.run("import os; os._exit(0)", stdin="x" * (4 << 20))
    assert answer.get("error", "SANDBOX_GONE") == "SANDBOX_GONE"
    assert answer["left"] == []


def test_leaving_the_context_kills(driver: Driver) -> None:
    answer = driver.ask(
        {
            "leave": True,
            "code": "import time\nprint('up', flush=True)\ntime.sleep(600)",
            "limits": {"wall_ms": 600_000, "memory_mb": 128, "pids": 8, "disk_mb": 16},
        }
    )
    assert answer["first"] == "up"
    assert answer["left"] == []
    assert answer["seconds"] < 10


def test_multiprocessing_works_inside(driver: Driver) -> None:
    ended = driver.run(
        "import multiprocessing, pwd, os, socket\n"
        "with multiprocessing.Pool(2) as pool: print(sum(pool.map(abs, range(-9, 0))))\n"
        "print(pwd.getpwuid(os.getuid()).pw_name, socket.gethostbyname('localhost'))",
    )
    assert ended["lines"] == ["45", "gen4 127.0.0.1"], ended


def test_a_killed_worker_leaves_nothing(driver: Driver, root: RootFilesystem, request: pytest.FixtureRequest) -> None:
    """bubblewrap dies with its worker, unless it was just starting; that, and a container, the next worker's ``reap`` removes."""
    host = request.getfixturevalue("docker_host") if driver.backend == "docker" else ""
    victim = start(root, driver.backend, driver.user, host)
    mark = f"mark-of-{os.getpid()}-{time.monotonic_ns()}"
    order = '{"code": "import time #%s\\nprint(1, flush=True)\\ntime.sleep(600)", "limits": {"wall_ms": 600000}, "stdin": ""}\n'
    victim.begin(order % mark)
    wait_until(lambda: running(mark) > 0)
    os.killpg(victim.process.pid, signal.SIGKILL)
    victim.process.wait()
    if driver.backend == "docker":
        wait_until(lambda: driver.ask({"ask": "reap"})["count"] == 1)
    else:
        driver.ask({"ask": "reap"})
    wait_until(lambda: running(mark) == 0)


def running(mark: str) -> int:
    count = 0
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                text = file.read()
        except OSError:
            continue
        count += mark.encode() in text and b"driver.py" not in text
    return count


def wait_until(condition: Any, patience_s: float = 20.0) -> None:
    deadline = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < deadline, "nothing changed"
        time.sleep(0.05)

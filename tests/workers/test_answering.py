"""A process that answers ends when it is told to, whatever it was about to do."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

ANSWERS = """
import os, sys
from pathlib import Path
from activities.kernel.listening import Listener
from workers.answering import answer
path = Path(sys.argv[1])
listener = Listener(path, {os.geteuid()}, os.geteuid(), lambda channel, call, body: channel.receive())
serve = listener.serve
listener.serve = lambda: (print("ready", flush=True), serve())
answer(listener, path)
"""


def started(path: Path) -> subprocess.Popen[bytes]:
    process = subprocess.Popen([sys.executable, "-c", ANSWERS, str(path)], stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline() == b"ready\n"
    return process


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_among_connections_is_not_missed(tmp_path: Path, number: signal.Signals) -> None:
    for turn in range(3):
        path = tmp_path / f"{number}-{turn}"
        with started(path) as process:
            callers = [socket.socket(socket.AF_UNIX) for _ in range(8)]
            for caller in callers:
                caller.connect(str(path))
            time.sleep(random.random() / 100)
            os.kill(process.pid, number)
            assert process.wait(10) == 0 and not path.exists()
            for caller in callers:
                caller.close()


def test_whoever_is_being_answered_is_hung_up_on(tmp_path: Path) -> None:
    with started(tmp_path / "socket") as process, socket.socket(socket.AF_UNIX) as caller:
        caller.connect(str(tmp_path / "socket"))
        caller.settimeout(10)
        process.terminate()
        with contextlib.suppress(ConnectionResetError):  # it was not let in any more
            assert caller.recv(1) == b""
        assert process.wait(10) == 0

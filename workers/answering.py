"""A process that answers on a socket until it is told to end."""

from __future__ import annotations

import os
import select
import signal
import threading
from pathlib import Path

from activities.kernel.listening import Listener


def answer(listener: Listener, socket: Path) -> None:
    """Serve until SIGTERM or SIGINT; returns when all that was being done has ended, without the socket."""
    reading, writing = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    # A signal that comes right before a system call does not interrupt it; its byte in a pipe is not missed.
    signal.set_wakeup_fd(writing)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)

    def serve() -> None:
        try:
            listener.serve()
        finally:
            os.write(writing, b"\0")  # nobody answers any more, whyever

    serving = threading.Thread(target=serve, name="gen4-listen", daemon=True)
    serving.start()
    try:
        select.select([reading], [], [])
        listener.stop()
        serving.join()
    finally:
        socket.unlink(missing_ok=True)

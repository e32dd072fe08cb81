"""``python -m workers.executor --socket PATH --home FOLDER``: starts sandboxes and signs what tests did in them, for others.

It may open the engine's socket and holds the key of run receipts; workers may neither. The fabric starts one for itself, under
its own user. For isolation an operator runs it under a user of its own, and lists the users that may call: `--clients UID,…`.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from activities.kernel.listening import Listener
from activities.kernel.sandbox.backends import choose_backend, require_backend
from activities.kernel.sandbox.rootfs import RootFilesystems
from activities.kernel.signing_keys import load_or_create, pem_of
from activities.record.home import Home
from activities.testbed.executing import Executing, Machine
from activities.testbed.harness import harness_version
from schemas.error import Gen4Error
from schemas.text import plain
from workers.answering import answer
from workers.fabric import EXECUTOR_PUBLIC_KEY
from workers.hiding import hide_memory
from workers.logs import configure
from workers.settings import Settings, read_settings

KEY = "executor.pem"
"""In the state folder: what signs receipts."""

log = logging.getLogger(__name__)


class Machines:
    """Base and backend of this machine: looked for at the first call, and again as long as there are none."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._found: Machine | None = None

    def __call__(self) -> Machine:
        """Raises Refused(SANDBOX_UNAVAILABLE): there is no unsandboxed mode; InfrastructureError without a base."""
        with self._lock:
            if self._found is None:
                self._found = self._find()
            return self._found

    def _find(self) -> Machine:
        require_backend(self._settings.sandbox)  # before minutes go into a base for it
        roots = RootFilesystems(self._settings.cache)
        root = roots.current()
        backend = choose_backend(root, self._settings.sandbox)
        backend.reap(older_than_s=0)
        return Machine(root, backend, lambda digest: roots.packages(roots.open(digest)))


def serve(socket: Path, folder: Path, clients: Sequence[int], settings: Settings) -> None:
    """Answer until SIGTERM; then every sandbox is ended before this returns.

    Raises:
        InputError: HOME_UNSAFE, KEY_UNSAFE, KEY_INVALID.
        InfrastructureError: CHANNEL_TAKEN.
    """
    hide_memory()
    home = Home.open(folder)
    key = load_or_create(home.root / KEY)
    (home.root / EXECUTOR_PUBLIC_KEY).write_text(pem_of(key.public_key()))
    machines = Machines(settings)
    own = os.geteuid()
    executing = Executing(home, key, machines)
    listener = Listener(socket, clients or {own}, own, executing.handle)
    executing.tidy()  # whoever calls already waits until we accept
    threading.Thread(target=_look_early, args=(machines,), daemon=True).start()
    answer(listener, socket)


def _look_early(machines: Machines) -> None:
    """The first caller need not wait for the probes; what is wrong is told to whoever calls."""
    try:
        machines()
    except Gen4Error as error:
        log.warning("nothing can be run here yet: %s", plain(str(error)))


def _uids(text: str) -> tuple[int, ...]:
    return tuple(int(uid) for uid in text.split(","))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m workers.executor", description=__doc__)
    parser.add_argument("--socket", type=Path, required=True, help="where to listen")
    parser.add_argument("--home", type=Path, required=True, help="state folder of its own, mode 0700")
    parser.add_argument("--clients", type=_uids, default=(), help="uids that may call, separated by commas; default: our own")
    given = parser.parse_args(arguments)
    configure()
    harness_version()  # of the code that this process runs, whatever is installed under it later
    try:
        serve(given.socket, given.home, given.clients, read_settings())
    except Gen4Error as error:
        print(plain(str(error)), file=sys.stderr, flush=True)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())

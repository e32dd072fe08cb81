"""``python -m workers.supervisor``: starts Temporal, OPA and the worker of one home, and restarts what dies.

The children die with the supervisor (parent-death signal), so a killed supervisor leaves nothing behind; Temporal's
SQLite file and the store keep every session, and the next start goes on with them.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import pwd
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from activities.evidence.key_ring import adopt_key
from activities.kernel.channel import connect
from activities.policy.bundle import PolicyBundle, build_bundle, opa_argv, opa_environment, write_credentials
from activities.record.home import Home
from schemas.error import Gen4Error, InfrastructureError, InputError
from schemas.text import plain
from workers.fabric import (
    CANDIDATE_BUNDLE,
    ENDPOINTS,
    EXECUTOR_PUBLIC_KEY,
    OPA_TOKEN,
    POLICY_BUNDLE,
    REFUSED_EXIT_CODE,
    SEARCH_ATTRIBUTES,
    START_REFUSED,
    WORKER_READY,
    WORKER_REFUSED,
    FabricState,
    lock_path,
    read_error,
    settings_environment,
    state_path,
    write_error,
    write_json,
    write_private,
)
from workers.settings import Settings, read_settings
from workers.toolchain import locate

PR_SET_PDEATHSIG = 1
READY_TIMEOUT_S = 45.0
LINE_SHOWN = 300
"""Characters of a line of a log in an error: servers put the cause at its end."""
BACKOFF_S = (0.1, 0.5, 1.0, 2.0, 5.0)


@dataclass
class Child:
    """One supervised process. ``ready`` says whether it answers."""

    name: str
    argv: list[str]
    environment: dict[str, str]
    ready: Callable[[], bool]
    log: Path
    process: subprocess.Popen[bytes] | None = None
    restarts: int = 0
    started_at: float = field(default=0.0)
    refused: bool = False
    """It said itself that starting it again does not help."""

    def start(self) -> None:
        with self.log.open("ab") as out:
            self.process = subprocess.Popen(  # noqa: S603  argv list of ours
                self.argv, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=self.environment,
                cwd=self.log.parent, preexec_fn=_die_with_parent,  # noqa: PLW1509  single-threaded parent
            )  # fmt: skip
        self.started_at = time.monotonic()

    @property
    def pid(self) -> int:
        return self.process.pid if self.process else 0

    def dead(self) -> bool:
        return self.process is None or self.process.poll() is not None

    def stop(self, timeout: float) -> None:
        if self.process is None or self.process.poll() is not None:
            return
        self.process.terminate()
        try:
            self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def main() -> int:
    """Supervise until SIGTERM. The exit code is that of the error which kept the fabric from starting."""
    try:
        return supervise(read_settings())
    except Gen4Error as error:
        print(plain(str(error)), file=sys.stderr, flush=True)
        return error.exit_code


def supervise(settings: Settings) -> int:
    home = Home.open(settings.home)
    with lock_path(home).open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return 0  # another supervisor of this home is there already
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        try:
            Supervisor(settings, home).run()
        except Gen4Error as error:
            write_error(home.run / START_REFUSED, error)
            raise
    return 0


class Supervisor:
    def __init__(self, settings: Settings, home: Home) -> None:
        self._settings = settings
        self._home = home
        self._stopping = False
        self._children: list[Child] = []
        self._state: FabricState | None = None

    def run(self) -> None:
        signal.signal(signal.SIGTERM, self._on_signal)
        signal.signal(signal.SIGINT, self._on_signal)
        began = time.monotonic()
        try:
            self._start_all()
            self._publish(round((time.monotonic() - began) * 1000))
            while not self._stopping:
                self._restart_dead()
                time.sleep(0.1)
        finally:
            state_path(self._home).unlink(missing_ok=True)
            for child in reversed(self._children):
                child.stop(10.0)

    def _on_signal(self, *_: object) -> None:
        self._stopping = True

    def _start_all(self) -> None:
        opa = locate("opa", make=False)
        bundle = build_bundle(opa.path, self._home.run / POLICY_BUNDLE)
        credentials = self._home.run / "opa-credentials"
        write_private(self._home.run / OPA_TOKEN, write_credentials(credentials))
        (self._home.run / WORKER_REFUSED).unlink(missing_ok=True)
        with starting_alone(self._settings.cache):
            self._children = self._laid_out(opa.path, bundle, credentials)
            for child in self._children:
                child.start()
            for child in self._children[:-1]:
                self._await(child)
        self._await(self._children[-1])

    def _laid_out(self, opa: Path, bundle: PolicyBundle, credentials: Path) -> list[Child]:
        """Everything that is to run, the worker last, on ports that nobody has yet."""
        settings = self._settings
        ports = choose_ports(self._home, settings.temporal_port)
        self._state = FabricState(
            pid=os.getpid(), temporal_address=settings.temporal_address or f"127.0.0.1:{ports['temporal']}",
            ui_url=self._ui_url(ports["ui"]), external=settings.temporal_address is not None,
            opa_url=f"http://127.0.0.1:{ports['opa']}", policy_digest=bundle.digest, namespace=settings.namespace,
            home=str(settings.home), repository_roots=tuple(str(root) for root in settings.repository_roots),
            sandbox=settings.sandbox,
        )  # fmt: skip
        candidate = self._candidate(opa, credentials, ports["opa_candidate"])
        write_json(self._home.run / ENDPOINTS, self._state.model_dump(mode="json"))
        servers = [self._child("opa", list(opa_argv(opa, bundle, credentials, ports["opa"])), _healthy(ports["opa"])), *candidate]
        if settings.temporal_address is None:
            temporal = locate("temporal", make=False)
            discard_unfinished(temporal_database(self._home))
            argv = temporal_argv(temporal.path, self._home, ports, settings.namespace)
            servers.insert(0, self._child("temporal", argv, _listens(ports["temporal"])))
        servers += self._executor()
        servers += self._signer(bundle.digest)
        return [*servers, self._child("worker", [sys.executable, "-P", "-m", "workers.worker"], self._worker_ready)]

    def _executor(self) -> list[Child]:
        """The embedded executor; none where the operator runs one."""
        path = self._settings.executor_path
        if self._settings.executor_socket is not None:
            return []
        argv = [sys.executable, "-P", "-m", "workers.executor", "--socket", str(path), "--home", str(self._home.executor)]
        return [self._child("executor", argv, _answers(path))]

    def _signer(self, policy_digest: str) -> list[Child]:
        """The embedded signer; none where the operator runs one."""
        settings = self._settings
        if settings.signer_socket is not None:
            return []
        adopt_key(self._home)
        argv = [
            sys.executable, "-P", "-m", "workers.signer", "--home", str(self._home.signer), "--socket", str(settings.signer_path),
            "--packages", str(settings.cache / "roots"), "--executors", str(self._home.executor / EXECUTOR_PUBLIC_KEY),
            "--policy-digest", policy_digest,
        ]  # fmt: skip
        chosen = {
            "--signing-key": settings.signing_key, "--signing-public-key": settings.signing_public_key,
            "--sigstore-config": settings.sigstore_config, "--identity-token": settings.identity_token_file,
            "--identity": settings.signing_identity,
            "--proof-of-time": settings.proof_of_time,
        }  # fmt: skip
        argv += [str(word) for name, value in chosen.items() if value is not None for word in (name, value)]
        return [self._child("signer", argv, _answers(settings.signer_path))]

    def _candidate(self, opa: Path, credentials: Path, port: int) -> list[Child]:
        """A second OPA for the policy version that is tried, with the same token."""
        folder = self._settings.policy_candidate
        if folder is None or self._state is None:
            return []
        if not folder.is_dir():
            raise InputError("SETTINGS_INVALID", f"GEN4_POLICY_CANDIDATE: {folder} is not a folder", "correct or unset it")
        bundle = build_bundle(opa, self._home.run / CANDIDATE_BUNDLE, folder)
        found = {"candidate_url": f"http://127.0.0.1:{port}", "candidate_digest": bundle.digest}
        self._state = self._state.model_copy(update=found)
        return [self._child("opa-candidate", list(opa_argv(opa, bundle, credentials, port)), _healthy(port))]

    def _ui_url(self, port: int) -> str:
        if self._settings.temporal_address is None:
            return f"http://127.0.0.1:{port}"
        return (self._settings.temporal_ui or "").rstrip("/")

    def _child(self, name: str, argv: list[str], ready: Callable[[], bool]) -> Child:
        environments = {
            "temporal": temporal_environment(self._home),
            "opa": opa_environment(),
            "opa-candidate": opa_environment(),
            "worker": dict(os.environ) | settings_environment(self._settings),
            "executor": executor_environment(self._settings),
            "signer": signer_environment(self._settings),
        }
        return Child(name, argv, environments[name], ready, self._home.logs / f"{name}.log")

    def _await(self, child: Child) -> None:
        deadline = time.monotonic() + READY_TIMEOUT_S
        while not child.ready():
            if self._stopping:
                return
            if child.dead():
                raise self._why_dead(child)
            if time.monotonic() > deadline:
                raise InfrastructureError("FABRIC_START_FAILED", f"{child.name} does not answer", f"see {child.log}")
            time.sleep(0.05)

    def _why_dead(self, child: Child) -> Gen4Error:
        refused = read_error(self._home.run / WORKER_REFUSED) if child.name == "worker" else None
        return refused or InfrastructureError(
            "FABRIC_START_FAILED", f"{child.name} ended at once: {_tail(child.log)}", f"see {child.log}"
        )

    def _worker_ready(self) -> bool:
        try:
            document = json.loads((self._home.run / WORKER_READY).read_bytes())
        except (FileNotFoundError, ValueError):
            return False
        worker = self._children[-1]
        return bool(document.get("pid") == worker.pid)

    def _restart_dead(self) -> None:
        for child in self._children:
            if not child.dead() or child.refused:
                continue
            if (refused := self._refusal_of(child)) is not None:
                self._leave(child, refused)
                continue
            lived = time.monotonic() - child.started_at
            if lived < 5:
                time.sleep(BACKOFF_S[min(child.restarts, len(BACKOFF_S) - 1)])
            child.restarts += 1
            print(
                f"{child.name} ended (code {child.process.returncode if child.process else '?'}); starting it again", flush=True
            )
            child.start()
            self._publish(self._state.ready_ms if self._state else 0)

    def _refusal_of(self, child: Child) -> Gen4Error | None:
        """Why a worker must not be started again: what it needs is missing, and waiting brings it not."""
        if child.name != "worker" or child.process is None or child.process.returncode != REFUSED_EXIT_CODE:
            return None
        found = read_error(self._home.run / WORKER_REFUSED)
        return found or Gen4Error("WORKER_REFUSED", "the worker refuses to start", f"see {child.log}")

    def _leave(self, child: Child, refused: Gen4Error) -> None:
        child.refused = True
        print(f"{child.name} refuses to start and is left alone: {plain(str(refused))}", flush=True)
        if self._state is not None:
            self._state = self._state.model_copy(update={"refused": str(refused)})
            self._publish(self._state.ready_ms)

    def _publish(self, ready_ms: int) -> None:
        if self._state is None:
            return
        self._state = self._state.model_copy(
            update={
                "processes": {child.name: child.pid for child in self._children},
                "restarts": {child.name: child.restarts for child in self._children},
                "ready_ms": ready_ms,
            }
        )
        write_json(state_path(self._home), self._state.model_dump(mode="json"))


_KEPT = frozenset({"PATH", "HOME", "LANG", "LC_ALL", "TZ"})
"""What Temporal gets of the environment."""


def temporal_environment(home: Home) -> dict[str, str]:
    """The server asks who runs it. Made without C libraries it knows only ``/etc/passwd`` and these variables, and ends at
    once for a user of a directory service or without any entry.
    """
    try:
        user = pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        user = str(os.geteuid())
    kept = {key: value for key, value in os.environ.items() if key in _KEPT}
    return {"USER": user, "HOME": str(home.root), **kept}


_KEPT_FOR_SANDBOXES = _KEPT | {"DOCKER_HOST", "TMPDIR", "XDG_RUNTIME_DIR", "XDG_STATE_HOME"}


def executor_environment(settings: Settings) -> dict[str, str]:
    """What says where sandboxes come from; no credential of the server or of a store."""
    kept = {name: value for name, value in os.environ.items() if name in _KEPT_FOR_SANDBOXES or name.startswith("GEN4_ROOTFS_")}
    return {**kept, "GEN4_CACHE": str(settings.cache), "GEN4_SANDBOX": settings.sandbox}


_KEPT_FOR_SERVICES = frozenset(
    {"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE",
     "SSL_CERT_DIR"}
)  # fmt: skip
"""How services are reached, whatever their names are written in."""


def signer_environment(settings: Settings) -> dict[str, str]:
    """A key management service's library reads credentials where it likes; other signers get none, and the way to services."""
    if settings.signing_key is not None:
        return dict(os.environ)
    wanted = _KEPT_FOR_SERVICES if settings.sigstore_config is not None else frozenset()
    way = {name: value for name, value in os.environ.items() if name.upper() in wanted}
    return {**temporal_environment(Home(settings.home)), **way}


def temporal_database(home: Home) -> Path:
    return home.root / "temporal.db"


def discard_unfinished(database: Path) -> None:
    """Temporal never finishes a database whose making was cut off, for instance by a full disk: it must begin anew.

    Only where no server ever ran on it, and it holds no history.
    """
    if not database.is_file():
        return
    try:
        with closing(sqlite3.connect(f"file:{quote(str(database))}?mode=ro", uri=True)) as reader:
            tables = {name for (name,) in reader.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            held = any(reader.execute(f"SELECT 1 FROM {name} LIMIT 1").fetchone() for name in _HISTORY & tables)  # noqa: S608
    except sqlite3.Error:
        return  # not ours to judge: Temporal says what is wrong with it
    if "cluster_metadata_info" not in tables and not held:
        for suffix in ("", "-wal", "-shm", "-journal"):
            database.with_name(database.name + suffix).unlink(missing_ok=True)


_HISTORY = {"executions", "history_node", "history_tree", "shards"}


PROMPT = ("--dynamic-config-value", "history.transferProcessorMaxPollRPS=1000")
"""The development server has one shard, whose tasks are read 20 times a second unless told otherwise: every workflow task and
every activity would wait for the next of these turns, 50 ms at most. Reading more often costs nothing while there is nothing."""


def temporal_argv(binary: Path, home: Home, ports: dict[str, int], namespace: str) -> list[str]:
    argv = [
        str(binary), "server", "start-dev", "--ip", "127.0.0.1", "--port", str(ports["temporal"]), "--ui-port", str(ports["ui"]),
        "--db-filename", str(temporal_database(home)), "--namespace", namespace, "--log-level", "warn", *PROMPT,
    ]  # fmt: skip
    for name in SEARCH_ATTRIBUTES:
        argv += ["--search-attribute", f"{name}=Keyword"]
    return argv


@contextmanager
def starting_alone(cache: Path) -> Iterator[None]:
    """Fabrics of one user choose their ports one after the other: of two at once, one could find the other's OPA on its port."""
    cache.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + READY_TIMEOUT_S
    with (cache / "start.lock").open("a") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if time.monotonic() > deadline:
                    break  # whoever holds it is stuck; a port that is taken shows by itself
                time.sleep(0.05)
        yield


def choose_ports(home: Home, preferred: int | None) -> dict[str, int]:
    """Ports of the last start as long as they are free (links stay valid), else the usual ones, else free ones."""
    path = home.run / "ports.json"
    try:
        last = {str(name): int(port) for name, port in json.loads(path.read_bytes()).items()}
    except (FileNotFoundError, ValueError, AttributeError):
        last = {}
    usual = {"temporal": 7233, "ui": 8233, "opa": 8181, "opa_candidate": 8182}
    ports: dict[str, int] = {}
    for name, default in usual.items():
        wished = preferred if name == "temporal" and preferred else last.get(name, default)
        ports[name] = wished if _free(wished) else _any_free_port()
    write_json(path, dict(ports))
    return ports


def _free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def _any_free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _listens(port: int) -> Callable[[], bool]:
    def probe() -> bool:
        with socket.socket() as connection:
            connection.settimeout(0.5)
            return connection.connect_ex(("127.0.0.1", port)) == 0

    return probe


def _answers(path: Path) -> Callable[[], bool]:
    def probe() -> bool:
        try:
            connect(path).close()
        except InfrastructureError:
            return False
        return True

    return probe


def _healthy(port: int) -> Callable[[], bool]:
    def probe() -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=0.5) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    return probe


def _tail(log: Path) -> str:
    return " | ".join(line[-LINE_SHOWN:] for line in log.read_text(errors="replace").splitlines()[-3:])


if __name__ == "__main__":
    sys.exit(main())

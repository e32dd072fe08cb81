"""The running fabric of one home, as seen by a client: where it listens, whether it is ready, how to start and stop it."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

from activities.record.home import Home
from schemas.error import Gen4Error, InfrastructureError, InputError, Refused
from schemas.model import Payload
from workers.settings import Settings
from workers.toolchain import cache_directory, locate

ENDPOINTS, OPA_TOKEN, POLICY_BUNDLE = "endpoints.json", "opa-token", "policy.tar.gz"
CANDIDATE_BUNDLE = "policy-candidate.tar.gz"
"""Files in ``run/`` by which the supervisor tells the worker where everything is."""
SEARCH_ATTRIBUTES = ("Tenant", "SessionState", "Phase", "Risk", "Repository")
"""Keywords that sessions carry; the server must know them."""
REFUSED_EXIT_CODE, UNAVAILABLE_EXIT_CODE = 78, 75
"""EX_CONFIG: starting the worker again will not help. EX_TEMPFAIL: something that it needs is down."""
WORKER_READY, WORKER_REFUSED = "worker.json", "worker-refused.json"
"""Files in ``run/`` by which the worker tells the supervisor that it polls, or why it must not start."""
EXECUTOR_PUBLIC_KEY = "executor.pub"
"""File in an executor's state folder that the signer's operator is given."""
START_REFUSED = "start-refused.json"
"""File in ``run/`` by which the supervisor tells who started it why there is no fabric."""

CREDENTIALS = ("TEMPORAL_API_KEY", "TEMPORAL_TLS", "TEMPORAL_GRPC_META_")
"""Variables by which the SDK finds the credentials of an external server."""

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 20.0
UI_START_FORM = (
    "/namespaces/{namespace}/workflows/start-workflow?workflowType=Remediation&taskQueue=gen4&workflowId=remediation-{id}"
)


class FabricState(Payload):
    """Written by the supervisor to ``run/fabric.json`` once everything answers; removed when it stops."""

    pid: int
    temporal_address: str
    ui_url: str
    opa_url: str
    policy_digest: str
    candidate_url: str = ""
    """Of the OPA that answers for a candidate policy version; empty where none is tried."""
    candidate_digest: str = ""
    namespace: str
    home: str
    repository_roots: tuple[str, ...]
    sandbox: str
    metrics_url: str = ""
    temporal_metrics_url: str = ""
    """Of the worker's own metrics, and of those of the Temporal SDK in it; empty while it is not ready."""
    processes: dict[str, int] = {}
    restarts: dict[str, int] = {}
    external: bool = False
    """The Temporal server is somebody else's: the fabric neither starts nor stops it."""
    refused: str | None = None
    """Why the worker refuses to start, since when it is not started again."""
    ready_ms: int = 0

    @property
    def start_form(self) -> str:
        """Deep link that pre-fills the Temporal UI's start form, with a workflow id of its own each time; empty without a UI."""
        if not self.ui_url:
            return ""
        return self.ui_url + UI_START_FORM.format(namespace=self.namespace, id=uuid.uuid4())

    def workflow_link(self, workflow_id: str) -> str:
        return f"{self.ui_url}/namespaces/{self.namespace}/workflows/{quote(workflow_id, safe='')}" if self.ui_url else ""


def state_path(home: Home) -> Path:
    return home.run / "fabric.json"


def lock_path(home: Home) -> Path:
    return home.run / "fabric.lock"


def supervisor_holds(lock: Path) -> bool:
    """Whether a live supervisor owns the home: the kernel drops the lock with its process."""
    try:
        with lock.open("a") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                return True
            return False
    except FileNotFoundError:
        return False


def running(home: Home) -> FabricState | None:
    """The state of a running, ready fabric, or None."""
    if not supervisor_holds(lock_path(home)):
        return None
    try:
        state = FabricState.model_validate_json(state_path(home).read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    return state.model_copy(update=_metrics_urls(home, state))


def _metrics_urls(home: Home, state: FabricState) -> dict[str, str]:
    """A worker that was started again may serve them elsewhere, so it says itself where."""
    try:
        found = json.loads((home.run / WORKER_READY).read_bytes())
        if found["pid"] != state.processes.get("worker"):
            return {}
        return {name: str(found[name]) for name in ("metrics_url", "temporal_metrics_url")}
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return {}


def start(settings: Settings, say: Callable[[str], None]) -> FabricState:
    """Start the fabric of ``settings.home`` in the background and wait until it is ready; idempotent.

    Raises:
        Gen4Error: why supervisor or worker refused to start, e.g. SANDBOX_UNAVAILABLE, TOOL_MISSING.
        InfrastructureError: FABRIC_START_FAILED with the last lines of the supervisor's log.
    """
    home = Home.open(settings.home)
    found = running(home)
    if found is not None:
        return found
    prepare(settings, say)
    say("starting the fabric (Temporal, OPA, worker) …")
    log, refused = home.logs / "supervisor.log", home.run / START_REFUSED
    refused.unlink(missing_ok=True)
    with log.open("ab") as out:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "workers.supervisor"],
            stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True, env=_environment(settings),
            cwd=settings.home,
        )  # fmt: skip
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        found = running(home)
        if found is not None:
            return found
        if process.poll() is not None and not supervisor_holds(lock_path(home)):
            break
        time.sleep(0.05)
    if (error := read_error(refused)) is not None:
        raise error
    tail = b"\n".join(log.read_bytes().splitlines()[-12:]).decode("utf-8", "replace")
    what = f"not ready after {START_TIMEOUT_S:.0f} s" if process.poll() is None else "the supervisor ended"
    raise InfrastructureError("FABRIC_START_FAILED", f"{what}:\n{tail}", f"see {log} and run `gen4 doctor`")


def prepare(settings: Settings, say: Callable[[str], None]) -> None:
    """Make or import the base of the sandbox where there is none: a start does not wait as long as that can take.

    Raises:
        Gen4Error: what is missing besides, before any time goes into it; ROOTFS_BUILD_FAILED.
    """
    from activities.kernel.sandbox.backends import require_backend  # clients and supervisor start nothing in a sandbox
    from activities.kernel.sandbox.rootfs import RootFilesystems

    roots = RootFilesystems(cache_directory(settings_environment(settings)))
    if settings.executor_socket is not None or roots.present():
        return
    for name in ("opa",) if settings.temporal_address else ("temporal", "opa"):
        locate(name, make=False)
    require_backend(settings.sandbox)
    say("copying the sandbox's root filesystem …" if roots.imports() else "making the sandbox's root filesystem (½ minute) …")
    roots.current()


def stop(home: Home) -> bool:
    """Stop the fabric; False if none ran. Sessions go on at the next start."""
    found = running(home)
    pid = found.pid if found else _locked_pid(home)
    if pid is None:
        return False
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + STOP_TIMEOUT_S
    while supervisor_holds(lock_path(home)):
        if time.monotonic() > deadline:
            raise InfrastructureError("FABRIC_STOP_FAILED", f"process {pid} is still running", f"stop it with `kill -9 {pid}`")
        time.sleep(0.05)
    return True


def _locked_pid(home: Home) -> int | None:
    if not supervisor_holds(lock_path(home)):
        return None
    try:
        return int(lock_path(home).read_text())
    except ValueError:
        return None


def _environment(settings: Settings) -> dict[str, str]:
    """The supervisor's environment: the caller's settings made explicit, nothing else of ours inherited."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("GEN4_", "TEMPORAL_"))}
    passed = {
        key: os.environ[key]
        for key in ("GEN4_TEMPORAL", "GEN4_OPA", "GEN4_ROOTFS_TAR", "GEN4_ROOTFS_MIRRORS")
        if key in os.environ
    }
    if settings.temporal_address is not None:  # its credentials; a server of our own asks for none
        passed |= {key: value for key, value in os.environ.items() if key.startswith(CREDENTIALS)}
    return inherited | passed | settings_environment(settings)


_SIGNING = (
    "executor_socket", "signer_socket", "signing_key", "signing_public_key", "sigstore_config", "identity_token_file",
    "signing_identity", "proof_of_time",
)  # fmt: skip
"""Settings about who runs tests and who signs."""


def settings_environment(settings: Settings) -> dict[str, str]:
    """The variables that reproduce ``settings`` in a child process."""
    values = {
        "GEN4_HOME": str(settings.home),
        "GEN4_CACHE": str(settings.cache),
        "GEN4_REPOSITORY_ROOTS": os.pathsep.join(str(root) for root in settings.repository_roots),
        "GEN4_REPOSITORY_HOSTS": ",".join(settings.repository_hosts),
        "GEN4_SANDBOX": settings.sandbox,
        "GEN4_TENANT": settings.tenant,
        "GEN4_NAMESPACE": settings.namespace,
        "GEN4_IDENTITY": settings.identity,
        "GEN4_APPROVAL_EXPIRY_S": str(settings.approval_expiry_s),
        "GEN4_METRICS_PORT": str(settings.metrics_port),
        "GEN4_REAPER_S": str(settings.reaper_s),
        "GEN4_RECONCILIATION_S": str(settings.reconciliation_s),
        "GEN4_CHECKPOINT_S": str(settings.checkpoint_s),
    }
    for name in _SIGNING:
        if getattr(settings, name) is not None:
            values[f"GEN4_{name.upper()}"] = str(getattr(settings, name))
    if settings.policy_candidate is not None:
        values["GEN4_POLICY_CANDIDATE"] = str(settings.policy_candidate)
        values["GEN4_GATE_MODE"] = settings.gate_mode
        values["GEN4_GATE_ENFORCE_BP"] = str(settings.gate_enforce_bp)
    if settings.checkpoint_sink is not None:
        values["GEN4_CHECKPOINT_SINK"] = str(settings.checkpoint_sink)
    if settings.temporal_address is not None:
        values["GEN4_TEMPORAL_ADDRESS"] = settings.temporal_address
    if settings.temporal_ui is not None:
        values["GEN4_TEMPORAL_UI"] = settings.temporal_ui
    if settings.store_url is not None:
        values["GEN4_STORE_URL"] = settings.store_url
    if settings.temporal_port is not None:
        values["GEN4_TEMPORAL_PORT"] = str(settings.temporal_port)
    return values


def write_json(path: Path, document: dict[str, Any]) -> None:
    write_private(path, json.dumps(document))


def write_error(path: Path, error: Gen4Error) -> None:
    """Leave an error to the process that waits for us."""
    kind = next(name for name, known in _KINDS.items() if isinstance(error, known))
    write_json(path, {"kind": kind, "code": error.code, "message": error.message, "remedy": error.remedy})


def read_error(path: Path) -> Gen4Error | None:
    """The error that :func:`write_error` left, as it was raised; None when there is none."""
    try:
        found = json.loads(path.read_bytes())
        return _KINDS[found["kind"]](str(found["code"]), str(found["message"]), str(found["remedy"]))
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


_KINDS: dict[str, type[Gen4Error]] = {
    "input": InputError, "refused": Refused, "infrastructure": InfrastructureError, "other": Gen4Error,
}  # fmt: skip


def write_private(path: Path, text: str) -> None:
    """Atomically, readable by the owner only."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as handle:
        handle.write(text)
    temporary.rename(path)

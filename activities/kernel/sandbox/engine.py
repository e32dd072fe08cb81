"""A Docker engine of our own, for set-up and tests where root finds none; it never touches the host's network."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import docker as sdk

from schemas.error import Gen4Error, InfrastructureError

START_TIMEOUT_S = 60
STOP_TIMEOUT_S = 30
ENGINES_AT_ONCE = 4
"""Each keeps images of its own, some 200 MB."""


def usual_host() -> str:
    """Where an engine would answer: ``DOCKER_HOST``, else the usual socket."""
    return os.environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock"


def answers(host: str) -> bool:
    """Whether an engine that we may use answers at ``host``."""
    client = None
    try:
        client = sdk.APIClient(base_url=host, version="auto", timeout=5)
        return bool(client.ping())
    except Exception:  # the SDK lets errors of several libraries through; each means no
        return False
    finally:
        if client is not None:
            client.close()


@contextmanager
def docker_engine(cache: Path, group: int = 0) -> Iterator[str]:
    """The host of an engine that answers: the usual one, else one that is started here and stopped at the end.

    ``cache`` keeps the images of an own engine; ``group`` may open its socket.

    Raises:
        InfrastructureError: DOCKER_UNAVAILABLE, when none answers and none can be started.
    """
    host = usual_host()
    if answers(host):
        yield host
        return
    _require(host)
    with _data_folder(cache) as (data, lock), tempfile.TemporaryDirectory(prefix="gen4-docker-") as run:
        os.chmod(run, 0o711)  # noqa: S103 - the socket in it has a group of its own
        host = f"unix://{run}/docker.sock"
        log = Path(run) / "dockerd.log"
        with log.open("wb") as output:
            command = _command(data, Path(run), host, group)
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True, pass_fds=(lock,)
            )
        try:
            _await(host, process, log)
            yield host
        finally:
            _stop(process)
            _unmount_below(Path(run))


def _require(host: str) -> None:
    if os.environ.get("DOCKER_HOST"):
        raise _unavailable(f"DOCKER_HOST names {host}, where no engine answers", "start it, or unset DOCKER_HOST")
    if os.geteuid() != 0:
        raise _unavailable("no Docker engine answers", "start one as root, or join the group that may open its socket")
    if shutil.which("dockerd") is None:
        raise _unavailable("dockerd is not installed", "run: apt-get install docker.io")


@contextmanager
def _data_folder(cache: Path) -> Iterator[tuple[Path, int]]:
    """A folder for images that no other engine uses, and the lock on it, which the engine inherits: a second engine on the
    same folder would wait for the first and give up.
    """
    cache.mkdir(mode=0o700, parents=True, exist_ok=True)
    for number in range(ENGINES_AT_ONCE):
        data = cache / (f"docker-{number}" if number else "docker")
        with data.with_suffix(".lock").open("wb") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            data.mkdir(mode=0o700, exist_ok=True)
            yield data, lock.fileno()
            return
    raise _unavailable(f"{ENGINES_AT_ONCE} engines of {cache} run already", "wait until one has ended")


def _command(data: Path, run: Path, host: str, group: int) -> list[str]:
    configuration = run / "daemon.json"
    configuration.write_text("{}\n")  # the machine's own is not ours to use
    return [
        "dockerd",
        *("--data-root", str(data), "--exec-root", str(run / "exec"), "--pidfile", str(run / "dockerd.pid")),
        *("--config-file", str(configuration), "--host", host, "--group", str(group), "--bridge", "none"),
        *("--iptables=false", "--ip6tables=false", "--ip-forward=false", "--ip-masq=false", "--userland-proxy=false"),
    ]


def _await(host: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while not answers(host):
        if process.poll() is not None or time.monotonic() > deadline:
            text = log.read_text(errors="replace")[-1500:]
            raise _unavailable(f"dockerd did not start: {text}", "see `dockerd` started by hand, or use bubblewrap")
        time.sleep(0.1)


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Ask it to end, which also ends its containerd; kill the whole session where it does not."""
    process.terminate()
    try:
        process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _unmount_below(folder: Path) -> None:
    """Namespaces that a killed engine left mounted would keep its folder from being removed."""
    mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    for mount in sorted((path for path in mounts if path.startswith(f"{folder}/")), reverse=True):
        subprocess.run(["umount", "--lazy", mount], check=False, capture_output=True)


def _unavailable(why: str, remedy: str) -> Gen4Error:
    return InfrastructureError("DOCKER_UNAVAILABLE", why, remedy)

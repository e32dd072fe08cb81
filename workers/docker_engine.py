"""A Docker engine for the length of a test run: where root has the programs and nothing answers, we start our own.

It has its own socket, data and state folders, no network bridge and no firewall rules: whatever else runs on the
machine neither sees it nor is changed by it. Who starts it stops it.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import docker
from docker.errors import DockerException

from schemas.error import InfrastructureError

START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 15.0


def answers(url: str | None = None) -> bool:
    """Whether an engine answers at ``url``, by default at what the environment names (``DOCKER_HOST``)."""
    try:
        client = docker.DockerClient(base_url=url, timeout=5) if url else docker.from_env(timeout=5)
    except DockerException:
        return False
    try:
        return bool(client.ping())
    except (DockerException, OSError):
        return False
    finally:
        client.close()


@contextmanager
def private_engine() -> Iterator[str]:
    """Start an engine, yield its URL for ``DOCKER_HOST``, and stop and remove it afterwards.

    Raises:
        InfrastructureError: DOCKER_UNAVAILABLE, this user cannot run one; DOCKER_START_FAILED with the end of its log.
    """
    dockerd = shutil.which("dockerd", path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if os.getuid() != 0 or dockerd is None:
        raise InfrastructureError("DOCKER_UNAVAILABLE", "no Docker engine answers", "start one, or as root install docker.io")
    folder = Path(tempfile.mkdtemp(prefix="gen4-docker-"))
    url = f"unix://{folder / 'docker.sock'}"
    folder.chmod(0o711)  # members of the docker group reach the socket; the engine closes its own folders
    (folder / "config.json").write_text("{}\n")  # the machine's own configuration is not ours to use
    try:
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(
                _argv(dockerd, folder, url), stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        try:
            _wait(process, url, folder / "log")
            yield url
        finally:
            _stop(process)
    finally:
        _unmount_below(folder)
        shutil.rmtree(folder, ignore_errors=True)


def _argv(dockerd: str, folder: Path, url: str) -> list[str]:
    return [
        dockerd, "--host", url, "--data-root", str(folder / "data"), "--exec-root", str(folder / "exec"),
        "--pidfile", str(folder / "pid"), "--config-file", str(folder / "config.json"),
        "--bridge", "none", "--iptables=false", "--ip6tables=false", "--ip-forward=false", "--ip-masq=false",
    ]  # fmt: skip


def _wait(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while process.poll() is None and time.monotonic() < deadline:
        if answers(url):
            return
        time.sleep(0.1)
    tail = " / ".join(log.read_text(errors="replace").splitlines()[-3:])
    raise InfrastructureError("DOCKER_START_FAILED", tail, "start a Docker engine yourself and set DOCKER_HOST")


def _stop(process: subprocess.Popen[bytes]) -> None:
    """The engine stops its containers and its containerd; what is left of its session is killed."""
    process.terminate()
    try:
        process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        pass
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()


def _unmount_below(folder: Path) -> None:
    mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    for mount in sorted((path for path in mounts if path.startswith(f"{folder}/")), reverse=True):
        subprocess.run(["umount", "--lazy", mount], check=False, capture_output=True)

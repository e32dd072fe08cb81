"""The Docker backend: the same root filesystem as an image, hardened as in explore-verify §5.

Memory, processes and CPU are limited by the engine's control groups. Only an engine on this machine is used: its
folders are bound into containers, and the wall clock is ours.
"""

from __future__ import annotations

import json
import os
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any, Literal

import docker as sdk
import requests
from docker import errors as sdk_errors
from docker.types import LogConfig, Mount, Ulimit

from schemas.canonical import jcs_sha256
from schemas.error import InfrastructureError
from schemas.testing import Limits, SandboxFacts

from . import probes, seccomp
from .cgroup import CpuTime, OutOfMemory
from .cpus import cpus_for
from .launching import check_program, readable
from .owner import alive, owner
from .port import (
    ENVIRONMENT,
    HARNESS,
    HOME,
    RUNNER,
    UID,
    WORK,
    CpuUsed,
    Ending,
    Probe,
    RootFilesystem,
    SandboxProcess,
    SandboxSpec,
)
from .shares import DiskShares
from .supervised import Chunk, Supervised

REPOSITORY = "gen4-root"
LABEL, OWNER = "gen4.sandbox", "gen4.owner"
API_TIMEOUT_S = 120
END_TIMEOUT_S = 15
CLOSE_TIMEOUT_S = 5.0
"""How long after a container's end its last output may come."""

STREAMS: dict[int, Literal["stdout", "stderr"]] = {1: "stdout", 2: "stderr"}
FAILURES = (sdk_errors.DockerException, requests.exceptions.RequestException)

HARDENING: dict[str, Any] = {
    "network_mode": "none",
    "read_only": True,
    "cap_drop": ["ALL"],
    "ipc_mode": "none",
    "init": True,
    "oom_score_adj": 1000,
}


class DockerBackend:
    """Talks to the engine that ``DOCKER_HOST`` names, else to the usual socket."""

    name: Literal["docker", "bubblewrap"] = "docker"

    def __init__(self, host: str | None = None) -> None:
        self._host = host or os.environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock"
        self._importing = threading.Lock()

    def facts(self) -> SandboxFacts:
        profile = {
            "hardening": dict(HARDENING),
            "seccomp": seccomp.docker_profile(),
            "disk": DiskShares.PROFILE,
            "security": self._engine["SecurityOptions"] or [],
        }
        return SandboxFacts(
            backend=self.name,
            version=f"docker {self._engine['ServerVersion']}",
            profile_sha256=jcs_sha256(profile),
            enforcement={
                "memory": "cgroup" if self._engine.get("MemoryLimit") else "none",
                "cpus": "cgroup" if self._engine.get("CpuCfsQuota") else "none",
                "pids": "cgroup" if self._engine.get("PidsLimit") else "none",
                "disk": "kernel",
                "wall": "watchdog",
                "output": "watchdog",
                "network": "kernel",
            },
        )

    @contextmanager
    def start(self, spec: SandboxSpec) -> Iterator[SandboxProcess]:
        check_program(spec)
        self._require_limits()
        client = self._client()
        container = ""
        try:
            container = self._create(client, spec)
            process = DockerProcess(self._client, container, spec.limits)
        except FAILURES as error:
            if container:
                _remove(client, container)
            raise InfrastructureError("SANDBOX_START_FAILED", f"docker: {error}", "run `gen4 doctor`") from error
        finally:
            client.close()
        try:
            yield process
        finally:
            process.discard()

    def probe(self, root: RootFilesystem) -> tuple[Probe, ...]:
        return probes.run(self, root)

    def reap(self, older_than_s: float) -> int:
        """Remove containers of workers that no longer exist."""
        client, count = self._client(), 0
        try:
            for row in client.containers(all=True, filters={"label": LABEL}):
                if time.time() - row["Created"] >= older_than_s and not alive(row["Labels"].get(OWNER, "")):
                    _remove(client, row["Id"])
                    count += 1
        except FAILURES as error:
            raise _unavailable(str(error)) from error
        finally:
            client.close()
        return count

    @cached_property
    def _engine(self) -> dict[str, Any]:
        """What the engine says about itself. Raises InfrastructureError(SANDBOX_UNAVAILABLE)."""
        if not self._host.startswith("unix://"):
            raise _unavailable(f"{self._host} is another machine: its engine cannot see this worker's folders")
        self._require_answer()
        client = None
        try:
            client = sdk.APIClient(base_url=self._host, version="auto", timeout=10)
            info: dict[str, Any] = client.info()
            info["ApiVersion"] = client.api_version
        except FAILURES as error:
            raise _unavailable(str(error)) from error
        finally:
            if client is not None:
                client.close()
        if info.get("OSType") != "linux" or not any("seccomp" in one for one in info["SecurityOptions"] or []):
            raise _unavailable("the engine runs no Linux containers with system call filters")
        return info

    def _require_answer(self) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(5)
            try:
                probe.connect(self._host.removeprefix("unix://"))
            except PermissionError as error:
                raise _unavailable(f"this user may not open {self._host} (join the group that owns it)") from error
            except OSError as error:
                raise _unavailable(f"no engine answers at {self._host}") from error

    def _client(self) -> Any:
        """A client of one's own for each thread. With the version known it asks the engine nothing."""
        return sdk.APIClient(base_url=self._host, version=self._engine["ApiVersion"], timeout=API_TIMEOUT_S)

    def _require_limits(self) -> None:
        missing = [name for name, how in self.facts().enforcement.items() if how == "none"]
        if missing:
            raise _unavailable(f"the engine cannot limit {', '.join(missing)} (control groups not mounted)")

    def _cpus(self, limits: Limits) -> str | None:
        """Only where the engine has the same CPUs as we: naming one that it does not have is an error."""
        same = self._engine.get("CPUSet") and self._engine.get("NCPU") == len(os.sched_getaffinity(0))
        return ",".join(map(str, cpus_for(limits))) if same else None

    def _image(self, client: Any, root: RootFilesystem) -> str:
        """The root filesystem as an image; its id depends on the time of import, so the tar's digest is the tag."""
        reference = f"{REPOSITORY}:{root.digest.removeprefix('sha256:')}"
        with self._importing:
            try:
                client.inspect_image(reference)
            except sdk_errors.ImageNotFound:
                tag = reference.split(":", 1)[1]
                client.import_image_from_file(str(root.tar), repository=REPOSITORY, tag=tag, changes=[f"LABEL {LABEL}=1"])
                client.inspect_image(reference)
        return reference

    def _create(self, client: Any, spec: SandboxSpec) -> str:
        mounts = [Mount(RUNNER, str(readable(spec.runner)), type="bind", read_only=True)]
        if spec.environment is not None:
            mounts.append(Mount(ENVIRONMENT, str(readable(spec.environment)), type="bind", read_only=True))
        if spec.harness is not None:
            mounts.append(Mount(HARNESS, str(readable(spec.harness)), type="bind", read_only=True))
        container = client.create_container(
            self._image(client, spec.root),
            command=list(spec.argv),
            user=f"{UID}:{UID}",
            hostname="gen4",
            working_dir=WORK,
            environment=spec.env,
            stdin_open=True,
            labels={**spec.labels, LABEL: "1", OWNER: owner()},
            host_config=client.create_host_config(
                **HARDENING,
                **_limits(spec.limits),
                cpuset_cpus=self._cpus(spec.limits),
                mounts=mounts,
                security_opt=["no-new-privileges:true", f"seccomp={json.dumps(seccomp.docker_profile())}"],
                log_config=LogConfig(type=LogConfig.types.NONE, config={}),
            ),
        )
        return str(container["Id"])


def _limits(limits: Limits) -> dict[str, Any]:
    disk = DiskShares.of(limits)
    options = f"rw,nosuid,nodev,exec,uid={UID},gid={UID}"
    return {
        "mem_limit": limits.memory_mb << 20,
        "memswap_limit": limits.memory_mb << 20,
        "nano_cpus": int(limits.cpus * 1e9),
        "pids_limit": limits.pids + 1,  # docker-init
        "ulimits": [Ulimit(name="core", soft=1, hard=1), Ulimit(name="nofile", soft=4096, hard=4096)],
        "tmpfs": {
            WORK: f"{options},mode=0755,size={disk.work}",
            HOME: f"{options},mode=0755,size={disk.home}",
            "/tmp": f"{options},mode=1777,size={disk.tmp}",  # noqa: S108
            "/dev/shm": f"{options},mode=1777,size={disk.shm}",  # noqa: S108
        },
    }


class DockerProcess(Supervised):
    """One container, from its start to its confirmed removal."""

    def __init__(self, connect: Callable[[], Any], container: str, limits: Limits) -> None:
        super().__init__(limits)
        self._connect = connect
        self._client = connect()
        self._container = container
        self._pending = b""
        self._killer: threading.Thread | None = None
        self._waiter = threading.Thread(target=self._await_exit, name="gen4-sandbox-wait", daemon=True)
        self._exit_code: int | None = None
        self._exited: float | None = None
        self._killing = threading.Lock()
        self._socket = _attach(self._client, container)
        try:
            self._client.start(container)
            first = self._client.inspect_container(container)["State"]["Pid"]
            self._memory, self._cpu_time = OutOfMemory.of(first), CpuTime.of(first)
        except BaseException:
            self._socket.close()
            self._client.close()
            raise
        self._waiter.start()
        self._begin()

    def discard(self) -> None:
        """Kill what still runs and wait until it is removed."""
        self.kill()
        self._done.wait()

    def _poll(self, timeout_s: float) -> Sequence[Chunk] | None:
        if self._exited is not None and self._abandoned(self._exited):
            return None
        if not select.select([self._socket], [], [], timeout_s)[0]:
            return ()
        try:
            data = self._socket.recv(1 << 16)
        except ConnectionError:
            data = b""
        if not data:
            return None
        chunks, self._pending = frames(self._pending + data)
        return chunks

    def _abandoned(self, exited: float) -> bool:
        """The engine closes the stream after the last output, but not while input that nobody reads fills its pipes."""
        self._close_input()
        return time.monotonic() - exited >= CLOSE_TIMEOUT_S

    def _await_exit(self) -> None:
        client = self._connect()
        try:
            status = client.wait(self._container, timeout=self._limits.wall_ms / 1000 + API_TIMEOUT_S)
            self._exit_code = int(status["StatusCode"])
        except FAILURES:
            return  # reaping asks again and says what is wrong
        finally:
            self._exited = time.monotonic()
            client.close()

    def _write(self, data: bytes) -> None:
        self._socket.sendall(data)

    def _close_input(self) -> None:
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError:
            return

    def _kill(self) -> None:
        """On a thread of its own: the engine kills nothing while nobody reads the container's output."""
        with self._killing:
            if self._killer is None:
                self._killer = threading.Thread(target=self._request_kill, name="gen4-sandbox-kill", daemon=True)
                self._killer.start()

    def _request_kill(self) -> None:
        client = self._connect()
        try:
            client.kill(self._container)
        except FAILURES:
            return  # not running any more, or the removal, which is confirmed, says what is wrong
        finally:
            client.close()

    def _reap(self) -> int:
        self._hang_up()
        self._waiter.join(END_TIMEOUT_S)
        try:
            if self._exit_code is None:
                self._exit_code = int(self._client.wait(self._container, timeout=END_TIMEOUT_S)["StatusCode"])
            state = self._client.inspect_container(self._container)["State"]
            self._oom = self._oom or bool(state.get("OOMKilled"))
            return self._exit_code
        except FAILURES as error:
            raise _not_ended(error) from error
        finally:
            _remove(self._client, self._container)
            self._client.close()

    def _hang_up(self) -> None:
        """The engine need not wait for us to read any more, and a sender that is blocked wakes up."""
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # the engine was first
        self._socket.close()

    def _count_cpu(self) -> CpuUsed:
        counted = self._cpu_time.ms()  # the engine removes the group with the last process: the last look counts
        return CpuUsed() if counted is None else CpuUsed(counted, "cgroup")

    _oom = False

    def _overrun(self) -> Ending | None:
        self._oom = self._oom or self._memory.happened()
        return "memory" if self._oom else None


def frames(data: bytes) -> tuple[list[Chunk], bytes]:
    """The engine's multiplexed stream: chunks in order, and the bytes of a frame whose header is not complete yet.

    The part of a payload that is there is handed out at once, so that a huge frame is never held whole.
    """
    chunks: list[Chunk] = []
    while len(data) >= 8:
        kind, size = struct.unpack(">BxxxI", data[:8])
        payload = data[8 : 8 + size]
        if kind in STREAMS and payload:
            chunks.append((STREAMS[kind], payload))
        if len(payload) < size:
            return chunks, struct.pack(">BxxxI", kind, size - len(payload))
        data = data[8 + size :]
    return chunks, data


def _attach(client: Any, container: str) -> socket.socket:
    """Standard streams, attached before the start so that nothing is missed; a descriptor that is ours alone."""
    raw = client.attach_socket(container, params={"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1})
    try:
        attached = socket.socket(fileno=os.dup(raw.fileno()))
        attached.settimeout(None)
        return attached
    finally:
        raw.close()


def _remove(client: Any, container: str) -> None:
    """Remove a container and confirm that it is gone. Raises InfrastructureError(SANDBOX_NOT_ENDED)."""
    deadline = time.monotonic() + END_TIMEOUT_S
    while True:
        try:
            client.remove_container(container, force=True, v=True)
            client.inspect_container(container)
        except sdk_errors.NotFound:
            return
        except FAILURES as error:
            if time.monotonic() > deadline:
                raise _not_ended(error) from error
        time.sleep(0.05)


def _not_ended(error: Exception) -> InfrastructureError:
    return InfrastructureError("SANDBOX_NOT_ENDED", f"docker: {error}", f"run: docker ps --filter label={LABEL}")


def _unavailable(why: str) -> InfrastructureError:
    return InfrastructureError(
        "SANDBOX_UNAVAILABLE", f"docker: {why}", "start a Docker engine that this user may open, or install bubblewrap"
    )

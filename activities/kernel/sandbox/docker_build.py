"""Making the root filesystem as an ordinary user who may use a Docker engine: this machine's mmdebstrap, run as root there.

Such a user is as good as root already (threats 1.4); the container gets the host's own programs read-only and one
folder to write to. Only mmdebstrap runs in it, never anything of a target.
"""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path
from typing import Any

import docker as sdk
import requests
from docker import errors as sdk_errors
from docker.types import LogConfig

from schemas.error import InfrastructureError

IMAGE = "gen4-build"
OUTPUT = "/output"
_LINKS = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
_FOLDERS = ("usr", "etc", "proc", "sys", "dev", "run", "root", "tmp", "var/tmp", "var/lib", "var/cache", "output")


def build_in_docker(host: str, command: list[str], epoch: int, output: Path, timeout_s: int) -> None:
    """Run ``command``, which writes below ``OUTPUT``; afterwards the files are in ``output``.

    Raises:
        InfrastructureError: ROOTFS_BUILD_FAILED with the end of what mmdebstrap said.
    """
    try:
        client = sdk.APIClient(base_url=host, version="auto", timeout=timeout_s)
        try:
            _run(client, command, epoch, output)
        finally:
            client.close()
    except (sdk_errors.DockerException, requests.exceptions.RequestException) as error:
        raise _failed(f"docker: {error}") from error


def _run(client: Any, command: list[str], epoch: int, output: Path) -> None:
    client.import_image_from_data(_empty_root(), repository=IMAGE, tag="latest")
    binds = {"/usr": "/usr", "/etc": "/etc", **{f"/{name}": f"/{name}" for name in _LINKS if _real(name)}}
    volumes = {source: {"bind": target, "mode": "ro"} for source, target in binds.items()}
    volumes[str(output)] = {"bind": OUTPUT, "mode": "rw"}
    container = client.create_container(
        f"{IMAGE}:latest",
        command=command,
        environment={"SOURCE_DATE_EPOCH": str(epoch), "LC_ALL": "C.UTF-8", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
        host_config=client.create_host_config(
            network_mode="host",
            binds=volumes,
            cap_add=["SYS_ADMIN"],  # mmdebstrap mounts /proc and /sys for maintainer scripts
            security_opt=["seccomp=unconfined", "apparmor=unconfined"],
            log_config=LogConfig(type="json-file", config={}),
        ),
    )["Id"]
    try:
        client.start(container)
        if client.wait(container)["StatusCode"]:
            raise _failed(client.logs(container, tail=20).decode(errors="replace").strip())
    finally:
        client.remove_container(container, force=True, v=True)


def _real(name: str) -> bool:
    """Whether a top folder is one of its own, as before Debian merged them into /usr."""
    path = Path("/") / name
    return path.is_dir() and not path.is_symlink()


def _empty_root() -> bytes:
    """Mount points, and the links of the top folder as they are on this machine."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        for name in (*_FOLDERS, *filter(_real, _LINKS)):
            folder = tarfile.TarInfo(name)
            folder.type, folder.mode = tarfile.DIRTYPE, 0o1777 if name.endswith("tmp") else 0o755
            archive.addfile(folder)
        for name in _LINKS:
            if Path("/", name).is_symlink():
                link = tarfile.TarInfo(name)
                link.type, link.linkname = tarfile.SYMTYPE, os.readlink(f"/{name}")
                archive.addfile(link)
    return data.getvalue()


def _failed(why: str) -> InfrastructureError:
    return InfrastructureError(
        "ROOTFS_BUILD_FAILED", why[-2000:], "run `make setup` as root, or set GEN4_ROOTFS_TAR to a root filesystem made elsewhere"
    )

"""Unpacking a root filesystem's tar as any user, without trusting it."""

from __future__ import annotations

import io
import os
import shutil
import tarfile
from pathlib import Path, PurePosixPath

from schemas.error import InfrastructureError

MOUNT_POINTS = ("work", "tmp", "env", "gen4", "home/gen4", "proc", "dev")


def unpack(tar: Path, folder: Path) -> None:
    """Write the tar's files below ``folder`` (created), readable by everyone, owned by us.

    Devices, FIFOs and set-id bits are dropped. Nothing is ever written through a symbolic link, so that no member can
    reach outside of the folder.

    Raises:
        InfrastructureError: ROOTFS_UNSAFE.
    """
    folder.mkdir(mode=0o755)
    folder.chmod(0o755)
    safe: set[PurePosixPath] = {PurePosixPath(".")}
    try:
        with tarfile.open(tar) as archive:
            for member in archive:
                _member(archive, member, folder, safe)
    except (tarfile.TarError, OSError) as error:
        raise InfrastructureError(
            "ROOTFS_UNSAFE", f"{tar.name} cannot be unpacked: {error}", "supply a tar of a root filesystem"
        ) from error
    for name in MOUNT_POINTS:
        _folder(folder, PurePosixPath(name), safe)


def _member(archive: tarfile.TarFile, member: tarfile.TarInfo, folder: Path, safe: set[PurePosixPath]) -> None:
    name = _inside(member.name)
    if name == PurePosixPath("."):
        return
    _folder(folder, name.parent, safe)
    target = folder / name
    if member.isdir():
        _folder(folder, name, safe)
    elif member.issym():
        target.symlink_to(member.linkname)
    elif member.islnk():
        source = _inside(member.linkname)
        _folder(folder, source.parent, safe)
        os.link(folder / source, target, follow_symlinks=False)
    elif member.isfile():
        content = archive.extractfile(member)
        with open(target, "xb") as file:
            shutil.copyfileobj(content or io.BytesIO(), file, 1 << 20)
        target.chmod((member.mode & 0o755) | 0o444)
        os.utime(target, (member.mtime, member.mtime))


def _inside(name: str) -> PurePosixPath:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise InfrastructureError("ROOTFS_UNSAFE", f"member {name!r} leaves the folder", "supply a tar with relative names")
    return path


def _folder(root: Path, name: PurePosixPath, safe: set[PurePosixPath]) -> None:
    """Make ``name`` a real folder; refuse where a link or file stands in its place."""
    if name in safe:
        return
    _folder(root, name.parent, safe)
    path = root / name
    if path.is_symlink() or (path.exists() and not path.is_dir()):
        raise InfrastructureError("ROOTFS_UNSAFE", f"{name} is not a folder of its own", "supply a tar of a root filesystem")
    if not path.exists():
        path.mkdir()
        path.chmod(0o755)
    safe.add(name)

"""The user's state folder: keys, store, content and logs of one fabric, readable by its owner alone (threats 1.1)."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from schemas.error import InputError


@dataclass(frozen=True)
class Home:
    """Folders are made with mode 0700 on open; ``root`` is absolute and free of symlinks at its last part."""

    root: Path

    @classmethod
    def open(cls, root: Path) -> Home:
        """Create what is missing and refuse what others could have prepared.

        Raises:
            InputError: HOME_UNSAFE when ``root`` is relative, a symlink, no folder, of another uid, writable
                by group or others, inside a git work tree, or cannot be made.
        """
        if not root.is_absolute():
            raise _unsafe(root, "is not an absolute path")
        _refuse_work_tree(root)
        home = cls(root)
        for folder in (root, home.keys, home.blobs, home.environments, home.roots, home.bundles, home.logs, home.run):
            _make(folder)
            _refuse_shared(folder)
        return home

    @property
    def keys(self) -> Path:
        return self.root / "keys"

    @property
    def store(self) -> Path:
        """The SQLite file of the embedded store."""
        return self.root / "store.db"

    @property
    def blobs(self) -> Path:
        return self.root / "blobs"

    @property
    def objects(self) -> Path:
        """A bare git repository of ours; see :class:`activities.record.objects.ObjectStore`."""
        return self.root / "objects.git"

    @property
    def environments(self) -> Path:
        return self.root / "environments"

    @property
    def roots(self) -> Path:
        """Unpacked root filesystems of the sandbox."""
        return self.root / "roots"

    @property
    def bundles(self) -> Path:
        return self.root / "bundles"

    @property
    def attestations(self) -> Path:
        """Statements beside bundles: ``<bundle digest>/<stamp id>/``."""
        return self.root / "attestations"

    @property
    def rejections(self) -> Path:
        """Rejection Reports, in folders named by their ids."""
        return self.root / "rejections"

    @property
    def executor(self) -> Path:
        """State of the embedded executor, which alone looks into it; but anyone may read its public key there."""
        return self.root / "executor"

    @property
    def signer(self) -> Path:
        """State of the embedded signer, which alone looks into it."""
        return self.root / "signer"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def run(self) -> Path:
        """Process ids, ports and sockets of what is running now."""
        return self.root / "run"


def private_folder(root: Path) -> Path:
    """A folder of this user's own, made when it is missing. Raises InputError HOME_UNSAFE as :meth:`Home.open`."""
    if not root.is_absolute():
        raise _unsafe(root, "is not an absolute path")
    _refuse_work_tree(root)
    _make(root)
    _refuse_shared(root)
    return root


def _make(folder: Path) -> None:
    try:
        if not folder.is_symlink():
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except FileExistsError:
        return  # no folder: said with its own words
    except OSError as error:
        raise _unsafe(folder, f"cannot be made: {error.strerror}") from error


def _refuse_shared(folder: Path) -> None:
    try:
        info = folder.lstat()
    except OSError as error:
        raise _unsafe(folder, f"cannot be read: {error.strerror}") from error
    if stat.S_ISLNK(info.st_mode):
        raise _unsafe(folder, "is a symlink")
    if not stat.S_ISDIR(info.st_mode):
        raise _unsafe(folder, "is not a folder")
    if info.st_uid != os.geteuid():
        raise _unsafe(folder, f"belongs to uid {info.st_uid}, not to uid {os.geteuid()}")
    if info.st_mode & 0o022:
        raise _unsafe(folder, f"may be written by others (mode {stat.S_IMODE(info.st_mode):04o})")
    if info.st_mode & 0o077:
        folder.chmod(0o700)  # ours, and written by nobody else: from now on not read by others either


def _refuse_work_tree(root: Path) -> None:
    # A cloned repository must not be able to ship a state folder, nor git to publish ours.
    for folder in (root, *root.parents, *root.resolve().parents):
        if os.path.lexists(folder / ".git"):
            raise _unsafe(root, f"lies inside the git work tree {folder}")


def _unsafe(path: Path, why: str) -> InputError:
    return InputError(
        "HOME_UNSAFE",
        f"the state folder {path} {why}",
        "set GEN4_HOME to an absolute path of your own, outside any repository, with mode 0700",
    )

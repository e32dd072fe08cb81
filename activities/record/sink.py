"""The outside sink: each checkpoint's note is also kept where whoever writes the store cannot, so that no roll-back goes unseen.

A file gets notes appended; a folder gets one file a note. Put it on another machine's disk, or where files cannot be changed.
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import quote

from activities.record.key_files import write_once
from schemas.checkpoint import Checkpoint, parse_checkpoint
from schemas.error import InfrastructureError, InputError

_NOTE = re.compile(r"(?:[^\n]+\n)+\n(?:— [^\n]+\n)+")
_LIMIT = 1 << 30


class Sink:
    """Args:
    path: a folder, or a file, which is made when it is not there.
    home: the state folder, in which an outside cannot be.
    """

    def __init__(self, path: Path, home: Path | None = None) -> None:
        inside = home is not None and path.resolve().is_relative_to(home.resolve())
        if not path.is_absolute() or inside or path.is_symlink():
            message = f"{path} is relative, a symlink, or inside the state folder"
            raise InputError("SINK_UNSAFE", message, "set GEN4_CHECKPOINT_SINK to an absolute path outside of GEN4_HOME")
        self._path = path

    def last(self, tenant_id: str) -> Checkpoint | None:
        """The highest checkpoint of the tenant that arrived here; its signature is not looked at."""
        found = [checkpoint for note in self.notes() if (checkpoint := _checkpoint(note)) and checkpoint.tenant_id == tenant_id]
        return max(found, key=lambda checkpoint: checkpoint.number, default=None)

    def notes(self) -> list[str]:
        """All whole notes, in the order they came. A torn one at the end came again after it."""
        return read_notes(self._path)

    def add(self, tenant_id: str, notes: Sequence[str]) -> None:
        """Add those that are newer than what is here, durably.

        Raises:
            InfrastructureError: CHECKPOINT_SINK.
        """
        try:
            if self._path.is_dir():
                for note in notes:
                    _add_file(self._path, note)
            else:
                self._append(tenant_id, notes)
        except OSError as error:
            raise _unusable(self._path, error) from error

    def _append(self, tenant_id: str, notes: Sequence[str]) -> None:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(self._path, flags, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            last = self.last(tenant_id)
            for note in notes:
                checkpoint = _checkpoint(note)
                if checkpoint is not None and (last is None or checkpoint.number > last.number):
                    os.write(descriptor, b"\n\n" + note.encode())  # after a torn one, too
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def read_notes(path: Path) -> list[str]:
    """The notes of a file, or of all files of a folder; none when there is nothing yet.

    Raises:
        InfrastructureError: CHECKPOINT_SINK.
    """
    try:
        return [note for text in _texts(path) for note in _NOTE.findall(text)]
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        raise _unusable(path, error) from error


def _texts(path: Path) -> Iterator[str]:
    if not path.is_dir():
        with path.open(encoding="utf-8") as file:
            yield file.read(_LIMIT)
        return
    for name in sorted(path.glob("*.note")):
        yield name.read_text(encoding="utf-8")


def _add_file(folder: Path, note: str) -> None:
    checkpoint = _checkpoint(note)
    if checkpoint is None:
        return
    write_once(folder / f"{quote(checkpoint.tenant_id, safe='')}-{checkpoint.number:012}.note", note.encode(), 0o600)


def _checkpoint(note: str) -> Checkpoint | None:
    return parse_checkpoint(note.rpartition("\n\n")[0] + "\n")


def _unusable(path: Path, error: Exception) -> InfrastructureError:
    return InfrastructureError("CHECKPOINT_SINK", f"{path}: {error}", "make the sink readable and writable for this user")

"""Bytecode of wheels and of our runner: compiled by the base's Python in a sandbox, kept beside the base for every home.

Each wheel is compiled alone, so that none can touch what is kept for another.
"""

from __future__ import annotations

import io
import os
import shutil
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

from activities.kernel.sandbox.port import RootFilesystem
from activities.record.whole_files import write_whole
from activities.testbed import wheels
from activities.testbed.building import Builder
from activities.testbed.harness import compiled_runner, harness_version, runner_files, version_of
from schemas.canonical import sha256_hex

_WORTH_IT = 4096
"""Bytes of source: a sandbox takes longer than to compile less than that in every run."""


class Bytecode:
    """What :func:`wheels.install` asks for bytecode. Safe to use from several processes: files appear whole."""

    def __init__(self, folder: Path, builder: Builder) -> None:
        self._folder, self._builder = folder, builder

    def of(self, filename: str, data: bytes, heartbeat: Callable[[], None]) -> bytes | None:
        """A zip archive: the bytecode of each module under the name of its source; None for a wheel of little source.

        Raises:
            Refused: WHEEL_INVALID.
            InfrastructureError: RUNNER_FAILED, or the sandbox could not be used.
        """
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if sum(member.file_size for member in archive.infolist() if member.filename.endswith(".py")) < _WORTH_IT:
                return None
        kept = self._folder / f"{sha256_hex(data)}.zip"
        if not kept.is_file():
            self._folder.mkdir(mode=0o700, exist_ok=True)
            write_whole(kept, self._compiled(filename, data, heartbeat))
        return kept.read_bytes()

    def _compiled(self, filename: str, data: bytes, heartbeat: Callable[[], None]) -> bytes:
        with tempfile.TemporaryDirectory(prefix="gen4-wheel-") as scratch:
            folder = Path(scratch) / "env"
            wheels.install([(filename, data)], folder)
            return self._builder.bytecode(folder, heartbeat)[0]

    def compile_runner(self, root: RootFilesystem, heartbeat: Callable[[], None]) -> None:
        """Have the runner compiled that sandboxes of ``root`` start with from now on, unless it is there already.

        Raises:
            InfrastructureError: RUNNER_FAILED, or the sandbox could not be used.
        """
        target = compiled_runner(root)
        if target.is_dir():
            return
        target.parent.mkdir(mode=0o700, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".compiling-") as scratch:
            folder = Path(scratch) / "runner"
            folder.mkdir(mode=0o755)
            for file in runner_files():
                shutil.copyfile(file, folder / file.name)
                (folder / file.name).chmod(0o644)
            if version_of(folder) != harness_version():
                return  # another version was installed since this process began
            archive, tag = self._builder.bytecode(folder, heartbeat)
            wheels.add_bytecode(archive, folder, tag)
            try:
                os.rename(folder, target)
            except OSError:
                if not target.is_dir():  # another worker may have been first
                    raise

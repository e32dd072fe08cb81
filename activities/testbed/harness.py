"""Start the runner in a sandbox: its arguments, its pinned variables, its identity (explore-verify §6)."""

from __future__ import annotations

import functools
import hashlib
import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

from activities.kernel.sandbox.port import (
    ENVIRONMENT,
    HARNESS,
    HOME,
    RUNNER,
    WORK,
    Completed,
    RootFilesystem,
    SandboxBackend,
    SandboxProcess,
    SandboxSpec,
)
from activities.testbed.protocol import HarnessBroken, parse_line
from activities.testbed.wheels import BYTECODE
from schemas.error import InfrastructureError
from schemas.testing import Limits

RUNNER_FOLDER = Path(__file__).parent / "runner"
HARNESS_LOCK = Path(__file__).resolve().parents[2] / "deploy" / "sandbox" / "harness.txt"
_CHUNK = 1 << 20
_IN_MEMORY = 16 * _CHUNK
_PATIENCE_S = 1.0
_TAIL_CHARS = 1_500

PINNED = {
    "PATH": f"{ENVIRONMENT}/bin:/usr/local/bin:/usr/bin:/bin",
    "HOME": HOME,
    "USER": "gen4",
    "LOGNAME": "gen4",
    "TMPDIR": "/tmp",
    "LC_ALL": "C.UTF-8",
    "TZ": "UTC",
    "PYTHONHASHSEED": "0",
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONNOUSERSITE": "1",
}
"""The whole environment of the supervisor; SOURCE_DATE_EPOCH joins it."""


def runner_files(folder: Path = RUNNER_FOLDER) -> tuple[Path, ...]:
    """Everything that the runner consists of."""
    return (*sorted(folder.glob("*.py")), *sorted(folder.glob("*.[cm]js")))


@functools.cache
def harness_version() -> str:
    """Of the runner with which this process began: another runner is another run key."""
    return version_of(RUNNER_FOLDER)


def version_of(runner: Path) -> str:
    """sha256 over a runner's sources and the lock of what it measures with."""
    digest = hashlib.sha256()
    for path in (*runner_files(runner), HARNESS_LOCK):
        digest.update(f"{path.name}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()


def compiled(root: RootFilesystem) -> Path:
    """Folder of what the base's Python has compiled, beside the base; :mod:`bytecode` fills it."""
    return root.path.with_name(f"{root.path.name}-{BYTECODE.replace('/', '-')}")


def compiled_runner(root: RootFilesystem) -> Path:
    """The runner's files with their bytecode, once they were compiled."""
    return compiled(root) / f"runner-{harness_version()}"


def pinned_requirements(lock: Path) -> tuple[str, ...]:
    """One line for each requirement of a lock of ours, with its hashes."""
    lines = lock.read_text().replace("\\\n", " ").splitlines()
    return tuple(" ".join(line.split()) for line in lines if line.strip() and not line.startswith("#"))


def sandbox_spec(
    root: RootFilesystem,
    *,
    mode: str,
    limits: Limits,
    environment: Path | None = None,
    source_date_epoch: int = 0,
    harness: Path | None = None,
    hash_seed: int = 0,
) -> SandboxSpec:
    """The runner's sandbox. An executor makes it from the same few facts and takes nothing else from its callers."""
    return SandboxSpec(
        root=root,
        argv=(root.python, "-S", "-s", "-P", "-B", f"{RUNNER}/main.py"),
        env={**PINNED, "SOURCE_DATE_EPOCH": str(source_date_epoch), "PYTHONHASHSEED": str(hash_seed)},
        limits=limits,
        runner=ready if (ready := compiled_runner(root)).is_dir() else RUNNER_FOLDER,
        environment=environment,
        harness=harness,
        labels={"mode": mode},
    )


@contextmanager
def start(
    backend: SandboxBackend,
    root: RootFilesystem,
    *,
    mode: str,
    job: dict[str, Any],
    limits: Limits,
    environment: Path | None = None,
    write_archive: Callable[[BinaryIO], Any] | None = None,
    source_date_epoch: int = 0,
    harness: Path | None = None,
    hash_seed: int = 0,
) -> Iterator[SandboxProcess]:
    """A runner that has its job and its files. Standard input stays open, for modes that go on asking.

    ``write_archive`` writes the tar that becomes ``/work``. Leaving the context kills the sandbox to its last process.

    Raises:
        InfrastructureError: the sandbox could not be started, or was gone before it had read its files.
    """
    spec = sandbox_spec(
        root, mode=mode, limits=limits, environment=environment, source_date_epoch=source_date_epoch, harness=harness,
        hash_seed=hash_seed,
    )  # fmt: skip
    with tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY) as archive:
        if write_archive is not None:
            write_archive(cast(BinaryIO, archive))
        size = archive.tell()
        archive.seek(0)
        with backend.start(spec) as process:
            folders = {"work": WORK, "environment": ENVIRONMENT, "harness": HARNESS}
            header = {"mode": mode, "job": {**folders, **job}, "archive_bytes": size}
            process.send(json.dumps(header).encode() + b"\n")
            while chunk := archive.read(_CHUNK):
                process.send(chunk)
            yield process


def collect(process: SandboxProcess, heartbeat: Callable[[], None]) -> list[bytes]:
    """Every line until the end of output, unparsed; ``heartbeat`` is called about every second and may raise to stop."""
    lines: list[bytes] = []
    while True:
        heartbeat()
        try:
            while (line := process.line(_PATIENCE_S)) is not None:
                lines.append(line)
                if len(lines) % 50 == 0:
                    heartbeat()
            return lines
        except TimeoutError:
            continue


def end_of(lines: list[bytes], completed: Completed, what: str) -> dict[str, Any]:
    """The end line of a run in which nothing may go wrong.

    Raises:
        InfrastructureError: RUNNER_FAILED.
    """
    try:
        last = parse_line(lines[-1]) if lines else {}
    except HarnessBroken as error:
        raise InfrastructureError("RUNNER_FAILED", f"{what}: {error}") from error
    if last.get("kind") != "end":
        raise InfrastructureError("RUNNER_FAILED", f"{what}: {describe_end(completed)}")
    return last


def describe_end(completed: Completed) -> str:
    """Why there is no end line; the text of the runner's own standard error is included."""
    stderr = completed.stderr.decode("utf-8", "backslashreplace").strip()[-_TAIL_CHARS:]
    how = f"the runner ended without an end line ({completed.ending}, exit code {completed.exit_code})"
    return how + (f": {stderr}" if stderr else "")

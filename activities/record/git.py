"""Running git so that nothing but our own arguments decides what it does (threats 3.2).

Every call works in a bare repository of ours, with an environment made from nothing, no system or user configuration, no
hooks, filters, helpers or lazy fetches, and exactly the transport that the caller named.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from schemas.error import InfrastructureError, InputError

OLDEST_GIT = (2, 39, 4)
"""The first to know GIT_NO_LAZY_FETCH."""
LOCAL_TIMEOUT_S = 300.0
TRANSFER_TIMEOUT_S = 840.0
"""Below the ceiling of the fetching capability, so that git dies first."""

_OBJECT_ID = re.compile(r"[0-9a-f]{40}\Z")
_UNPRINTABLE = re.compile(r"[^\x20-\x7e]+")

# Old, harmless mistakes that well-known repositories carry in their history.
_OLD_MISTAKES = ("badTimezone", "missingSpaceBeforeDate", "zeroPaddedFilemode", "badFilemode")

_CONFIG: tuple[tuple[str, str], ...] = (
    ("core.hooksPath", "/dev/null"),
    ("core.fsmonitor", "false"),
    ("core.attributesFile", "/dev/null"),
    ("core.excludesFile", "/dev/null"),
    ("core.quotePath", "true"),
    ("core.autocrlf", "false"),
    ("core.askPass", "true"),
    # Runs in a shell for each alternate of a repository; `true` prints no reference.
    ("core.alternateRefsCommand", "true"),
    # Ours checks paths itself: git's rule for NTFS refuses names that are fine here.
    ("core.protectNTFS", "false"),
    ("credential.helper", ""),
    ("http.followRedirects", "false"),
    ("protocol.version", "2"),
    ("gc.auto", "0"),
    ("maintenance.auto", "false"),
    ("transfer.fsckObjects", "true"),
    ("fetch.fsckObjects", "true"),
    ("receive.fsckObjects", "true"),
    *((f"{side}.fsck.{mistake}", "warn") for side in ("fetch", "receive") for mistake in _OLD_MISTAKES),
    ("fetch.recurseSubmodules", "false"),
    ("submodule.recurse", "false"),
    ("gpg.format", "ssh"),
    ("i18n.commitEncoding", "utf-8"),
)
_RECEIVE_CONFIG: tuple[tuple[str, str], ...] = (
    ("receive.denyCurrentBranch", "refuse"),
    ("receive.denyDeletes", "true"),
    ("receive.autogc", "false"),
    ("receive.updateServerInfo", "false"),
)
_SSH = (
    "ssh -F /dev/null -o BatchMode=yes -o StrictHostKeyChecking=yes -o ForwardAgent=no -o ForwardX11=no "
    "-o PermitLocalCommand=no -o ClearAllForwardings=yes"
)


class GitFailed(InfrastructureError):
    """GIT_FAILED: git ended with an unexpected status. ``detail`` is its error output, printable and short."""

    def __init__(self, command: str, status: int, stdout: bytes, stderr: bytes) -> None:
        self.status = status
        self.stdout = stdout
        self.detail = printable(stderr)
        super().__init__("GIT_FAILED", f"git {command} ended with {status}: {self.detail}")


@dataclass(frozen=True)
class Git:
    """git in one bare repository. ``directory`` is absolute."""

    directory: Path

    def run(
        self,
        *arguments: str,
        stdin: bytes = b"",
        environment: Mapping[str, str] | None = None,
        protocol: str = "",
        timeout_s: float = LOCAL_TIMEOUT_S,
    ) -> bytes:
        """Standard output of one git command.

        Args:
            protocol: the one transport that may be used: ``file``, ``https`` or ``ssh``; empty for none.

        Raises:
            GitFailed: on any status but 0; InfrastructureError GIT_TIMEOUT, TOOL_MISSING.
        """
        with self.start(*arguments, environment=environment, protocol=protocol) as process:
            try:
                stdout, stderr = process.communicate(stdin, timeout=timeout_s)
            except subprocess.TimeoutExpired as error:
                raise InfrastructureError("GIT_TIMEOUT", f"git {arguments[0]} took longer than {timeout_s:.0f} s") from error
            finally:
                kill(process)
        if process.returncode != 0:
            raise GitFailed(arguments[0], process.returncode, stdout, stderr)
        return stdout

    def start(
        self,
        *arguments: str,
        environment: Mapping[str, str] | None = None,
        protocol: str = "",
        stderr: int = subprocess.PIPE,
    ) -> subprocess.Popen[bytes]:
        """A running git command, leader of its own process group; end it with :func:`kill`."""
        options = [word for name, value in _CONFIG for word in ("-c", f"{name}={value}")]
        return subprocess.Popen(
            [_program("git"), "--git-dir", str(self.directory), "--no-pager", "--literal-pathspecs", *options, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            cwd=self.directory,
            env={**_environment(), "GIT_ALLOW_PROTOCOL": protocol or "none", **(environment or {})},
            start_new_session=True,
        )


def require_git() -> str:
    """The version of git, e.g. ``2.39.5``.

    Raises:
        InfrastructureError: TOOL_MISSING; TOOL_TOO_OLD where git would fetch missing objects by a repository's own programs.
    """
    output = subprocess.run([_program("git"), "version"], capture_output=True, env=_environment(), check=False).stdout.decode()
    numbers = re.search(r"([0-9]+)\.([0-9]+)\.([0-9]+)", output)
    if numbers is None or tuple(map(int, numbers.groups())) < OLDEST_GIT:
        oldest = ".".join(map(str, OLDEST_GIT))
        raise InfrastructureError("TOOL_TOO_OLD", f"{output.strip()!r} is older than {oldest}", f"install git {oldest} or newer")
    return numbers.group()


def server_command(service: str) -> str:
    """What git's transport starts on the other side of a local path: ``service`` with an empty environment and no hooks.

    git hands this constant to a shell and appends the quoted path; nothing in it comes from a request.
    """
    variables = [f"{name}={value}" for name, value in {**_environment(), "GIT_PROTOCOL": "version=2"}.items()]
    options = [word for name, value in (*_CONFIG, *_RECEIVE_CONFIG) for word in ("-c", f"{name}={value}")]
    return shlex.join([_program("env"), "-i", *variables, _program("git"), *options, service])


def kill(process: subprocess.Popen[bytes]) -> None:
    """End the whole group of a process that :meth:`Git.start` made, if it still runs."""
    if process.poll() is None:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass  # it ended in between


def object_id(text: str) -> str:
    """``text`` if it is a SHA-1 object id.

    Raises:
        InputError: OBJECT_ID.
    """
    if not _OBJECT_ID.match(text):
        raise InputError("OBJECT_ID", f"{printable(text.encode(errors='replace'))!r} is not an object id", "send 40 hex digits")
    return text


def printable(output: bytes) -> str:
    """At most 500 printable ASCII characters of what a program said."""
    return _UNPRINTABLE.sub(" ", output.decode("ascii", "replace")).strip()[-500:]


def _environment() -> dict[str, str]:
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": "/nonexistent",
        "LC_ALL": "C",
        "TZ": "UTC",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": "/dev/null",
        "GIT_ATTR_NOSYSTEM": "1",
        "GIT_NO_LAZY_FETCH": "1",
        "GIT_NO_REPLACE_OBJECTS": "1",
        "GIT_OPTIONAL_LOCKS": "0",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_SSH_COMMAND": _SSH,
    }


def _program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise InfrastructureError("TOOL_MISSING", f"{name} is not on PATH", f"install {name}")
    return found

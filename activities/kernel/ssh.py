"""SSH keys and signatures by ``ssh-keygen``: made, checked, never printed. Nothing is read but what is named here."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from schemas.error import InfrastructureError, InputError

TIMEOUT_S = 30.0
SIGNATURE_LIMIT = 16_384
_PASSED = ("PATH", "HOME", "SSH_AUTH_SOCK", "SSH_ASKPASS", "DISPLAY", "TERM")


def new_key(path: Path, comment: str) -> Path:
    """Make an Ed25519 key pair at ``path`` and ``path``.pub, mode 0600; one that is there already stays.

    Raises:
        InfrastructureError: KEY_NOT_MADE, TOOL_MISSING.
    """
    if path.exists():
        return path
    with tempfile.TemporaryDirectory(prefix=".key-", dir=path.parent) as folder:
        fresh = Path(folder) / "key"
        made = _run("-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", str(fresh))
        if made.returncode:
            remedy = "check the disk, and that this user has an account: ssh-keygen works for no other"
            raise InfrastructureError("KEY_NOT_MADE", _text(made.stderr), remedy)
        try:
            os.link(fresh, path)  # fails where another process was first, whose pair then counts
        except FileExistsError:
            return path
        os.replace(f"{fresh}.pub", f"{path}.pub")
    return path


def public_key(path: Path) -> str:
    """``type base64`` of a private key file, without its comment, derived from the key itself.

    Raises:
        InputError: KEY_UNUSABLE.
    """
    done = _run("-y", "-P", "", "-f", str(path))
    if done.returncode:
        raise InputError("KEY_UNUSABLE", f"{path}: {_text(done.stderr)}", "name a private SSH key that you may read")
    return " ".join(done.stdout.decode("ascii", "replace").split()[:2])


def sign(data: bytes, key: Path, namespace: str) -> str:
    """An armoured SSH signature.

    Args:
        key: private key, or public key whose private half an agent holds.

    Raises:
        InputError: KEY_UNUSABLE.
    """
    done = _run("-Y", "sign", "-q", "-f", str(key), "-n", namespace, stdin=data)
    if done.returncode:
        raise InputError("KEY_UNUSABLE", f"{key}: {_text(done.stderr)}", "name a private SSH key that you may read")
    return done.stdout.decode("ascii", "replace")


def verifies(data: bytes, signature: str, principal: str, allowed_signers: str, namespace: str) -> bool:
    """Whether ``signature`` over ``data`` is by a key that ``allowed_signers`` gives to ``principal`` for the namespace."""
    with tempfile.TemporaryDirectory(prefix="gen4-verify-") as folder:
        allowed, armoured = Path(folder) / "allowed_signers", Path(folder) / "signature"
        allowed.write_text(allowed_signers, "utf-8")
        armoured.write_bytes(signature.encode("utf-8", "replace")[: SIGNATURE_LIMIT + 1])
        done = _run("-Y", "verify", "-f", str(allowed), "-I", principal, "-n", namespace, "-s", str(armoured), stdin=data)
    return done.returncode == 0


def is_intact(data: bytes, signature: str, namespace: str) -> bool:
    """Whether ``signature`` is over ``data`` in the namespace, by whatever key: says nothing about who."""
    with tempfile.TemporaryDirectory(prefix="gen4-verify-") as folder:
        armoured = Path(folder) / "signature"
        armoured.write_bytes(signature.encode("utf-8", "replace")[: SIGNATURE_LIMIT + 1])
        done = _run("-Y", "check-novalidate", "-n", namespace, "-s", str(armoured), stdin=data)
    return done.returncode == 0


def _run(*arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    program = shutil.which("ssh-keygen")
    if program is None:
        raise InfrastructureError("TOOL_MISSING", "ssh-keygen is not on PATH", "install openssh-client")
    environment = {name: os.environ[name] for name in _PASSED if name in os.environ} | {"LC_ALL": "C"}
    try:
        return subprocess.run(
            [program, *arguments], input=stdin, capture_output=True, env=environment, timeout=TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise InfrastructureError("SSH_KEYGEN_TIMEOUT", "ssh-keygen did not answer", "use a key that asks for nothing") from error


def _text(output: bytes) -> str:
    return " / ".join(output.decode("utf-8", "replace").split("\n"))[:300].strip(" /")

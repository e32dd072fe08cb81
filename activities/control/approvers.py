"""Who may approve: a list of principals and their public SSH keys in the home's keys folder. Also the signing side."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

from pydantic import Field, TypeAdapter, ValidationError

from activities.kernel import ssh
from activities.kernel.ssh import new_key
from activities.record.home import Home
from schemas.approval import SIGNATURE_NAMESPACE, ApprovalRequest, DecisionKind, signed_bytes
from schemas.canonical import StrictJsonError, jcs_sha256, strict_json
from schemas.error import InputError
from schemas.model import Door

OPERATOR = "operator"
"""Name of the local operator: his principal and his key file."""
FILE_NAME = "approvers.json"

_PRINCIPAL = r"^[A-Za-z0-9_][A-Za-z0-9._@+-]{0,127}$"
_KEY_TYPES = r"ssh-ed25519|ssh-rsa|ecdsa-sha2-nistp(256|384|521)|sk-(ssh-ed25519|ecdsa-sha2-nistp256)@openssh\.com"
_PUBLIC_KEY = rf"^({_KEY_TYPES}) [A-Za-z0-9+/]+={{0,2}}$"


class Approver(Door):
    """``principal`` holds none of the characters that OpenSSH reads as a pattern."""

    principal: Annotated[str, Field(pattern=_PRINCIPAL)]
    public_key: Annotated[str, Field(pattern=_PUBLIC_KEY, max_length=8_192)]
    """``type base64``, without comment."""


_LIST: TypeAdapter[tuple[Approver, ...]] = TypeAdapter(tuple[Approver, ...])


class Approvers:
    """The list as it was when it was read."""

    def __init__(self, approvers: tuple[Approver, ...]) -> None:
        self._approvers = approvers

    @classmethod
    def load(cls, keys: Path) -> Approvers:
        """An absent file is an empty list.

        Raises:
            InputError: APPROVERS_INVALID.
        """
        path = keys / FILE_NAME
        try:
            return cls(_LIST.validate_python(strict_json(path.read_bytes())))
        except FileNotFoundError:
            return cls(())
        except (OSError, StrictJsonError, ValidationError) as error:
            reason = str(error).splitlines()[0]
            raise InputError(
                "APPROVERS_INVALID", f"{path}: {reason}", 'write [{"principal": "…", "public_key": "ssh-ed25519 …"}]'
            ) from error

    @property
    def principals(self) -> tuple[str, ...]:
        return tuple(sorted({approver.principal for approver in self._approvers}))

    @property
    def digest(self) -> str:
        """Of the list as a set: its order does not matter."""
        rows = sorted({(approver.principal, approver.public_key) for approver in self._approvers})
        return "sha256:" + jcs_sha256([{"principal": principal, "public_key": key} for principal, key in rows])

    def signer_of(self, data: bytes, signature: str) -> str | None:
        """The approver whose key made ``signature`` over ``data`` for approvals, or None."""
        for approver in self._approvers:
            allowed = f'{approver.principal} namespaces="{SIGNATURE_NAMESPACE}" {approver.public_key}\n'
            if ssh.verifies(data, signature, approver.principal, allowed, SIGNATURE_NAMESPACE):
                return approver.principal
        return None

    def with_approver(self, approver: Approver) -> Approvers:
        return self if approver in self._approvers else Approvers((*self._approvers, approver))

    def save(self, keys: Path) -> None:
        """Atomically, mode 0600."""
        path = keys / FILE_NAME
        temporary = path.with_name(f".{FILE_NAME}.{os.getpid()}")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            json.dump([approver.model_dump() for approver in self._approvers], file, indent=2)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)


def add_approver(home: Home, principal: str, key: Path) -> Approver:
    """Name the holder of ``key`` (private or public file) as an approver.

    Raises:
        InputError: APPROVER_INVALID, KEY_UNUSABLE, APPROVERS_INVALID.
    """
    text = key.read_text("ascii", "replace") if key.suffix == ".pub" else ssh.public_key(key)
    try:
        approver = Approver(principal=principal, public_key=" ".join(text.split()[:2]))
    except ValidationError as error:
        fields = ", ".join(str(item["loc"][0]) for item in error.errors())
        raise InputError(
            "APPROVER_INVALID", f"not usable: {fields}", f"a principal matches {_PRINCIPAL}; use an SSH key"
        ) from error
    with _locked(home.keys):
        Approvers.load(home.keys).with_approver(approver).save(home.keys)
    return approver


def ensure_operator(home: Home) -> Path:
    """The local operator's key, made on the first start. He becomes an approver where nobody was named yet."""
    key = new_key(home.keys / OPERATOR, comment="gen4-operator")
    if not (home.keys / FILE_NAME).exists():
        add_approver(home, OPERATOR, key)
    return key


def sign_decision(request: ApprovalRequest, kind: DecisionKind, reason: str, argument_pins: dict[str, str], key: Path) -> str:
    """What an approver does: sign the whole decision object. Returns the armoured signature.

    Raises:
        InputError: KEY_UNUSABLE.
    """
    return ssh.sign(signed_bytes(request, kind, reason, argument_pins), key, SIGNATURE_NAMESPACE)


@contextmanager
def _locked(keys: Path) -> Iterator[None]:
    with (keys / f".{FILE_NAME}.lock").open("a") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


__all__ = ["OPERATOR", "Approver", "Approvers", "add_approver", "ensure_operator", "new_key", "sign_decision"]

"""How an attempt ended. What could not be observed is ``unknown``, never guessed (contracts §2, RunReceipt)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel

from schemas.canonical import sha256_hex
from schemas.capability import Capability
from schemas.error import Gen4Error, InfrastructureError, InputError, Refused

Name = Literal["succeeded", "failed", "unknown"]
ErrorClass = Literal["infra", "task", "policy", "timeout"]

MESSAGE_CHARS = 1_000
"""Longest text of a failure that goes into events and history (the server allows 4 KiB a failure)."""


@dataclass(frozen=True)
class Outcome:
    """``error`` is what was raised, kept so that the caller can raise it again; ``cancelled``: somebody asked it to stop."""

    name: Name
    result: BaseModel | None = None
    error: BaseException | None = None
    code: str = ""
    error_class: ErrorClass = "infra"
    message: str = ""
    cancelled: bool = False

    @property
    def result_json(self) -> str | None:
        return None if self.result is None else self.result.model_dump_json()

    @property
    def receipt(self) -> dict[str, Any]:
        """For the receipt event: no output itself, only its digest."""
        if self.result is not None:
            return {"outcome": self.name, "output_sha256": sha256_hex(self.result.model_dump_json().encode())}
        error = {"code": self.code, "class": self.error_class, "message": self.message[:MESSAGE_CHARS]}
        return {"outcome": self.name, "error": error}


def is_effect(capability: Capability[Any, Any]) -> bool:
    """Whether the capability changes something outside its own return value, so that it must happen once."""
    return capability.side_effect in ("write", "irreversible")


def of_result(capability: Capability[Any, Any], result: object) -> Outcome:
    if isinstance(result, capability.output):
        return Outcome("succeeded", result=result)
    message = f"{capability.id} returned {type(result).__name__}, declared is {capability.output.__name__}"
    error = Refused("OUTPUT_INVALID", message)
    return Outcome(_unseen(capability), error=error, code=error.code, error_class="task", message=message)


def of_error(capability: Capability[Any, Any], error: BaseException, *, cancelled: bool) -> Outcome:
    """A typed refusal means that nothing happened; after anything else an effect may or may not have."""
    unseen = _unseen(capability)
    if cancelled:
        return Outcome(unseen, error=error, code="CANCELLED", error_class="timeout", message="cancelled", cancelled=True)
    match error:
        case InfrastructureError():
            return Outcome(unseen, error=error, code=error.code, message=error.message)
        case InputError():
            return Outcome("failed", error=error, code=error.code, error_class="task", message=error.message)
        case Gen4Error():
            return Outcome("failed", error=error, code=error.code, error_class="policy", message=error.message)
        case _:
            text = f"{type(error).__name__}: {error}"
            return Outcome(unseen, error=error, code="UNEXPECTED", error_class="task", message=text)


def _unseen(capability: Capability[Any, Any]) -> Name:
    return "unknown" if is_effect(capability) else "failed"

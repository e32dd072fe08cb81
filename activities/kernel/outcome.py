"""How an attempt ended. What could not be observed is ``unknown``, never guessed (contracts §2, RunReceipt)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel

from schemas.canonical import sha256_hex
from schemas.capability import Capability
from schemas.error import Gen4Error, InfrastructureError, InputError, Refused, Stopped

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
    def own_fault(self) -> bool:
        """The work failed by itself: neither an outage nor somebody who stopped it."""
        return self.error is not None and not self.cancelled and self.error_class in ("task", "policy")

    @property
    def result_json(self) -> str | None:
        return None if self.result is None else self.result.model_dump_json()

    @property
    def receipt(self) -> dict[str, Any]:
        """For the receipt event: no output itself, only its digest."""
        if self.result is not None:
            return {"outcome": self.name, "output_sha256": sha256_hex(self.result.model_dump_json().encode())}
        error = {"code": self.code, "class": self.error_class, "message": told(self.message)}
        return {"outcome": self.name, "error": error}


def told(text: str) -> str:
    """Text of a failure as events and history take it: names of files that are no UTF-8 come with lone surrogates."""
    return text[:MESSAGE_CHARS].encode("utf-8", "backslashreplace").decode()[:MESSAGE_CHARS]


def is_effect(capability: Capability[Any, Any]) -> bool:
    """Whether the capability changes something outside its own return value, so that it must happen once."""
    return capability.side_effect in ("write", "irreversible")


def leaves_receipt(capability: Capability[Any, Any]) -> bool:
    """Whether its result is kept, so that a later attempt returns it instead of doing, or paying for, the work again."""
    return is_effect(capability) or capability.metered


def blames(number: int, outcome: Outcome) -> bool | None:
    """What an outcome says to breaker 7 (the capability) or 8 (the server it depends on): False is a failure, None is nothing.

    A defect counts against the capability, an outage against the server; that store or policy engine are down, against neither.
    """
    if outcome.error is None:
        return True
    if outcome.cancelled or isinstance(outcome.error, Stopped) or outcome.code.startswith(("STORE_", "POLICY_", "TEMPORAL_")):
        return None
    if outcome.code == "UNEXPECTED":
        return False if number == 7 else None
    if outcome.error_class == "infra":
        return None if number == 7 else False
    return True


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

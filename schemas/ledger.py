"""The budget ledger: double entry in integers, reserve then settle (contracts §4). Pure; the store keeps what these return."""

from __future__ import annotations

from typing import Literal

from schemas.model import Payload

Unit = Literal["micros", "tokens", "cpu_ms", "wall_ms", "egress_bytes"]
UNITS: tuple[Unit, ...] = ("micros", "tokens", "cpu_ms", "wall_ms", "egress_bytes")
EntryKind = Literal["grant", "reserve", "settle", "void", "expire", "overrun", "blocked"]
ReservationStatus = Literal["open", "settled", "voided", "expired"]


class Account(Payload):
    """Balances only grow; what is available is ``credits_posted - debits_posted - debits_pending``."""

    account_id: str
    tenant_id: str
    parent_account_id: str | None = None
    unit: Unit
    debits_pending: int = 0
    debits_posted: int = 0
    credits_posted: int = 0
    debits_must_not_exceed_credits: bool = True
    frozen: bool = False

    @property
    def available(self) -> int:
        return self.credits_posted - self.debits_posted - self.debits_pending


class Usage(Payload):
    """What an attempt used. ``model`` names whose tokens they are."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    tool_calls: int = 0
    cpu_ms: int = 0
    wall_ms: int = 0
    egress_bytes: int = 0
    model: str | None = None

"""What comparing the ledger with itself found (contracts §4): per unit the sums, and each difference by its exact place."""

from __future__ import annotations

from typing import Literal

from schemas.ledger import Unit
from schemas.model import Payload

DifferenceCode = Literal[
    "BALANCE_DIFFERS", "ACCOUNT_ALTERED", "ENTRY_ALTERED", "ENTRY_MISSING", "ENTRY_UNTOLD", "RESERVATION_ALTERED",
    "RESERVATION_MISSING", "NOT_ENDED_ONCE", "COST_DIFFERS", "DEBITS_NOT_CREDITS", "EVENT_UNREADABLE",
]  # fmt: skip


class Difference(Payload):
    """``expected`` follows from the other records, ``found`` is what stands there."""

    code: DifferenceCode
    what: str
    """The column, or the sum, that differs."""
    account_id: str | None = None
    unit: str | None = None
    ledger_id: str | None = None
    """The entry, or the ``pending_id`` of the reservation."""
    session_id: str | None = None
    expected: int | str | None = None
    found: int | str | None = None

    def __str__(self) -> str:
        place = ", ".join(word for word in (self.account_id, self.ledger_id, self.session_id) if word)
        return f"{self.code} {place}: {self.what} is {self.found}, should be {self.expected}"


class UnitSum(Payload):
    """``ledger_*`` from the entries, ``account_*`` from the accounts' own balances."""

    unit: Unit
    ledger_posted: int = 0
    ledger_open: int = 0
    account_posted: int = 0
    account_pending: int = 0

    @property
    def difference(self) -> int:
        return abs(self.ledger_posted - self.account_posted) + abs(self.ledger_open - self.account_pending)


class Reconciliation(Payload):
    tenant_id: str
    day: str
    """UTC date of the comparison."""
    accounts: int = 0
    entries: int = 0
    reservations: int = 0
    events: int = 0
    events_unread: int = 0
    """Events whose payload was erased or cannot be decrypted: their entries are compared with everything else."""
    units: tuple[UnitSum, ...] = ()
    differences: tuple[Difference, ...] = ()
    more: bool = False
    """There are more differences than are listed."""

    @property
    def consistent(self) -> bool:
        return not self.differences

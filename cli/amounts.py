"""Amounts of budgets as they are typed. Apart from the ledger, whose store who starts a session does not need."""

from __future__ import annotations

from schemas.error import InputError
from schemas.ledger import UNITS, Unit


def parse_amounts(text: str, *, most: int = len(UNITS)) -> dict[Unit, int]:
    """``micros=5,tokens=7`` as amounts by unit.

    Raises:
        InputError: BUDGET_SYNTAX.
    """
    found: dict[Unit, int] = {}
    for part in text.split(","):
        unit, _, amount = part.strip().partition("=")
        if unit not in UNITS or not amount.isascii() or not amount.isdecimal() or unit in found:
            example = ",".join(f"{name}=N" for name in UNITS[:most])
            raise InputError("BUDGET_SYNTAX", f"{part.strip()!r} is no amount", f"write {example}; units: {', '.join(UNITS)}")
        found[unit] = int(amount)
    if len(found) > most:
        raise InputError("BUDGET_SYNTAX", f"{len(found)} amounts, {most} expected", "give one UNIT=AMOUNT")
    return found

"""How many bytes the tree ships: everything but its tests."""

from __future__ import annotations

from activities.verify.measuring import WHOLE, Measured, Regression, SizeRules
from schemas.regression import ScannedTree


def compare_sizes(base: ScannedTree | None, patched: ScannedTree | None, rules: SizeRules) -> Measured | None:
    if base is None or patched is None:
        return None
    growth = patched.size_bytes - base.size_bytes
    text = f"{base.size_bytes} bytes, then {patched.size_bytes}"
    too_large = growth > rules.growth_bytes and growth * 10_000 > base.size_bytes * rules.growth_bp
    return Measured("size", text, (Regression("REG_SIZE", WHOLE, text),) if too_large else ())

"""The pure functions of the product that are simulated. A mutant replaces one of them; nothing else of the product is copied."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from activities.forge.delivering import refuse_late, refuse_unapproved
from activities.kernel.admission import CHECKS, RECHECKED, Check
from activities.kernel.identity import heir_row, root_row
from activities.kernel.outcome import blames
from schemas import breaker, identity, ledger
from schemas.approval import precheck
from schemas.kill_switch import KillSwitch

Function = Callable[..., Any]


@dataclass(frozen=True)
class Cores:
    checks: tuple[Check, ...] = CHECKS
    rechecked: tuple[Check, ...] = RECHECKED
    admit: Function = breaker.admit
    succeeded: Function = breaker.succeeded
    failed: Function = breaker.failed
    abandoned: Function = breaker.abandoned
    blames: Function = blames
    transfer: Function = ledger.transfer
    draw: Function = ledger.draw
    reserve: Function = ledger.reserve
    settle: Function = ledger.settle
    release: Function = ledger.release
    may_expire: Function = ledger.may_expire
    issue_lease: Function = identity.issue_lease
    needs_reissue: Function = identity.needs_reissue
    reissue_lease: Function = identity.reissue_lease
    covers: Function = KillSwitch.covers
    precheck: Function = precheck
    refuse_unapproved: Function = refuse_unapproved
    refuse_late: Function = refuse_late
    root_row: Function = root_row
    heir_row: Function = heir_row

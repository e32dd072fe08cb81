"""When it is done: one session from request to released fix. Deterministic; knows only ``schemas`` and Temporal."""

from __future__ import annotations

from workflows.checkpointing import Checkpoint
from workflows.compile import Compile
from workflows.explore import Explore
from workflows.ga_diff import GaDiff
from workflows.reaper import Reaper
from workflows.reconciliation import Reconciliation
from workflows.release import Release
from workflows.remediation import Remediation

WORKFLOWS: list[type] = [Remediation, Explore, Compile, GaDiff, Release, Reaper, Reconciliation, Checkpoint]

PASSTHROUGH: tuple[str, ...] = ("schemas", "rfc8785")
"""Modules that Temporal's sandbox need not load anew for every workflow: pure, and never changed while a worker runs."""

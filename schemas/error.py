"""Errors that explain themselves: a stable code, what was wanted, what was found, the next move.

    Gen4Error
    ├── InputError           the request is wrong; nothing was changed (exit code 2)
    ├── Refused              policy, gate or verification said no (exit code 1)
    ├── Stopped              a person or a limit ended what was running (exit code 1)
    └── InfrastructureError  the machine failed, not the work; never a test result (exit code 3)
"""

from __future__ import annotations


class Gen4Error(Exception):
    """``code`` is stable and branched on; ``message`` and ``remedy`` are for people."""

    exit_code = 3
    retryable = False

    def __init__(self, code: str, message: str, remedy: str = "") -> None:
        super().__init__(f"{code}: {message}" + (f" — {remedy}" if remedy else ""))
        self.code = code
        self.message = message
        self.remedy = remedy


class InputError(Gen4Error):
    exit_code = 2


class Refused(Gen4Error):
    exit_code = 1


class Stopped(Gen4Error):
    """Not a :class:`Refused`: whoever goes another way after a refusal must not go on after this."""

    exit_code = 1


class InfrastructureError(Gen4Error):
    exit_code = 3
    retryable = True

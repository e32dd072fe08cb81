"""Tests that must fail, planted among those of the tree: a run in which one does not fail was tampered with (threats 4.1).

The supervisor draws names, forms and places; :mod:`planting` puts them into pytest. This makes tampering evident, it does not
make it impossible: the code under test runs in the process that plants them.
"""

from __future__ import annotations

import random
from typing import Any

FORMS = ("assert", "contains", "raise", "fail", "unittest", "text")
_FIRST = ("parse", "read", "load", "merge", "keep", "split", "render", "round", "match", "store", "count", "find", "sort", "join")
_SECOND = ("empty", "nested", "unicode", "defaults", "limits", "twice", "reversed", "missing", "large", "ordered", "negative")
_ERRORS = ("ValueError", "KeyError", "RuntimeError", "AssertionError", "TypeError", "OSError")


class Sentinels:
    """Those of one run. A child that ends early leaves some over, for the next one to plant again at other places."""

    def __init__(self) -> None:
        self._chance = random.SystemRandom()
        self._names = [self._name() for _ in range(2 + self._chance.randrange(3))]
        self._planted: dict[str, str] = {}
        self._outcomes: dict[str, str] = {}

    def order(self) -> list[dict[str, Any]]:
        """What the next child is to plant."""
        self._planted = {}
        return [self._draw(name) for name in self.outstanding]

    @property
    def outstanding(self) -> list[str]:
        """Those without an outcome yet."""
        return [name for name in self._names if name not in self._outcomes]

    @property
    def caught(self) -> int:
        return sum(outcome == "failed" for outcome in self._outcomes.values())

    @property
    def wrong(self) -> str:
        """How those that did not fail ended, for people; empty when all that ran failed."""
        return ", ".join(sorted(outcome for outcome in self._outcomes.values() if outcome != "failed"))

    def plant(self, ids: list[str]) -> bool:
        """Under which ids the child has planted them; False when these cannot be right."""
        names = self.outstanding
        self._planted = dict(zip(ids, names, strict=False))
        return len(ids) == len(names) == len(self._planted)

    def settle(self, nodeid: str, outcome: str) -> None:
        self._outcomes[self._planted[nodeid]] = outcome

    def __contains__(self, nodeid: str) -> bool:
        return nodeid in self._planted

    def _name(self) -> str:
        return f"test_{self._chance.choice(_FIRST)}_{self._chance.choice(_SECOND)}_{self._chance.randrange(2, 100)}"

    def _draw(self, name: str) -> dict[str, Any]:
        left = self._chance.randrange(1, 10_000)
        return {
            "name": name,
            "form": self._chance.choice(FORMS),
            "at": self._chance.random(),
            "left": left,
            "right": left + self._chance.randrange(1, 100),
            "error": self._chance.choice(_ERRORS),
        }

"""Marks the method that implements a capability; ``workers/registration.py`` reads the mark.

The mark is also a guard: called where the gate did not admit this very capability, the method refuses before its first line.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, overload

from activities.kernel.acting import acting
from schemas.capability import Capability, In, Out
from schemas.error import Refused

S = TypeVar("S")


@dataclass(frozen=True)
class implements(Generic[In, Out]):
    capability: Capability[In, Out]

    @overload
    def __call__(self, method: Callable[[S, In], Awaitable[Out]]) -> Callable[[S, In], Awaitable[Out]]: ...
    @overload
    def __call__(self, method: Callable[[S, In], Out]) -> Callable[[S, In], Out]: ...
    def __call__(self, method: Callable[[S, In], Any]) -> Callable[[S, In], Any]:
        @functools.wraps(method)
        def admitted_only(owner: S, request: In) -> Any:
            _require_admission(self.capability)
            return method(owner, request)

        # A coroutine stays visible as one: registration refuses it, and nothing else calls it.
        marked = method if inspect.iscoroutinefunction(method) else admitted_only
        setattr(marked, "__capability__", self.capability)  # noqa: B010  a typed attribute would need a Protocol
        return marked


def _require_admission(capability: Capability[Any, Any]) -> None:
    try:
        who = acting()
    except LookupError:
        raise Refused("UNGATED", f"{capability.id} was called outside the gate", "start a workflow that calls it") from None
    if who.capability_id not in ("", capability.id):
        raise Refused("UNGATED", f"{capability.id} was called under the admission of {who.capability_id}", "call it by itself")

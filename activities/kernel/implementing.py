"""Marks the method that implements a capability; ``workers/registration.py`` reads the mark."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, overload

from schemas.capability import Capability, In, Out

S = TypeVar("S")


@dataclass(frozen=True)
class implements(Generic[In, Out]):
    capability: Capability[In, Out]

    @overload
    def __call__(self, method: Callable[[S, In], Awaitable[Out]]) -> Callable[[S, In], Awaitable[Out]]: ...
    @overload
    def __call__(self, method: Callable[[S, In], Out]) -> Callable[[S, In], Out]: ...
    def __call__(self, method: Callable[[S, In], Any]) -> Callable[[S, In], Any]:
        setattr(method, "__capability__", self.capability)  # noqa: B010  a typed attribute would need a Protocol
        return method

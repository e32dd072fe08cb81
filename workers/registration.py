"""From implementations to activities: every capability of a pool exactly once, with the declared types, or no start.

A worker registers one dynamic activity, which takes every name and undecoded arguments. A name that nobody implements, too
many arguments and bytes that do not decode all reach the gate that way, instead of failing (and being retried) in the SDK.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, get_type_hints

from temporalio import activity
from temporalio.common import RawValue

from schemas.capabilities import CAPABILITIES
from schemas.capability import Capability, Pool
from schemas.error import InfrastructureError

Method = Callable[[Any], Any]


class RegistrationError(InfrastructureError):
    """The worker would serve something else than what is declared; it must not start."""

    retryable = False


def activities_of(implementers: Iterable[object], pool: Pool) -> list[Callable[..., Any]]:
    """The activities of a worker of ``pool``; it must run behind the gate, which admits and decodes.

    Raises:
        RegistrationError: a capability of the pool is implemented twice, not at all, or with other types.
    """
    methods = check_registration(implementers, pool)

    @activity.defn(dynamic=True)
    def dispatch(request: Sequence[RawValue]) -> Any:
        # The declared type is what the SDK asks of a dynamic activity; by now the gate has put the decoded request here.
        return methods[activity.info().activity_type](request)

    return [dispatch]


def served_by(pool: Pool) -> frozenset[str]:
    """Ids of the capabilities that a worker of ``pool`` serves."""
    return frozenset(capability.id for capability in CAPABILITIES.values() if capability.pool == pool)


def check_registration(
    implementers: Iterable[object], pool: Pool, catalogue: Mapping[str, str] | None = None
) -> dict[str, Method]:
    """The implementing method of every capability of ``pool``, by id; implementations for other pools are left out.

    Args:
        catalogue: descriptors of what the policy names for some phase; given, every served capability must be among them.
    """
    found: dict[str, Method] = {}
    for implementer in implementers:
        for capability, method in _implementations(implementer):
            if CAPABILITIES.get(capability.id) is not capability:
                raise RegistrationError("CAP_UNDECLARED", f"{_name(method)} implements {capability.id!r}, which is not declared")
            _check_types(capability, method)
            if capability.pool != pool:
                continue
            if capability.id in found:
                raise RegistrationError(
                    "CAP_DUPLICATE", f"{capability.id} is implemented by {_name(found[capability.id])} and {_name(method)}"
                )
            found[capability.id] = method
    missing = sorted(served_by(pool) - found.keys())
    if missing:
        raise RegistrationError("CAP_UNIMPLEMENTED", f"pool {pool}: nothing implements {', '.join(missing)}")
    for id in sorted(found) if catalogue is not None else ():
        _check_catalogued(CAPABILITIES[id], (catalogue or {}).get(id))
    return found


def _check_catalogued(capability: Capability[Any, Any], listed: str | None) -> None:
    if listed is None:
        message = f"no phase may use {capability.id}"
        raise RegistrationError("CAP_NOT_IN_POLICY", message, "name it in policies/data.json and run `make catalogue`")
    if listed != capability.descriptor_sha256:
        message = f"{capability.id} is not what the policy's catalogue lists"
        raise RegistrationError("CAP_DIGEST_CHANGED", message, "review the change, then run `make catalogue`")


def _implementations(implementer: object) -> Iterable[tuple[Capability[Any, Any], Method]]:
    for name, member in inspect.getmembers(type(implementer), callable):
        capability = getattr(member, "__capability__", None)
        if isinstance(capability, Capability):
            yield capability, getattr(implementer, name)


def _check_types(capability: Capability[Any, Any], method: Method) -> None:
    hints = get_type_hints(method)
    result = hints.pop("return", None)
    if inspect.iscoroutinefunction(method):
        raise RegistrationError("CAP_ASYNC", f"{_name(method)} must be a plain method: it runs in a thread of the pool")
    if list(hints.values()) != [capability.input] or result is not capability.output:
        raise RegistrationError(
            "CAP_TYPES", f"{_name(method)} must take {capability.input.__name__} and return {capability.output.__name__}"
        )


def _name(method: Method) -> str:
    return str(getattr(method, "__qualname__", method))

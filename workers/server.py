"""What an external Temporal server must have: our namespace, and the search attributes that sessions carry."""

from __future__ import annotations

import asyncio
import time

from temporalio.api.enums.v1 import IndexedValueType
from temporalio.api.operatorservice.v1 import AddSearchAttributesRequest, ListSearchAttributesRequest
from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from schemas.error import Gen4Error, InfrastructureError, Refused
from workers.fabric import SEARCH_ATTRIBUTES

KEYWORD = IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD
VISIBLE_TIMEOUT_S = 60.0
"""A server refuses attributes that its caches do not know yet."""


async def prepare_server(client: Client) -> None:
    """Check the namespace and add the search attributes that it lacks.

    Raises:
        Refused: NAMESPACE_MISSING, TEMPORAL_DENIED, SEARCH_ATTRIBUTE_TYPE.
        InfrastructureError: TEMPORAL_UNAVAILABLE.
    """
    namespace = client.namespace
    try:
        await client.workflow_service.describe_namespace(DescribeNamespaceRequest(namespace=namespace))
    except RPCError as error:
        if error.status == RPCStatusCode.NOT_FOUND:
            remedy = f"create it: temporal operator namespace create -n {namespace}"
            raise Refused("NAMESPACE_MISSING", f"the server has no namespace {namespace!r}", remedy) from error
        raise _failed(error, "describe the namespace") from error
    try:
        missing = await _missing(client)
        if missing:
            wanted = dict.fromkeys(missing, KEYWORD)
            await client.operator_service.add_search_attributes(
                AddSearchAttributesRequest(namespace=namespace, search_attributes=wanted)
            )
        deadline = time.monotonic() + VISIBLE_TIMEOUT_S
        while missing and await _missing(client):
            if time.monotonic() > deadline:
                raise InfrastructureError("TEMPORAL_UNAVAILABLE", f"{', '.join(missing)}: added, and not there yet", "try again")
            await asyncio.sleep(0.2)
    except RPCError as error:
        raise _failed(error, f"add the search attributes {', '.join(SEARCH_ATTRIBUTES)} (keywords)") from error


async def _missing(client: Client) -> list[str]:
    known = await client.operator_service.list_search_attributes(ListSearchAttributesRequest(namespace=client.namespace))
    types = {**known.system_attributes, **known.custom_attributes}
    if wrong := [name for name in SEARCH_ATTRIBUTES if types.get(name, KEYWORD) != KEYWORD]:
        message = f"{', '.join(wrong)}: there, but no keyword"
        raise Refused("SEARCH_ATTRIBUTE_TYPE", message, "use a namespace of its own, where they are free")
    return [name for name in SEARCH_ATTRIBUTES if name not in types]


def _failed(error: RPCError, what: str) -> Gen4Error:
    if error.status in (RPCStatusCode.PERMISSION_DENIED, RPCStatusCode.UNAUTHENTICATED):
        return Refused("TEMPORAL_DENIED", f"the server does not let us {what}", "have an administrator do it, or widen the key")
    return InfrastructureError("TEMPORAL_UNAVAILABLE", f"could not {what}: {error.status.name}", "try again")

"""The Temporal client of CLI and workers: one data converter, one namespace, connection errors that say what to do."""

from __future__ import annotations

from temporalio.client import Client
from temporalio.service import RPCError

from schemas.error import InfrastructureError
from workers.converter import data_converter


async def connect(address: str, namespace: str) -> Client:
    """Raises InfrastructureError(TEMPORAL_UNREACHABLE)."""
    try:
        return await Client.connect(address, namespace=namespace, data_converter=data_converter)
    except (RPCError, RuntimeError, OSError) as error:
        raise InfrastructureError(
            "TEMPORAL_UNREACHABLE", f"no Temporal server answers at {address}", "run `gen4 up`, then `gen4 status`"
        ) from error

"""The Temporal client of CLI and workers: one data converter, one namespace, connection errors that say what to do."""

from __future__ import annotations

from temporalio.client import Client
from temporalio.envconfig import ClientConfigProfile
from temporalio.runtime import Runtime
from temporalio.service import RPCError

from schemas.error import InfrastructureError
from workers.converter import data_converter


async def connect(address: str, namespace: str, *, external: bool = False, runtime: Runtime | None = None) -> Client:
    """A client of the fabric's own server, which asks for no credentials, or of an external one.

    Args:
        runtime: whose metrics count what the client does; default: the process's, which counts nothing.
        external: TLS and API key come from the environment (``TEMPORAL_API_KEY``, ``TEMPORAL_TLS_*``); no file is read.

    Raises:
        InfrastructureError: TEMPORAL_UNREACHABLE.
    """
    options = ClientConfigProfile.load(disable_file=True).to_client_connect_config() if external else {}
    remedy = "run `gen4 up`, then `gen4 status`"
    if external:
        remedy = "check GEN4_TEMPORAL_ADDRESS, TEMPORAL_API_KEY and TEMPORAL_TLS_*"
    try:
        ours = {"target_host": address, "namespace": namespace, "data_converter": data_converter, "runtime": runtime}
        return await Client.connect(**{**options, **ours})  # type: ignore[arg-type]
    except (RPCError, RuntimeError, OSError) as error:
        raise InfrastructureError("TEMPORAL_UNREACHABLE", f"no Temporal server answers at {address}", remedy) from error

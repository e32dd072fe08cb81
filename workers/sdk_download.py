"""``python -m workers.sdk_download FOLDER``: the Temporal CLI, downloaded by the SDK's own mechanism into FOLDER.

The SDK offers the download only together with a start, so the server runs for a moment on a free port.
"""

from __future__ import annotations

import asyncio
import os
import sys

from temporalio.testing import WorkflowEnvironment


async def download(folder: str) -> None:
    environment = await WorkflowEnvironment.start_local(download_dest_dir=folder, dev_server_log_level="error")
    await environment.shutdown()


if __name__ == "__main__":
    try:
        asyncio.run(download(sys.argv[1]))
        status = 0
    except RuntimeError as error:
        print(str(error), file=sys.stderr, flush=True)
        status = 1
    sys.stderr.flush()
    os._exit(status)  # short clients of the SDK can crash in its finalisers

"""Mode ``bytecode``: compiles the modules of an environment once, so that no run has to. None of them is run.

The same sources give the same bytes: one process, the same interpreter, the same order, a fixed hash seed.
"""

from __future__ import annotations

import base64
import importlib.util
import io
import marshal
import os
import warnings
import zipfile
from collections.abc import Iterator
from typing import Any

from .host import Host

_PIECE = 48 * 1024
_LEFT_OUT = frozenset({"bin", "test", "tests", "__pycache__"})
"""Folders of nothing that a run of another project's tests imports."""
_UNCHECKED_HASH = (1).to_bytes(4, "little")
"""Of PEP 552: never compared with its source, for both lie in a folder that nobody can write to."""
_MAX_SOURCE = 1 << 20
_MAX_ALL = 48 << 20


def run(job: dict[str, Any], host: Host) -> dict[str, Any]:
    """``job``: environment. Sends a zip archive in pieces: the bytecode of each source that compiles, under the source's name."""
    product = io.BytesIO()
    with zipfile.ZipFile(product, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name in _sources(job["environment"]):
            if (code := _compiled(job["environment"], name)) is not None:
                archive.writestr(zipfile.ZipInfo(name), code, zipfile.ZIP_DEFLATED)
    data = memoryview(product.getvalue())
    for start in range(0, len(data), _PIECE):
        host.send("data", base64=base64.b64encode(data[start : start + _PIECE]).decode())
    return {"tag": importlib.util.cache_from_source("a.py").split(".")[-2]}


def _sources(environment: str) -> Iterator[str]:
    """Names of sources in a fixed order; of an environment that is very large, only so many."""
    left = _MAX_ALL
    for folder, folders, files in os.walk(environment):
        folders[:] = sorted(name for name in folders if name not in _LEFT_OUT and name.isidentifier())
        for name in sorted(files):
            path = os.path.join(folder, name)
            size = os.lstat(path).st_size
            if name.endswith(".py") and size <= min(_MAX_SOURCE, left):
                left -= size
                yield os.path.relpath(path, environment)


def _compiled(environment: str, name: str) -> bytes | None:
    path = os.path.join(environment, name)
    with open(path, "rb") as file:
        source = file.read()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            code = compile(source, path, "exec", dont_inherit=True, optimize=0)
    except (SyntaxError, ValueError, RecursionError, MemoryError, OverflowError):
        return None  # a template, or for another Python: whoever imports it is told so
    return importlib.util.MAGIC_NUMBER + _UNCHECKED_HASH + importlib.util.source_hash(source) + marshal.dumps(code)

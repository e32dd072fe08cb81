"""RFC 3161 time stamps, made by OpenSSL."""

from __future__ import annotations

import subprocess
import threading

from schemas.error import InfrastructureError, InputError
from workers.authority.folder import AuthorityFolder

_CONFIGURATION = """\
[stamps]
default_policy = 1.3.6.1.4.1.57264.2
serial = serial
signer_digest = sha256
digests = sha256, sha384, sha512
accuracy = secs:1
ess_cert_id_alg = sha256
"""
_TIMEOUT_S = 10


class TimeStampAuthority:
    def __init__(self, folder: AuthorityFolder) -> None:
        self._folder = folder.path
        self._lock = threading.Lock()
        """OpenSSL counts in a file."""
        (self._folder / "stamps.cnf").write_text(_CONFIGURATION, encoding="ascii")
        if not (self._folder / "serial").exists():
            (self._folder / "serial").write_text("01\n", encoding="ascii")

    def stamp(self, query: bytes) -> bytes:
        """The response to a query. Raises InputError REQUEST_INVALID, InfrastructureError OPENSSL_FAILED."""
        argv = [
            "openssl", "ts", "-reply", "-config", "stamps.cnf", "-section", "stamps", "-queryfile", "query", "-signer", "tsa.pem",
            "-inkey", "tsa.key", "-out", "reply",
        ]  # fmt: skip
        with self._lock:
            (self._folder / "query").write_bytes(query)
            (self._folder / "reply").unlink(missing_ok=True)
            try:
                done = subprocess.run(
                    argv, cwd=self._folder, stdin=subprocess.DEVNULL, capture_output=True, timeout=_TIMEOUT_S, check=False
                )
            except (OSError, subprocess.TimeoutExpired) as error:
                raise InfrastructureError("OPENSSL_FAILED", str(error), "install openssl") from error
            if done.returncode != 0:
                raise InputError("REQUEST_INVALID", "not a time stamp query")
            return (self._folder / "reply").read_bytes()

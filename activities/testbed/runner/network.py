"""Notes which tests try to reach the network, of which the sandbox has none: it explains why such a test is unsteady."""

from __future__ import annotations

import ipaddress
import sys
from typing import Any

_EVENTS = frozenset({"socket.connect", "socket.sendto", "socket.sendmsg"})
_NAMES = frozenset({"socket.getaddrinfo", "socket.gethostbyname"})


class NetworkWatch:
    """``attempted`` becomes True; whoever asks sets it back."""

    def __init__(self) -> None:
        self.attempted = False

    def start(self) -> None:
        """Watch this process until it ends. Processes that tests start are not seen."""
        sys.addaudithook(self._audit)

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event in _EVENTS:
            address = arguments[-1]
            self.attempted |= isinstance(address, tuple) and bool(address) and not _is_local(address[0])
        elif event in _NAMES:
            self.attempted |= not _is_local(arguments[0])


def _is_local(host: Any) -> bool:
    if isinstance(host, bytes):
        host = host.decode("ascii", "replace")
    if not isinstance(host, str) or host in ("", "localhost", "gen4"):
        return True
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified

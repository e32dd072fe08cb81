"""Answers of signing services, bounded: the Sigstore client reads whatever comes, and a service may send without end."""

from __future__ import annotations

from typing import Any

import requests
from requests.adapters import HTTPAdapter

ANSWER_LIMIT = 4 * 1024 * 1024
"""Bytes, unpacked. A certificate chain, a log entry, a time stamp: each has a few kilobytes."""
_CHUNK = 65_536


class _Short(HTTPAdapter):
    def send(self, *arguments: Any, **options: Any) -> requests.Response:
        response = super().send(*arguments, **options)
        content = bytearray()
        for chunk in response.iter_content(_CHUNK):
            content += chunk
            if len(content) > ANSWER_LIMIT:
                response.close()
                raise requests.ConnectionError(f"the answer has more than {ANSWER_LIMIT} bytes")
        response._content = bytes(content)  # where ``content`` finds what was read
        return response


def shorten(*clients: Any) -> None:
    """What is answered to these clients of Sigstore, on this thread, is read whole or refused: each thread has sessions."""
    for client in clients:
        session: requests.Session = client.session if hasattr(client, "session") else client._session
        for scheme in ("http://", "https://"):
            session.mount(scheme, _Short())

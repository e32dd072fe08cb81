"""A package index on loopback, and distributions made of texts."""

from __future__ import annotations

import hashlib
import io
import tarfile
import threading
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def sdist(name: str, version: str, files: Mapping[str, str]) -> tuple[str, bytes]:
    """``<name>-<version>.tar.gz`` with the given files."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        for path, text in files.items():
            member = tarfile.TarInfo(f"{name}-{version}/{path}")
            member.size = len(text.encode())
            archive.addfile(member, io.BytesIO(text.encode()))
    return f"{name}-{version}.tar.gz", out.getvalue()


def wheel(name: str, version: str, files: Mapping[str, str], requires: tuple[str, ...] = ()) -> tuple[str, bytes]:
    """``<name>-<version>-py3-none-any.whl``."""
    info = f"{name}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n" + "".join(
        f"Requires-Dist: {line}\n" for line in requires
    )
    members = {
        **files,
        f"{info}/METADATA": metadata,
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for path, text in members.items():
            archive.writestr(zipfile.ZipInfo(path), text)
        archive.writestr(zipfile.ZipInfo(f"{info}/RECORD"), "".join(f"{path},,\n" for path in members))
    return f"{name}-{version}-py3-none-any.whl", out.getvalue()


@contextmanager
def serving(files: Mapping[str, bytes], digests: Mapping[str, str] | None = None) -> Iterator[tuple[str, list[str]]]:
    """The URL of a Simple API with these files, and the paths that were asked for; ``digests`` replaces true ones."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            parts = self.path.strip("/").split("/")
            if parts[0] == "files" and parts[-1] in files:
                self._answer("application/octet-stream", files[parts[-1]])
            elif parts[0] == "simple" and len(parts) == 2 and (page := self._page(parts[1])):
                self._answer("text/html", page.encode())
            else:
                self.send_error(404)

        def _page(self, project: str) -> str:
            links = ""
            for name, data in files.items():
                if name.split("-")[0].lower().replace("_", "-") == project:
                    digest = (digests or {}).get(name) or hashlib.sha256(data).hexdigest()
                    links += f'<a href="/files/{name}#sha256={digest}">{name}</a>\n'
            return f"<!DOCTYPE html><html><body>{links}</body></html>" if links else ""

        def _answer(self, kind: str, data: bytes) -> None:
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/simple/", asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()

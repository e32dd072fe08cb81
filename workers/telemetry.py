"""Where a worker's metrics can be scraped: two loopback ports, ours and that of Temporal's SDK.

Ours answers GET and HEAD of ``/metrics`` and nothing else. A client has :data:`REQUEST_S` for its whole request and as long
to take the answer, and :data:`MAX_CLIENTS` are served at a time, so that slow ones cost the worker a few threads for a few
seconds. Requests that name another host are refused: a web page that rebinds its name to loopback learns nothing.
"""

from __future__ import annotations

import io
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from socketserver import TCPServer, ThreadingMixIn
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from temporalio.runtime import PrometheusConfig, Runtime, TelemetryConfig

from activities.kernel.metrics import KernelMetrics
from schemas.error import InfrastructureError

HOST, PATH = "127.0.0.1", "/metrics"
REQUEST_S = 5.0
MAX_REQUEST = 8_192
MAX_CLIENTS = 8
SDK_TRIES = 5
"""The SDK cannot choose a port and tell us; the one that we choose for it may be taken in between."""


@dataclass(frozen=True)
class Telemetry:
    """``runtime`` is for the worker's client: the SDK counts into it."""

    metrics_url: str
    temporal_metrics_url: str
    runtime: Runtime


@contextmanager
def serving(metrics: KernelMetrics, port: int = 0) -> Iterator[Telemetry]:
    """Serve ``metrics`` and those of the SDK until the block ends; the SDK's end with the process.

    Args:
        port: of ours; 0 = any free one.

    Raises:
        InfrastructureError: METRICS_PORT.
    """
    runtime, sdk_port = _sdk_runtime()
    with _serving(metrics.registry, port) as bound:
        yield Telemetry(_url(bound), _url(sdk_port), runtime)


@contextmanager
def _serving(registry: CollectorRegistry, port: int) -> Iterator[int]:
    try:
        server = _Server((HOST, port), registry)
    except OSError as error:
        message = f"metrics cannot be served on {HOST}:{port}: {error.strerror}"
        raise InfrastructureError("METRICS_PORT", message, "set GEN4_METRICS_PORT to a free port, or to 0 for any") from error
    thread = threading.Thread(target=server.serve_forever, name="metrics", daemon=True)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Server(ThreadingMixIn, HTTPServer):
    """A thread a client, and at most :data:`MAX_CLIENTS`: who comes then is turned away."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 16

    def __init__(self, address: tuple[str, int], registry: CollectorRegistry) -> None:
        self.registry = registry
        self._places = threading.BoundedSemaphore(MAX_CLIENTS)
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        # HTTPServer's own asks the resolver for our name, which may take seconds.
        TCPServer.server_bind(self)
        self.server_name, self.server_port = HOST, int(self.socket.getsockname()[1])

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._places.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:
            self._places.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away or sends rubbish is no event of ours."""


class _Handler(BaseHTTPRequestHandler):
    """One request a connection; it is read whole, within its time, before anything looks at it."""

    server: _Server
    server_version, sys_version = "gen4", ""

    def setup(self) -> None:
        super().setup()
        self.rfile.close()
        self.rfile = io.BufferedReader(io.BytesIO(_head(self.connection)))
        self.connection.settimeout(REQUEST_S)

    def do_GET(self) -> None:
        self._answer(self.wfile.write)

    def do_HEAD(self) -> None:
        self._answer(lambda _: None)

    def _answer(self, write: Callable[[bytes], object]) -> None:
        port = self.server.server_port
        if self.headers.get("Host") not in (f"{HOST}:{port}", f"localhost:{port}"):
            self.send_error(421)
            return
        if self.path.partition("?")[0] != PATH:
            self.send_error(404)
            return
        encode, content_type = choose_encoder(self.headers.get("Accept") or "")
        body = encode(self.server.registry)
        self.send_response(200)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Scrapes are not logged."""


def _head(connection: socket.socket) -> bytes:
    """The request up to the end of its headers; empty when it does not come in time or is too long."""
    deadline, head = time.monotonic() + REQUEST_S, b""
    while b"\r\n\r\n" not in head:
        left = deadline - time.monotonic()
        if left <= 0 or len(head) > MAX_REQUEST:
            return b""
        connection.settimeout(left)
        try:
            part = connection.recv(MAX_REQUEST)
        except OSError:
            return b""
        if not part:
            return b""
        head += part
    return head


def _sdk_runtime() -> tuple[Runtime, int]:
    for _ in range(SDK_TRIES):
        port = _free_port()
        config = PrometheusConfig(f"{HOST}:{port}", counters_total_suffix=True, unit_suffix=True, durations_as_seconds=True)
        try:
            return Runtime(telemetry=TelemetryConfig(metrics=config)), port
        except ValueError:  # the port is taken
            continue
    raise InfrastructureError("METRICS_PORT", "the SDK's metrics found no free port", "start the worker again")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def _url(port: int) -> str:
    return f"http://{HOST}:{port}{PATH}"

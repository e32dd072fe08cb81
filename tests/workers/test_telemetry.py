"""The metrics port: scraped by HTTP, closed to everything else, and not to be held up by slow clients."""

from __future__ import annotations

import fcntl
import http.client
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse

from activities.kernel.metrics import KernelMetrics
from activities.record.home import Home
from schemas.capabilities import FETCH_SOURCE
from schemas.error import InfrastructureError
from workers import telemetry
from workers.fabric import WORKER_READY, FabricState, lock_path, running, state_path, write_json
from workers.telemetry import MAX_CLIENTS, MAX_REQUEST, Telemetry, serving

TRACE = "0af7651916cd43dd8448eb211c80319c"


@pytest.fixture(scope="module")
def served() -> Iterator[Telemetry]:
    metrics = KernelMetrics()
    metrics.decision("acme", FETCH_SOURCE, "allow", "ALLOW", TRACE)
    with serving(metrics) as telemetry:
        yield telemetry


def ask(served: Telemetry, method: str = "GET", path: str = "/metrics", **headers: str) -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection(urlsplit(served.metrics_url).netloc, timeout=10)
    connection.request(method, path, headers=headers)
    return connection.getresponse()


def test_a_scrape_gives_what_was_counted(served: Telemetry) -> None:
    with urlopen(served.metrics_url, timeout=10) as answer:  # noqa: S310  our own loopback URL
        families = {family.name: family for family in parse(answer.read().decode())}
    [counted] = [sample for sample in families["gen4_gate_decisions"].samples if sample.name.endswith("_total")]
    assert counted.value == 1 and counted.labels["capability"] == "forge.fetch_source"


def test_who_accepts_openmetrics_sees_exemplars(served: Telemetry) -> None:
    request = Request(served.metrics_url, headers={"Accept": "application/openmetrics-text; version=1.0.0"})  # noqa: S310
    with urlopen(request, timeout=10) as answer:  # noqa: S310
        assert answer.headers["Content-Type"].startswith("application/openmetrics-text")
        families = {family.name: family for family in parse_openmetrics(answer.read().decode())}
    exemplars = [sample.exemplar for sample in families["gen4_gate_decisions"].samples if sample.name.endswith("_total")]
    assert [exemplar.labels for exemplar in exemplars if exemplar] == [{"trace_id": TRACE}]


def test_head_has_the_headers_and_no_body(served: Telemetry) -> None:
    answer = ask(served, "HEAD")
    assert (answer.status, answer.read()) == (200, b"") and int(answer.headers["Content-Length"]) > 0


@pytest.mark.parametrize(
    ("method", "path", "host", "status"),
    [
        ("POST", "/metrics", None, 501), ("PUT", "/metrics", None, 501), ("DELETE", "/metrics", None, 501),
        ("GET", "/", None, 404), ("GET", "/metrics/", None, 404), ("GET", "/../metrics", None, 404),
        ("GET", "/%6detrics", None, 404), ("GET", "http://evil.example/metrics", None, 421),
        ("GET", "/metrics", "evil.example", 421), ("GET", "/metrics", "127.0.0.1", 421),
    ],
)  # fmt: skip
def test_nothing_else_is_answered(served: Telemetry, method: str, path: str, host: str | None, status: int) -> None:
    answer = ask(served, method, path, **({"Host": host} if host else {}))
    assert answer.status == status and b"gen4_" not in answer.read()


def test_only_loopback_is_bound(served: Telemetry) -> None:
    for url in (served.metrics_url, served.temporal_metrics_url):
        port = urlsplit(url).port or 0
        with socket.socket() as probe:  # an address of this machine too, and not the one that is bound
            probe.settimeout(2)
            assert probe.connect_ex(("127.0.0.2", port)) != 0


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> Iterator[Telemetry]:
    monkeypatch.setattr(telemetry, "REQUEST_S", 0.6)
    with serving(KernelMetrics()) as found:
        yield found


def connected(served: Telemetry) -> socket.socket:
    found = socket.create_connection(("127.0.0.1", urlsplit(served.metrics_url).port or 0), timeout=10)
    found.sendall(b"GET /metrics HTTP/1.1\r\n")
    return found


def test_a_client_that_sends_a_byte_now_and_then_is_cut_off_in_time(hurried: Telemetry) -> None:
    slow, began = connected(hurried), time.monotonic()
    with slow, pytest.raises(OSError):
        while time.monotonic() - began < 5:
            slow.sendall(b"X")
            time.sleep(0.1)
    assert time.monotonic() - began < 3


def test_a_crowd_of_slow_clients_is_bounded_and_passes(hurried: Telemetry) -> None:
    crowd = [connected(hurried) for _ in range(MAX_CLIENTS * 3)]
    time.sleep(0.2)
    assert sum(thread.name.endswith("(process_request_thread)") for thread in threading.enumerate()) <= MAX_CLIENTS
    time.sleep(1.0)
    assert ask(hurried).status == 200
    for client in crowd:
        client.close()


def test_an_endless_header_is_cut_off(hurried: Telemetry) -> None:
    with connected(hurried) as client:
        try:
            client.sendall(b"X: " + b"y" * (64 * MAX_REQUEST))
            answer = client.recv(1)
        except OSError:
            answer = b""
    assert answer == b"" and ask(hurried).status == 200


def test_a_client_that_does_not_read_its_answer_does_not_keep_others_waiting(served: Telemetry) -> None:
    idle = [connected(served) for _ in range(MAX_CLIENTS - 1)]
    for client in idle:
        client.sendall(f"Host: {urlsplit(served.metrics_url).netloc}\r\n\r\n".encode())
    assert ask(served).status == 200
    for client in idle:
        client.close()


def test_a_port_that_is_taken_is_an_error_that_says_so() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(InfrastructureError) as caught, serving(KernelMetrics(), taken.getsockname()[1]):
            pass
    assert caught.value.code == "METRICS_PORT" and "GEN4_METRICS_PORT" in caught.value.remedy


def test_the_port_that_is_asked_for_is_the_one_and_free_again_afterwards() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    for _ in range(2):
        with serving(KernelMetrics(), port) as found:
            assert urlsplit(found.metrics_url).port == port and ask(found).status == 200


def test_the_sdk_serves_its_own(served: Telemetry) -> None:
    with urlopen(served.temporal_metrics_url, timeout=10) as answer:  # noqa: S310  our own loopback URL
        assert answer.status == 200


def test_status_says_where_the_running_worker_serves(tmp_path: Path) -> None:
    home = Home.open(tmp_path / "home")
    state = FabricState(
        pid=1, temporal_address="", ui_url="", opa_url="", policy_digest="", namespace="default", home=str(home.root),
        repository_roots=(), sandbox="auto", processes={"worker": 42},
    )  # fmt: skip
    write_json(state_path(home), state.model_dump(mode="json"))
    with lock_path(home).open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for pid, expected in ((41, ""), (42, "http://127.0.0.1:1/metrics")):
            ready = {"pid": pid, "metrics_url": "http://127.0.0.1:1/metrics", "temporal_metrics_url": "http://127.0.0.1:2/metrics"}
            write_json(home.run / WORKER_READY, ready)
            found = running(home)
            assert found is not None and found.metrics_url == expected
        write_json(home.run / WORKER_READY, {"pid": 42})
        found = running(home)
        assert found is not None and found.metrics_url == ""

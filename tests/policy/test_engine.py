"""Reading OPA's answers: everything but a whole, positive answer denies, and silence decides nothing."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from activities.policy import opa as opa_module
from activities.policy.bundle import CREDENTIALS_REVISION, PolicyBundle
from activities.policy.opa import PolicyEngine, _read
from schemas.canonical import jcs_sha256
from schemas.capabilities import SEAL_COMMIT
from schemas.error import InfrastructureError
from tests.policy.running import RunningOpa, free_port

QUESTION = {
    "phase": "control", "parent": "none", "capability": SEAL_COMMIT.id, "descriptor_sha256": SEAL_COMMIT.descriptor_sha256,
}  # fmt: skip


def test_allow(opa: RunningOpa) -> None:
    decision = opa.engine.decide("gen4.gate", QUESTION)
    assert decision.decision == "allow" and decision.required_checks == ("gate.descriptor", "gate.lineage", "gate.phase")
    assert (decision.policy_id, decision.policy_digest, decision.engine_name) == ("gen4.gate", opa.bundle.digest, "opa")
    assert decision.engine_version[0].isdigit() and decision.input_sha256 == jcs_sha256(QUESTION)


def test_deny_says_why(opa: RunningOpa) -> None:
    decision = opa.engine.decide("gen4.gate", {**QUESTION, "phase": "explore"})
    assert decision.decision == "deny"
    assert "gate.phase" in {rule.rule_id for rule in decision.denials} and all(rule.message for rule in decision.denials)


def test_a_capability_that_is_not_what_the_catalogue_lists_is_denied(opa: RunningOpa) -> None:
    decision = opa.engine.decide("gen4.gate", {**QUESTION, "descriptor_sha256": "0" * 64})
    assert [rule.rule_id for rule in decision.denials] == ["gate.descriptor"]


def test_the_start_of_a_worker_learns_what_policy_knows(opa: RunningOpa) -> None:
    assert opa.engine.check()[SEAL_COMMIT.id] == SEAL_COMMIT.descriptor_sha256


def test_another_bundle_than_ours_decides_nothing(opa: RunningOpa) -> None:
    other = opa.bundle._replace(revision="0" * 64)
    engine = PolicyEngine(opa.port, opa.token, other)
    for ask in (engine.check, lambda: engine.decide("gen4.gate", QUESTION)):
        with pytest.raises(InfrastructureError) as caught:
            ask()
        assert caught.value.code == "POLICY_BUNDLE_MISMATCH" and caught.value.retryable


def test_a_wrong_token(opa: RunningOpa) -> None:
    with pytest.raises(InfrastructureError) as caught:
        PolicyEngine(opa.port, "wrong", opa.bundle).decide("gen4.gate", QUESTION)
    assert caught.value.code == "POLICY_UNAUTHORIZED"


def test_stopped_and_started_again(tmp_path: Path) -> None:
    with RunningOpa(tmp_path) as running:
        engine = running.engine
        assert engine.decide("gen4.gate", QUESTION).decision == "allow"
        running.stop()
        with pytest.raises(InfrastructureError) as caught:
            engine.decide("gen4.gate", QUESTION)
        assert caught.value.code == "POLICY_UNAVAILABLE" and caught.value.retryable
        running.start()
        assert engine.decide("gen4.gate", QUESTION).decision == "allow"


def test_the_environments_proxy_and_netrc_are_not_asked(
    opa: RunningOpa, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login somebody password else\n")
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{free_port()}")
    assert opa.engine.decide("gen4.gate", QUESTION).decision == "allow"


# --- answers that a real OPA gives only when something is very wrong -------------------------------------------------


@contextmanager
def answering(status: int, body: bytes, delay_s: float = 0) -> Iterator[PolicyEngine]:
    """A server on OPA's port that gives one fixed answer."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            time.sleep(delay_s)
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield PolicyEngine(server.server_address[1], "token", BUNDLE)
    finally:
        server.shutdown()
        server.server_close()


BUNDLE = PolicyBundle(Path("policy.tar.gz"), "sha256:" + "0" * 64, "r1")
BUNDLES = {"a": {"revision": "r1"}, "b": {"revision": CREDENTIALS_REVISION}}
PROVENANCE = {"version": "1.0", "bundles": BUNDLES}
YES = {"required": ["a"], "passed": ["a"]}


def body(result: Any = None, **changes: Any) -> bytes:
    answer: dict[str, Any] = {"provenance": PROVENANCE, **changes}
    if result is not None:
        answer["result"] = result
    return json.dumps(answer).encode()


@pytest.mark.parametrize(
    "status, answer, rule",
    [
        (500, b'{"code": "internal_error"}', "POLICY_ERROR"),
        (200, body(), "POLICY_UNDEFINED"),
        (200, body(True), "POLICY_MALFORMED"),
        (200, body({"allow": True}), "POLICY_MALFORMED"),
        (200, body({"required": [], "passed": []}), "POLICY_MALFORMED"),
        (200, body({"required": ["a"], "passed": ["a", "b"]}), "POLICY_MALFORMED"),
        (200, body({"required": ["a"], "passed": {"a": True}}), "POLICY_MALFORMED"),
        (200, body({"required": ["a"]}), "POLICY_MALFORMED"),
        (200, body({"passed": ["a"]}), "POLICY_MALFORMED"),
        (200, body({"required": ["a"], "passed": [1]}), "POLICY_MALFORMED"),
        (200, body({"required": ["a"], "passed": []}), "a"),
    ],
)
def test_every_other_answer_denies(status: int, answer: bytes, rule: str) -> None:
    with answering(status, answer) as engine:
        decision = engine.decide("gen4.gate", QUESTION)
    assert decision.decision == "deny" and [denial.rule_id for denial in decision.denials] == [rule]


@pytest.mark.parametrize(
    "status, answer, code",
    [
        (200, b"<html>", "POLICY_UNAVAILABLE"),
        (200, b"", "POLICY_UNAVAILABLE"),
        (404, b"{}", "POLICY_UNAVAILABLE"),
        (503, b"{}", "POLICY_UNAVAILABLE"),
        (302, b"{}", "POLICY_BUNDLE_MISMATCH"),
        (401, b"{}", "POLICY_UNAUTHORIZED"),
        (403, b"{}", "POLICY_UNAUTHORIZED"),
        (200, b"[]", "POLICY_BUNDLE_MISMATCH"),
        (200, b'{"result": {"required": ["a"], "passed": ["a"]}}', "POLICY_BUNDLE_MISMATCH"),
        (200, body(YES, provenance={"bundles": {}}), "POLICY_BUNDLE_MISMATCH"),
        (200, body(YES, provenance={"bundles": {"a": {"revision": "r1"}}}), "POLICY_BUNDLE_MISMATCH"),
        (200, body(YES, provenance={"bundles": {**BUNDLES, "c": {"revision": "r1"}}}), "POLICY_BUNDLE_MISMATCH"),
    ],
)
def test_what_is_not_our_opa_decides_nothing(status: int, answer: bytes, code: str) -> None:
    with answering(status, answer) as engine, pytest.raises(InfrastructureError) as caught:
        engine.decide("gen4.gate", QUESTION)
    assert caught.value.code == code


def test_a_slow_answer_decides_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opa_module, "TIMEOUT_S", 0.2)
    with answering(200, body(YES), delay_s=1) as engine, pytest.raises(InfrastructureError) as caught:
        engine.decide("gen4.gate", QUESTION)
    assert caught.value.code == "POLICY_UNAVAILABLE"


NAMES = st.lists(st.sampled_from(["a", "b", "c"]) | st.integers() | st.none(), max_size=4)


ANSWERS = st.fixed_dictionaries({}, optional={"required": NAMES, "passed": NAMES, "findings": NAMES})


@given(st.none() | st.booleans() | NAMES | ANSWERS)
def test_only_a_passed_set_equal_to_a_required_set_has_no_denial(result: Any) -> None:
    required, rules = _read({"result": result})
    allowed = bool(required) and all(rule.outcome == "pass" for rule in rules)
    whole = isinstance(result, dict) and bool(result.get("required")) and "passed" in result
    strings = whole and all(isinstance(name, str) for name in [*result["required"], *result["passed"]])
    assert allowed == bool(strings and set(result["required"]) == set(result["passed"]))
    assert rules

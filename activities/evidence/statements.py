"""Statements that lie beside a bundle: what its tests gave, and what its trajectory is (evidence §9). Pure.

They repeat in other people's formats what the bundle says; whoever has to decide reads the bundle. Each function gives the exact
bytes that are signed. Subjects carry sha256 alone: the Sigstore clients read no other digest there.
"""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from schemas.canonical import jcs, sha256_hex, strict_json
from schemas.event import GENESIS
from schemas.evidence import PATCH, PAYLOAD_TYPE, STATEMENT_TYPE, TEST_RESULTS, TRAJECTORY, TYPE_BASE
from schemas.stamp import AnyStamp
from schemas.statement import Statement, Subject, SubjectDigest

TEST_RESULT_TYPE = "https://in-toto.io/attestation/test-result/v0.1"
TRAJECTORY_TYPE = f"{TYPE_BASE}/trajectory/v1"
TRAJECTORY_SCHEMA = f"{TYPE_BASE}/trajectory-step/v1"
"""How a line is written: :class:`schemas.trajectory.TrajectoryStep`."""
CHAIN_ALGORITHM = "sha256-jcs-lines"
"""``prev_hash`` of a line is the sha256 of the line before it, in RFC 8785 form, without its LF."""

_PASSED = frozenset({"passed"})
_WARNED = frozenset({"xfailed", "xpassed"})
_FAILED = frozenset({"failed", "error"})


@dataclass(frozen=True)
class Unsigned:
    """What a signer signs, and the file that its envelope goes to. ``keyid``: not empty only in in-toto's own metadata."""

    name: str
    payload: bytes
    payload_type: str = PAYLOAD_TYPE
    keyid: str = ""

    def sealed(self, signature: bytes) -> bytes:
        """The envelope's bytes, given a signature over its pre-authentication encoding (:func:`activities.kernel.dsse.pae`)."""
        signed = {"keyid": self.keyid, "sig": base64.b64encode(signature).decode()}
        return jcs(
            {"payload": base64.b64encode(self.payload).decode(), "payloadType": self.payload_type, "signatures": [signed]}
        )


@dataclass
class Chain:
    """What one pass over ``trajectory.jsonl`` shows. ``snapshot``: of the tree after the last step."""

    head: str = GENESIS
    length: int = 0
    snapshot: str = ""
    recorders: Counter[str] = field(default_factory=Counter)
    redactions: Counter[str] = field(default_factory=Counter)
    tool_calls: int = 0
    truncated: int = 0


def read_chain(lines: Iterable[bytes]) -> Chain:
    """One line in memory at a time; whether the links hold is the Trust Gate's to say.

    Args:
        lines: of ``trajectory.jsonl``, each with or without its LF.

    Raises:
        StrictJsonError: for a line that is not strict JSON.
    """
    chain = Chain()
    for line in lines:
        text = line.removesuffix(b"\n")
        step = strict_json(text)
        chain.head, chain.snapshot = sha256_hex(text), step["snapshot_hash"]
        chain.length += 1
        chain.recorders[step.get("recorder", "kernel")] += 1
        chain.redactions.update({one["rule"]: one["count"] for one in step.get("redactions", ())})
        chain.tool_calls += step.get("tool_call") is not None
        chain.truncated += bool(step.get("truncated", False))
    return chain


def test_result(stamp: AnyStamp, results: bytes, chain: Chain) -> Unsigned:
    """in-toto's test-result of the patched tree. A test that was skipped did not run and is in no list.

    Args:
        results: the bytes of ``test_results.json``.
    """
    document = strict_json(results)
    outcomes: dict[str, str] = next(suite["outcomes"] for suite in document["suites"] if suite["name"] == "patched")
    passed, warned, failed = (
        [nodeid for nodeid, outcome in sorted(outcomes.items()) if outcome in kind] for kind in (_PASSED, _WARNED, _FAILED)
    )
    predicate = {
        "result": "FAILED" if failed or not passed else "WARNED" if warned else "PASSED",
        "configuration": [
            {"name": TEST_RESULTS, "digest": {"sha256": sha256_hex(results)}},
            {"name": "environment", "digest": {"sha256": stamp.compile.environment_digest.removeprefix("sha256:")}},
            {"name": "commands", "digest": {"sha256": stamp.compile.commands_sha256}},
        ],
        "passedTests": passed,
        "warnedTests": warned,
        "failedTests": failed,
    }
    source = {"source": chain.snapshot, PATCH: stamp.members[PATCH].sha256}
    return Unsigned("test-result.intoto.json", encode_statement(TEST_RESULT_TYPE, source, predicate))


def trajectory(stamp: AnyStamp, chain: Chain) -> Unsigned:
    """That these steps were recorded in this order, and by whom. It says nothing about whether they were wise, or true."""
    predicate = {
        "schema": TRAJECTORY_SCHEMA,
        "chain": {"genesis": GENESIS, "head": chain.head, "length": chain.length, "alg": CHAIN_ALGORITHM},
        "recorder": {
            "steps": dict(sorted(chain.recorders.items())),
            "explorer": {"name": stamp.engines.explorer.name, "version": stamp.engines.explorer.version},
            "gen4": stamp.engines.gen4,
        },
        "redaction": {"when": "before hashing", "rules": dict(sorted(chain.redactions.items()))},
        "counts": {"tool_calls": chain.tool_calls, "truncated_outputs": chain.truncated},
        "snapshot": {"sha256": chain.snapshot},
    }
    subject = {TRAJECTORY: stamp.members[TRAJECTORY].sha256}
    return Unsigned("trajectory.intoto.json", encode_statement(TRAJECTORY_TYPE, subject, predicate))


def encode_statement(predicate_type: str, subjects: dict[str, str], predicate: dict[str, Any]) -> bytes:
    """Args:
    subjects: sha256 by name, in the order of the statement.
    """
    return Statement(
        type_=STATEMENT_TYPE,
        subject=tuple(Subject(name=name, digest=SubjectDigest(sha256=digest)) for name, digest in subjects.items()),
        predicateType=predicate_type,
        predicate=predicate,
    ).encode()


"""What lies beside a bundle: test-result, trajectory and verification summary, and what in-toto's own verifier says."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sigstore.dsse import Statement as SigstoreStatement

from activities.evidence import in_toto, statements, vsa
from activities.evidence.statements import Chain, Unsigned, read_chain
from activities.kernel import dsse
from activities.record.blobs import BlobStore
from activities.record.trajectory import TrajectoryWriter
from schemas.canonical import jcs, sha256_hex
from schemas.evidence import (
    BUILDER_ID,
    CHECKSUMS,
    PATCH,
    SEPARATED_BUILDER_ID,
    STAMP,
    TEST_RESULTS,
    TRAJECTORY,
    timestamp_of,
)
from schemas.gates import Check, GateReport
from schemas.stamp import Stamp, Stamp2
from schemas.trajectory import ToolCall
from tests.evidence.workshop import NOW_S, Workshop

IN_TOTO_VERIFY = Path(sys.executable).parent / "in-toto-verify"


def stamp_of(workshop: Workshop) -> Stamp | Stamp2:
    model = Stamp2 if workshop.stamp["schema_version"] == "stamp/2" else Stamp
    return model.model_validate(workshop.stamp)


def chain_of(workshop: Workshop) -> Chain:
    return read_chain(workshop.files[TRAJECTORY].splitlines(keepends=True))


def body(unsigned: Unsigned) -> dict[str, Any]:
    """The statement, which the Sigstore client takes too."""
    SigstoreStatement(unsigned.payload)
    value: dict[str, Any] = json.loads(unsigned.payload)
    assert jcs(value) == unsigned.payload
    return value


# --- test-result -------------------------------------------------------------------------------------------------------


def test_the_test_result_is_that_of_the_patched_tree(workshop: Workshop) -> None:
    made = body(statements.test_result(stamp_of(workshop), workshop.files[TEST_RESULTS], chain_of(workshop)))
    assert made["predicateType"] == "https://in-toto.io/attestation/test-result/v0.1"
    assert made["predicate"]["result"] == "PASSED"
    assert made["predicate"]["passedTests"] == ["tests/test_calc.py::test_add", "tests/test_calc.py::test_zero"]
    configuration = {one["name"]: one["digest"]["sha256"] for one in made["predicate"]["configuration"]}
    assert configuration[TEST_RESULTS] == sha256_hex(workshop.files[TEST_RESULTS])
    subjects = {one["name"]: one["digest"]["sha256"] for one in made["subject"]}
    assert subjects == {"source": chain_of(workshop).snapshot, PATCH: sha256_hex(workshop.files[PATCH])}


@pytest.mark.parametrize(
    "outcomes, result, lists",
    [
        ({"a": "passed", "b": "skipped"}, "PASSED", (["a"], [], [])),
        ({"a": "passed", "b": "xfailed", "c": "xpassed"}, "WARNED", (["a"], ["b", "c"], [])),
        ({"a": "passed", "b": "failed", "c": "error", "d": "xfailed"}, "FAILED", (["a"], ["d"], ["b", "c"])),
        ({"a": "skipped"}, "FAILED", ([], [], [])),
        ({}, "FAILED", ([], [], [])),
    ],
)
def test_a_failing_or_absent_test_is_never_a_pass(
    workshop: Workshop, outcomes: dict[str, str], result: str, lists: tuple[list[str], ...]
) -> None:
    document = json.loads(workshop.files[TEST_RESULTS])
    document["suites"][1]["outcomes"] = outcomes
    predicate = body(statements.test_result(stamp_of(workshop), jcs(document), chain_of(workshop)))["predicate"]
    found = (predicate["passedTests"], predicate["warnedTests"], predicate["failedTests"])
    assert (predicate["result"], found) == (result, lists)


# --- trajectory --------------------------------------------------------------------------------------------------------


def test_the_trajectory_statement_names_head_length_recorders_and_redactions(workshop: Workshop, tmp_path: Path) -> None:
    writer = TrajectoryWriter("templates", BlobStore(tmp_path, "local"))
    writer.add(thought="look", snapshot_hash="1" * 64)
    secret = "AKIA" + "ABCDEFGHIJKLMNOP"
    writer.add(thought=secret, snapshot_hash="2" * 64, tool_call=ToolCall(name="edit", args={}), recorder="agent")
    writer.add(thought="done", snapshot_hash="3" * 64, tool_output="x" * 20_000)
    lines = writer.lines()
    chain = read_chain(lines.splitlines(keepends=True))
    predicate = body(statements.trajectory(stamp_of(workshop), chain))["predicate"]
    assert predicate["chain"]["length"] == 3 and predicate["chain"]["genesis"] == "0" * 64
    assert predicate["chain"]["head"] == sha256_hex(lines.splitlines()[-1])
    assert predicate["recorder"]["steps"] == {"agent": 1, "kernel": 2}
    assert sum(predicate["redaction"]["rules"].values()) == 1
    assert predicate["counts"] == {"tool_calls": 1, "truncated_outputs": 1}
    assert predicate["snapshot"] == {"sha256": "3" * 64}


def test_the_subject_of_the_trajectory_statement_is_the_member(workshop: Workshop) -> None:
    made = body(statements.trajectory(stamp_of(workshop), chain_of(workshop)))
    assert made["subject"] == [{"name": TRAJECTORY, "digest": {"sha256": sha256_hex(workshop.files[TRAJECTORY])}}]


# --- verification summary ----------------------------------------------------------------------------------------------


def summary(workshop: Workshop, report: GateReport, levels: tuple[str, ...]) -> dict[str, Any]:
    digest = "sha256:" + sha256_hex(workshop.files[CHECKSUMS])
    return body(
        vsa.summary(
            report, digest, policy_digest="sha256:" + "a" * 64, trust_sha256="b" * 64, verifier_version="1",
            time_verified=timestamp_of(NOW_S), levels=levels, provenance_sha256="c" * 64,
        )
    )  # fmt: skip


def test_a_summary_states_what_was_earned(workshop: Workshop) -> None:
    passed = GateReport(gate="trust", verdict="pass", checks=(Check(code="SIZE_LIMIT", ok=True),))
    made = summary(workshop, passed, vsa.levels_of(BUILDER_ID, "single_operator"))
    digest = sha256_hex(workshop.files[CHECKSUMS])
    assert made["subject"] == [{"name": CHECKSUMS, "digest": {"sha256": digest}}]
    assert made["predicate"]["resourceUri"] == f"gen4+bundle:sha256:{digest}"
    assert made["predicate"]["verificationResult"] == "PASSED"
    assert made["predicate"]["verifiedLevels"] == ["SLSA_BUILD_LEVEL_1", "GEN4_SIGNER_EMBEDDED"]


def test_a_refused_bundle_has_earned_nothing(workshop: Workshop) -> None:
    failed = GateReport(gate="trust", verdict="fail", checks=(Check(code="SIGNATURE_INVALID", ok=False),))
    predicate = summary(workshop, failed, vsa.levels_of(BUILDER_ID, "single_operator"))["predicate"]
    assert (predicate["verificationResult"], predicate["verifiedLevels"]) == ("FAILED", ["FAILED"])
    assert predicate["gen4_codes"] == ["SIGNATURE_INVALID"]


@pytest.mark.parametrize("verdict", ["fail", "inconclusive"])
def test_only_a_pass_is_a_pass(workshop: Workshop, verdict: Any) -> None:
    report = GateReport(gate="trust", verdict=verdict, checks=())
    assert summary(workshop, report, ("SLSA_BUILD_LEVEL_1",))["predicate"]["verificationResult"] == "FAILED"


def test_no_level_above_one_is_ever_stated_and_an_unknown_builder_earns_none() -> None:
    levels = {level for found in vsa.LEVELS.values() for level in found if level.startswith("SLSA_")}
    assert levels == {"SLSA_BUILD_LEVEL_1"}
    assert vsa.levels_of("urn:somebody:else", "separated") == ("SLSA_BUILD_LEVEL_0",)
    assert vsa.levels_of(BUILDER_ID, "separated") == ("SLSA_BUILD_LEVEL_0",), "a trust root that demands more is not met"
    assert vsa.SEPARATED_LEVEL in vsa.levels_of(SEPARATED_BUILDER_ID, "separated")


# --- in-toto -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def in_toto_verify(workshop: Workshop, tmp_path: Path) -> Callable[[dict[str, bytes]], subprocess.CompletedProcess[str]]:
    """Lay layout and links of the good bundle down, then verify the files that the test gives."""
    links = tmp_path / "attestations"
    links.mkdir()
    signer = workshop.signer
    for unsigned in in_toto.metadata(stamp_of(workshop), workshop.files, signer.public_key):
        signature = signer.signature(dsse.pae(unsigned.payload_type, unsigned.payload))
        (links / unsigned.name).write_bytes(unsigned.sealed(signature))
    (links / "key.pub").write_text(workshop.signer.public_pem)

    def verify(files: dict[str, bytes]) -> subprocess.CompletedProcess[str]:
        folder = tmp_path / "copy"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for name, data in files.items():
            (folder / name).write_bytes(data)
        argv = [str(IN_TOTO_VERIFY), "-l", f"{links}/root.layout", "--verification-keys", f"{links}/key.pub", "--link-dir", links]
        return subprocess.run(argv, cwd=folder, capture_output=True, text=True, timeout=60, check=False)

    return verify


def test_in_toto_verify_accepts_the_bundle_and_refuses_altered_ones(
    workshop: Workshop, in_toto_verify: Callable[[dict[str, bytes]], subprocess.CompletedProcess[str]]
) -> None:
    good = workshop.files
    done = in_toto_verify(good)
    assert done.returncode == 0, done.stderr
    altered = {
        "another diff": {**good, PATCH: good[PATCH] + b"\n"},
        "another stamp": {**good, STAMP: good[STAMP].replace(b"local", b"other")},
        "another envelope": {**good, "provenance.intoto.json": b"{}"},
        "a file too many": {**good, "extra.txt": b""},
        "a file too few": {name: data for name, data in good.items() if name != TRAJECTORY},
    }
    for what, files in altered.items():
        done = in_toto_verify(files)
        assert (done.returncode, "RuleVerificationError" in done.stderr) == (1, True), (what, done.stderr)


def test_in_toto_verify_refuses_an_altered_link(
    workshop: Workshop, in_toto_verify: Callable[[dict[str, bytes]], subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    (link,) = (tmp_path / "attestations").glob("compile.*.link")
    envelope = json.loads(link.read_bytes())
    payload = base64.b64decode(envelope["payload"]).replace(b"local", b"other")
    changed = json.loads(payload)
    changed["products"][PATCH]["sha256"] = "0" * 64
    link.write_text(json.dumps({**envelope, "payload": base64.b64encode(jcs(changed)).decode()}))
    done = in_toto_verify(workshop.files)
    assert done.returncode == 1 and "ThresholdVerificationError" in done.stderr, done.stderr

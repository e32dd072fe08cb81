from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from activities.record.blobs import BlobStore
from activities.record.trajectory import TrajectoryWriter, read_trajectory
from schemas.error import InputError, Refused
from schemas.trajectory import OUTPUT_LIMIT, ToolCall

SNAPSHOT = "a" * 64


@pytest.fixture
def writer(tmp_path: Path) -> TrajectoryWriter:
    return TrajectoryWriter("engine", BlobStore(tmp_path, "acme"), clock=lambda: datetime(2026, 1, 2, tzinfo=UTC))


def three(writer: TrajectoryWriter) -> bytes:
    writer.add(thought="look", snapshot_hash=SNAPSHOT, role="system")
    writer.add(thought="try", snapshot_hash=SNAPSHOT, tool_call=ToolCall(name="run", args={"n": 1}), tool_output="failed")
    writer.add(thought="done", snapshot_hash="b" * 64, candidate_id="c1")
    return writer.lines()


def test_lines_carry_the_seven_fields_and_are_read_back(writer: TrajectoryWriter) -> None:
    data = three(writer)
    assert read_trajectory(data) == writer.steps
    for number, line in enumerate(data.splitlines(), start=1):
        fields = json.loads(line)
        assert fields.keys() >= {"step_id", "timestamp", "agent_id", "thought", "tool_call", "tool_output", "snapshot_hash"}
        assert (fields["seq"], fields["timestamp"]) == (number, "2026-01-02T00:00:00.000Z")
    assert json.loads(data.splitlines()[0])["tool_call"] is None


def test_writer_goes_on_from_an_earlier_attempt(writer: TrajectoryWriter, tmp_path: Path) -> None:
    three(writer)
    second = TrajectoryWriter("engine", BlobStore(tmp_path, "acme"), read_trajectory(writer.lines()))
    second.add(thought="more", snapshot_hash=SNAPSHOT)
    assert [step.seq for step in read_trajectory(second.lines())] == [1, 2, 3, 4]


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_changed_byte_is_noticed(tmp_path: Path, data: st.DataObject) -> None:
    lines = three(TrajectoryWriter("engine", BlobStore(tmp_path, "acme")))
    place = data.draw(st.integers(0, lines[:-1].rindex(b"\n")))  # nothing follows the last line, so it has no witness
    value = data.draw(st.integers(0, 255).filter(lambda byte: byte != lines[place]))
    with pytest.raises(Refused, match="TRAJECTORY_CHAIN"):
        read_trajectory(lines[:place] + bytes([value]) + lines[place + 1 :])


@pytest.mark.parametrize("order", [[0, 2], [1, 2], [1, 0, 2], [0, 0, 1, 2], [2, 1, 0]])
def test_removed_or_reordered_lines_are_noticed(writer: TrajectoryWriter, order: list[int]) -> None:
    lines = three(writer).splitlines(keepends=True)
    with pytest.raises(Refused, match="TRAJECTORY_CHAIN"):
        read_trajectory(b"".join(lines[number] for number in order))


@pytest.mark.parametrize("data", [b"", b"{}\n", b"\n", b"nonsense\n", b"[]\n", b'{"a":1,"a":2}\n'])
def test_what_is_no_trajectory_is_refused(data: bytes) -> None:
    with pytest.raises(Refused, match="TRAJECTORY_CHAIN"):
        read_trajectory(data)


def test_missing_end_of_line_is_refused(writer: TrajectoryWriter) -> None:
    with pytest.raises(Refused, match="TRAJECTORY_CHAIN"):
        read_trajectory(three(writer)[:-1])


@pytest.mark.parametrize("text", ["x" * (OUTPUT_LIMIT + 1), "ü" * OUTPUT_LIMIT, "€" * (OUTPUT_LIMIT // 3 + 1)])
def test_long_output_is_cut_and_kept_whole(writer: TrajectoryWriter, tmp_path: Path, text: str) -> None:
    step = writer.add(thought="", snapshot_hash=SNAPSHOT, tool_output=text)
    assert step.truncated and text.startswith(step.tool_output)
    assert OUTPUT_LIMIT - 4 < len(step.tool_output.encode()) <= OUTPUT_LIMIT
    assert BlobStore(tmp_path, "acme").get(step.tool_output_sha256) == text.encode()
    assert step.tool_output_bytes == len(text.encode())
    assert read_trajectory(writer.lines()) == (step,)


def test_output_of_the_limit_is_not_cut(writer: TrajectoryWriter, tmp_path: Path) -> None:
    assert not writer.add(thought="", snapshot_hash=SNAPSHOT, tool_output="x" * OUTPUT_LIMIT).truncated
    assert list(tmp_path.iterdir()) == []


SECRETS = {
    "private_key": "-----BEGIN OPENSSH PRIVATE KEY-----\nabc\n-----END OPENSSH PRIVATE KEY-----",
    "url_password": "https://user:hunter2@example.org/",
    "authorization": "Authorization: Bearer abcdefghijkl",
    "jwt": "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.abcdefghijkl",
    "github_token": "ghp_" + "a1B2" * 9,
    "gitlab_token": "glpat-" + "a1B2" * 6,
    "aws_key": "AKIA" + "A1B2" * 4,
    "slack_token": "xoxb-" + "1234567890",
    "model_key": "sk-" + "a1B2" * 8,
    "index_token": "pypi-" + "a1B2" * 9,
}


@pytest.mark.parametrize("rule", sorted(SECRETS))
def test_secrets_never_reach_the_record(writer: TrajectoryWriter, tmp_path: Path, rule: str) -> None:
    secret = SECRETS[rule]
    call = ToolCall(name="run", args={"deep": [{"key": f"a {secret} b"}]})
    output = f"{secret}\n" + "x" * OUTPUT_LIMIT
    step = writer.add(thought=f"use {secret}", snapshot_hash=SNAPSHOT, tool_call=call, tool_output=output)
    kept = writer.lines() + BlobStore(tmp_path, "acme").get(step.tool_output_sha256)
    hidden = secret.split("//")[-1].split("@")[0] if rule == "url_password" else secret.split(": ")[-1]
    assert hidden.encode() not in kept and f"[redacted:{rule}]".encode() in kept
    assert [(redaction.rule, redaction.count) for redaction in step.redactions] == [(rule, 3)]


def test_ordinary_code_is_left_alone(writer: TrajectoryWriter) -> None:
    code = "password = get_password()\ntoken: str = 'x'\nurl = 'https://example.org/a:b'\nsk-short\nAKIA\n"
    code += "# ask-me-anything-about-it\n"
    step = writer.add(thought=code, snapshot_hash=SNAPSHOT, tool_output=code)
    assert (step.thought, step.tool_output, step.redactions) == (code, code, ())


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(output=st.binary(max_size=300) | st.text(st.characters(), max_size=100))
def test_any_output_can_be_recorded(writer: TrajectoryWriter, output: str | bytes) -> None:
    writer.add(thought="", snapshot_hash=SNAPSHOT, tool_output=output)
    assert read_trajectory(writer.lines()) == writer.steps


@pytest.mark.parametrize("value", [2**53, float("nan")])
def test_arguments_without_canonical_form_are_refused(writer: TrajectoryWriter, value: object) -> None:
    with pytest.raises(InputError, match="NOT_CANONICAL"):
        writer.add(thought="", snapshot_hash=SNAPSHOT, tool_call=ToolCall(name="run", args={"value": value}))
    assert writer.steps == ()

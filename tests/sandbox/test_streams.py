"""Streams that come out of a sandbox: lines, tails and Docker's frames."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from activities.kernel.sandbox.docker import frames
from activities.kernel.sandbox.output import LineStream, Tail

pieces = st.lists(st.text(alphabet="ab\n", max_size=8).map(str.encode), max_size=12)


def drain(stream: LineStream) -> list[bytes]:
    lines = []
    while (line := stream.line(1.0)) is not None:
        lines.append(line)
    return lines


@given(pieces)
def test_lines_do_not_depend_on_how_the_bytes_were_cut(cut: list[bytes]) -> None:
    stream = LineStream(1_000)
    assert all(stream.feed(piece) for piece in cut)
    stream.end()
    whole = b"".join(cut)
    expected = whole.split(b"\n")
    assert drain(stream) == (expected if expected[-1] else expected[:-1])


@given(pieces, st.integers(0, 60))
def test_never_more_than_the_limit_comes_out(cut: list[bytes], limit: int) -> None:
    stream = LineStream(limit)
    results = [stream.feed(piece) for piece in cut]
    stream.end()
    lines = drain(stream)
    whole = b"".join(cut)
    assert sum(len(line) + 1 for line in lines) <= limit + 1
    assert all(results) == (len(whole) <= limit)
    assert (b"\n".join(lines) + b"\n").startswith(b"") and whole.startswith(b"\n".join(lines))


def test_a_line_that_the_limit_cuts_is_no_line() -> None:
    stream = LineStream(10)
    assert not stream.feed(b"whole\n" + b"x" * 1_000_000)
    stream.end()
    assert drain(stream) == [b"whole"]


def test_waiting_ends() -> None:
    with pytest.raises(TimeoutError):
        LineStream(10).line(0.01)


@given(st.lists(st.binary(max_size=40)), st.integers(1, 30))
def test_a_tail_keeps_the_end(cut: list[bytes], kept: int) -> None:
    tail = Tail(kept)
    for piece in cut:
        tail.feed(piece)
    assert tail.value() == b"".join(cut)[-kept:]
    assert tail.taken == sum(map(len, cut))


@given(st.lists(st.tuples(st.sampled_from([1, 2]), st.binary(max_size=50)), max_size=8), st.integers(1, 20))
def test_frames_are_put_together_from_any_cut(messages: list[tuple[int, bytes]], step: int) -> None:
    wire = b"".join(struct.pack(">BxxxI", kind, len(data)) + data for kind, data in messages)
    got: dict[str, bytes] = {"stdout": b"", "stderr": b""}
    pending = b""
    for at in range(0, len(wire), step):
        chunks, pending = frames(pending + wire[at : at + step])
        assert len(pending) <= 8
        for stream, data in chunks:
            got[stream] += data
    assert pending == b""
    assert got["stdout"] == b"".join(data for kind, data in messages if kind == 1)
    assert got["stderr"] == b"".join(data for kind, data in messages if kind == 2)


def test_an_unknown_stream_is_dropped() -> None:
    assert frames(struct.pack(">BxxxI", 7, 3) + b"abc" + struct.pack(">BxxxI", 1, 1) + b"x") == ([("stdout", b"x")], b"")

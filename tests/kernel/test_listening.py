"""Processes of ours call each other over Unix sockets: frames arrive whole, strangers and nonsense do not."""

from __future__ import annotations

import contextlib
import io
import os
import socket
import stat
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pytest

from activities.kernel.channel import Channel, call, connect, listen, need
from activities.kernel.listening import Handler, Listener
from schemas.error import Gen4Error, InfrastructureError, InputError, Refused


@contextmanager
def answering(path: Path, handle: Handler, **options: Any) -> Iterator[Path]:
    own = os.geteuid()
    listener = Listener(path, options.pop("clients", {own}), own, handle, **options)
    thread = threading.Thread(target=listener.serve)
    thread.start()
    try:
        yield path
    finally:
        listener.stop()
        thread.join()


def sum_of_lengths(channel: Channel, asked: Any, body: IO[bytes]) -> None:
    """Answers with the size of the body and of what it asks for."""
    if asked == "fail":
        raise Refused("NOT_TODAY", "closed", "come back tomorrow")
    content = need(channel, {"name": asked}).read()
    channel.send({"result": len(body.read())}, content * 2)


def supply(wanted: Any) -> IO[bytes]:
    return io.BytesIO(wanted["name"].encode())


def ask(path: Path, message: Any, body: bytes = b"") -> tuple[Any, bytes]:
    channel = connect(path)
    try:
        result, content = call(channel, message, body, supply=supply)
        return result, content.read()
    finally:
        channel.close()


def refusal(action: Callable[[], object]) -> Gen4Error:
    with pytest.raises(Gen4Error) as caught:
        action()
    return caught.value


def test_a_call_carries_bodies_both_ways_and_is_asked_for_content(tmp_path: Path) -> None:
    with answering(tmp_path / "socket", sum_of_lengths) as path:
        assert ask(path, "abc", b"x" * 3_000_000) == (3_000_000, b"abcabc")


def test_a_path_longer_than_an_address_can_be_used(tmp_path: Path) -> None:
    folder = tmp_path / ("f" * 120)
    folder.mkdir()
    with answering(folder / "socket", sum_of_lengths) as path:
        assert ask(path, "a") == (0, b"aa")


def test_an_error_arrives_with_its_kind_code_and_remedy(tmp_path: Path) -> None:
    with answering(tmp_path / "socket", sum_of_lengths) as path:
        error = refusal(lambda: ask(path, "fail"))
    assert isinstance(error, Refused) and (error.code, error.remedy) == ("NOT_TODAY", "come back tomorrow")


def test_a_failure_of_the_callee_tells_nothing_of_its_inside(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def broken(channel: Channel, asked: Any, body: IO[bytes]) -> None:
        raise ValueError("the password is hunter2")

    with answering(tmp_path / "socket", broken) as path:
        error = refusal(lambda: ask(path, "x"))
    assert error.code == "CALL_FAILED" and "hunter2" not in str(error) and "hunter2" in caplog.text


def test_a_user_that_is_not_listed_is_refused_and_named_in_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with answering(tmp_path / "socket", sum_of_lengths, clients={4_294_000}) as path:
        assert refusal(lambda: ask(path, "a")).code == "CHANNEL_REFUSED"
    assert f"uid {os.geteuid()}" in caplog.text


@pytest.mark.parametrize(
    "frame",
    [
        b"\0\0\0\x0e" + bytes(8) + b'{"a":1,"a":2 }', b"\0\0\0\x02" + bytes(8) + b"[]", b"\xff" * 12,
        b"\0\0\0\x02" + b"\xff" * 8 + b"{}",
    ],
    ids=["duplicate key", "no object", "huge message", "huge body"],
)  # fmt: skip
def test_frames_that_are_no_strict_json_or_too_large_end_the_connection(tmp_path: Path, frame: bytes) -> None:
    with answering(tmp_path / "socket", sum_of_lengths) as path, socket.socket(socket.AF_UNIX) as raw:
        raw.connect(str(path))
        raw.sendall(frame)
        raw.settimeout(10)
        with contextlib.suppress(ConnectionResetError):
            assert raw.recv(10) == b""


def test_a_first_frame_that_is_no_call_is_an_error(tmp_path: Path) -> None:
    with answering(tmp_path / "socket", sum_of_lengths) as path:
        channel = connect(path)
        channel.send({"call": "a", "more": 1})
        assert channel.receive()[0]["error"]["code"] == "CALL_INVALID"
        channel.close()


def test_more_calls_than_slots_are_told_to_come_again(tmp_path: Path) -> None:
    with answering(tmp_path / "socket", sum_of_lengths, most=1) as path:
        first = connect(path)
        first.send({"call": "a"})
        assert first.receive()[0] == {"need": {"name": "a"}}
        error = refusal(lambda: ask(path, "a"))
        assert isinstance(error, InfrastructureError) and error.code == "CHANNEL_BUSY"
        first.close()


@pytest.mark.parametrize(
    ("sent", "every_s"),
    [(b"\0\0\0\x0c", 0.0), (b"\0\0\0\x0c" + bytes(8) + b'{"call":', 0.0), (b"\0\0\0\x0c" + bytes(8) + b'{"call":"abcd', 0.05)],
    ids=["half a head", "half a message", "byte by byte"],
)
def test_a_frame_that_does_not_come_to_its_end_keeps_no_slot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sent: bytes, every_s: float
) -> None:
    monkeypatch.setattr("activities.kernel.channel.FRAME_S", 0.3)
    with answering(tmp_path / "socket", sum_of_lengths, most=1) as path, socket.socket(socket.AF_UNIX) as raw:
        raw.connect(str(path))
        with contextlib.suppress(BrokenPipeError):
            for byte in sent:
                raw.sendall(bytes((byte,)))
                time.sleep(every_s)
        raw.settimeout(5)
        with contextlib.suppress(ConnectionResetError):
            assert raw.recv(10) == b""
        assert ask(path, "next") == (0, b"nextnext")


def test_whoever_was_asked_for_content_and_says_nothing_is_given_up(tmp_path: Path) -> None:
    def impatient(channel: Channel, asked: Any, body: IO[bytes]) -> None:
        need(channel, {"name": asked}, 0.2)

    with answering(tmp_path / "socket", impatient, most=1) as path:
        channel = connect(path)
        channel.send({"call": "a"})
        assert channel.receive()[0] == {"need": {"name": "a"}}
        assert refusal(channel.receive).code == "CHANNEL_CLOSED"
        channel.close()


def test_whoever_reads_nothing_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("activities.kernel.channel._SEND", struct.pack("ll", 0, 200_000))
    ended = threading.Event()

    def talkative(channel: Channel, asked: Any, body: IO[bytes]) -> None:
        try:
            channel.send({"result": 0}, bytes(8 << 20))
        finally:
            ended.set()

    with answering(tmp_path / "socket", talkative) as path:
        channel = connect(path)
        channel.send({"call": "a"})
        assert ended.wait(5)
        channel.close()


def test_stopping_hangs_up_on_whoever_is_being_served(tmp_path: Path) -> None:
    with answering(tmp_path / "socket", sum_of_lengths) as path:
        channel = connect(path)
        channel.send({"call": "a"})
        channel.receive()
    assert refusal(channel.receive).code == "CHANNEL_CLOSED"
    assert refusal(lambda: connect(path)).code == "CHANNEL_UNAVAILABLE"
    channel.close()


def test_a_socket_is_for_its_user_alone_unless_shared(tmp_path: Path) -> None:
    for name, shared, mode in (("own", False, 0o600), ("shared", True, 0o666)):
        with listen(tmp_path / name, shared=shared):
            assert stat.S_IMODE((tmp_path / name).stat().st_mode) == mode


def test_a_socket_left_by_a_dead_process_is_replaced_but_not_that_of_a_living_one(tmp_path: Path) -> None:
    listen(tmp_path / "socket").close()
    with listen(tmp_path / "socket"):
        assert refusal(lambda: listen(tmp_path / "socket")).code == "CHANNEL_TAKEN"


def test_a_file_in_the_place_of_the_socket_is_kept(tmp_path: Path) -> None:
    (tmp_path / "socket").write_text("precious")
    error = refusal(lambda: listen(tmp_path / "socket"))
    assert error.code == "CHANNEL_TAKEN" and not isinstance(error, InputError)
    assert (tmp_path / "socket").read_text() == "precious"


FEW_DESCRIPTORS = """
import os, resource, sys
from pathlib import Path
from activities.kernel.listening import Listener

resource.setrlimit(resource.RLIMIT_NOFILE, (24, 24))
listener = Listener(Path(sys.argv[1]), {os.geteuid()}, os.geteuid(), lambda channel, asked, body: channel.send({"result": asked}))
print("listening", flush=True)
listener.serve()
"""


def test_whoever_takes_all_descriptors_stops_nobody_for_good(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    command = [sys.executable, "-c", FEW_DESCRIPTORS, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as server:
        try:
            assert server.stdout is not None and server.stdout.readline() == b"listening\n"
            greedy = [connect(path) for _ in range(40)]
            assert server.stderr is not None and b"no connection could be accepted" in server.stderr.readline()
            for channel in greedy:
                channel.close()
            assert ask(path, "still there")[0] == "still there"
        finally:
            server.kill()

"""A sandbox on the other side of a socket behaves like one of our own, and takes nothing but the fixed request."""

from __future__ import annotations

import io
import json
import os
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from activities.kernel.channel import Channel
from activities.kernel.listening import Listener
from activities.kernel.sandbox import tree_watch
from activities.kernel.sandbox.archives import pack_folder, unpack_folder
from activities.kernel.sandbox.backends import choose_backend
from activities.kernel.sandbox.broker import WINDOW, Broker
from activities.kernel.sandbox.docker import DockerBackend
from activities.kernel.sandbox.port import RootFilesystem, SandboxBackend, SandboxProcess, SandboxSpec
from activities.kernel.sandbox.remote import Executor, RemoteBackend
from schemas.canonical import sha256_hex
from schemas.error import Gen4Error, Refused
from schemas.testing import Limits

HERE = Path(__file__).parent
LIMITS = Limits(memory_mb=256, pids=32, wall_ms=20_000, output_bytes=8 << 20, disk_mb=64)
PROGRAM = "import json, sys\nexec(json.loads(sys.stdin.buffer.readline())['code'])"

ECHO = """
import hashlib, os
print(os.environ['SOURCE_DATE_EPOCH'])
print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest())
print()
print('x' * 3_000_000)
sys.stderr.write('bad')
sys.exit(3)
"""


def spec_of(
    root: RootFilesystem, *, mode: str, limits: Limits, environment: Path | None = None, source_date_epoch: int = 0
) -> SandboxSpec:
    """Stands for the runner: it runs the code of its job."""
    return SandboxSpec(
        root=root, argv=(root.python, "-I", "-S", "-c", PROGRAM), env={"SOURCE_DATE_EPOCH": str(source_date_epoch)},
        limits=limits, runner=HERE / "runner", environment=environment, labels={"mode": mode},
    )  # fmt: skip


@pytest.fixture(scope="module", params=["bubblewrap", "docker"])
def real(request: pytest.FixtureRequest, root: RootFilesystem) -> SandboxBackend:
    if request.param == "docker":
        return DockerBackend(request.getfixturevalue("docker_host"))
    return choose_backend(root, "bubblewrap")


@pytest.fixture(scope="module")
def executor(real: SandboxBackend, root: RootFilesystem) -> Iterator[Executor]:
    broker = Broker(root, real, spec_of, {"job"}, lambda channel, tenant, digest: Path("/none"), LIMITS)

    def handle(channel: Channel, asked: Any, body: object) -> None:
        if "facts" in asked:
            facts = {"sandbox": real.facts().model_dump(mode="json"), "root_digest": root.digest, "python": root.python}
            channel.send({"result": facts})
        else:
            broker.start(channel, asked["start"])

    with tempfile.TemporaryDirectory() as folder:
        path, own = Path(folder) / "socket", os.geteuid()
        listener = Listener(path, {own}, own, handle)
        thread = threading.Thread(target=listener.serve)
        thread.start()
        yield Executor(path, lambda wanted: b"")
        listener.stop()
        thread.join()


@pytest.fixture(scope="module")
def remote(executor: Executor) -> RemoteBackend:
    return RemoteBackend(executor, "local", spec_of, Path("/environments"))


def begun(process: SandboxProcess, code: str) -> None:
    process.send(json.dumps({"mode": "job", "code": code}).encode() + b"\n")


def refusal(action: Callable[[], object]) -> str:
    with pytest.raises(Gen4Error) as caught:
        action()
    return caught.value.code


def test_input_output_standard_error_and_exit_code_pass_through(remote: RemoteBackend) -> None:
    data = os.urandom(3 * WINDOW)
    with remote.start(spec_of(remote.root(), mode="job", limits=LIMITS, source_date_epoch=7)) as process:
        begun(process, ECHO)
        process.send(data)
        completed = process.finish()
        lines = list(process.lines())
    assert lines == [b"7", sha256_hex(data).encode(), b"", b"x" * 3_000_000]
    assert (completed.ending, completed.exit_code, completed.stderr) == ("exited", 3, b"bad")
    assert completed.cpu.ms > 0 and process.cpu() == completed.cpu


def test_a_conversation_goes_on_line_by_line(remote: RemoteBackend) -> None:
    with remote.start(spec_of(remote.root(), mode="job", limits=LIMITS)) as process:
        begun(process, "for line in sys.stdin: print(int(line) * 2, flush=True)")
        for number in range(3):
            process.send(b"%d\n" % number)
            assert process.line(10) == b"%d" % (number * 2)
        with pytest.raises(TimeoutError):
            process.line(0.01)
        process.close_input()
        assert process.line(10) is None
        assert process.finish().exit_code == 0


def test_a_folder_of_tools_arrives_as_the_environment(remote: RemoteBackend, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "tool").write_text("hello")
    (tmp_path / "bin" / "tool").chmod(0o755)
    (tmp_path / "link").symlink_to("/etc/passwd")
    with remote.start(spec_of(remote.root(), mode="job", limits=LIMITS, environment=tmp_path)) as process:
        begun(process, "import os; print(open('/env/bin/tool').read(), os.access('/env/bin/tool', os.X_OK), os.listdir('/env'))")
        assert list(process.lines()) == [b"hello True ['bin']"]


@pytest.mark.parametrize(
    ("code", "limits", "ending"),
    [("import time; time.sleep(60)", {"wall_ms": 999}, "wall_time"), ("while 1: print(1)", {"output_bytes": 100_000}, "output")],
    ids=["time", "output"],
)
def test_limits_are_kept_on_the_other_side(remote: RemoteBackend, code: str, limits: dict[str, int], ending: str) -> None:
    with remote.start(spec_of(remote.root(), mode="job", limits=LIMITS.model_copy(update=limits))) as process:
        begun(process, code)
        assert process.finish().ending == ending


@pytest.mark.parametrize("how", ["kill", "leave", "vanish"])
def test_whoever_kills_leaves_or_vanishes_ends_the_sandbox(remote: RemoteBackend, how: str) -> None:
    started = time.monotonic()
    with remote.start(spec_of(remote.root(), mode="job", limits=LIMITS)) as process:
        begun(process, "import time; print(1, flush=True); time.sleep(60)")
        assert process.line(20) == b"1"
        started = time.monotonic()
        if how == "kill":
            process.kill()
            assert process.finish().ending == "killed"
        elif how == "vanish":
            process._channel.hang_up()  # type: ignore[attr-defined]
    assert time.monotonic() - started < 2
    deadline = time.monotonic() + 2
    while [pid for pid in tree_watch.descendants(os.getpid()) if b"bwrap" in _command(pid)] and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not [pid for pid in tree_watch.descendants(os.getpid()) if b"bwrap" in _command(pid)]


def test_input_that_nobody_reads_does_not_keep_the_sandbox_from_being_killed(remote: RemoteBackend) -> None:
    with remote.start(spec_of(remote.root(), mode="job", limits=LIMITS)) as process:
        begun(process, "import time; time.sleep(60)")
        threading.Timer(0.5, process.kill).start()
        assert refusal(lambda: process.send(b"x" * 4 * WINDOW)) == "SANDBOX_GONE"
        assert process.finish().ending == "killed"


def test_only_the_runner_as_the_executor_knows_it_can_be_started(remote: RemoteBackend, tmp_path: Path) -> None:
    known = spec_of(remote.root(), mode="job", limits=LIMITS)
    for change in ({"argv": ("/bin/sh",)}, {"env": {"LD_PRELOAD": "x"}}, {"runner": tmp_path}, {"harness": tmp_path}):
        other = SandboxSpec(**{**{name: getattr(known, name) for name in known.__dataclass_fields__}, **change})
        with pytest.raises(Refused, match="SPEC_UNKNOWN"), remote.start(other):
            pass


# --- what somebody sends who does not use our client -----------------------------------------------------------------


def asked(root: RootFilesystem, **change: Any) -> dict[str, Any]:
    request = {"tenant_id": "local", "mode": "job", "root_digest": root.digest, "limits": LIMITS.model_dump()}
    return {"call": {"start": {**request, "source_date_epoch": 0, **change}}}


def answer_to(executor: Executor, message: dict[str, Any], *frames: tuple[dict[str, Any], bytes]) -> list[dict[str, Any]]:
    """Everything that the broker says until it ends the call."""
    channel, said = executor.connect(), []
    try:
        channel.wait_at_most(20)
        channel.send(message)
        for frame, body in frames:
            channel.send(frame, body)
        while True:
            said.append(channel.receive()[0])
            if said[-1].keys() & {"ended", "error"}:
                return said
    except Gen4Error:
        return said
    finally:
        channel.close()


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"mounts": ["/:/host"]}, "CALL_INVALID"), ({"argv": ["/bin/sh"]}, "CALL_INVALID"),
        ({"privileged": True}, "CALL_INVALID"), ({"env": {"A": "1"}}, "CALL_INVALID"),
        ({"user": "0:0"}, "CALL_INVALID"), ({"network": "host"}, "CALL_INVALID"),
        ({"environment": "/etc"}, "CALL_INVALID"), ({"environment": {"path": "/etc"}}, "CALL_INVALID"),
        ({"environment": {"lock": "../etc"}}, "CALL_INVALID"), ({"tenant_id": "a/b"}, "CALL_INVALID"),
        ({"source_date_epoch": -1}, "CALL_INVALID"), ({"mode": "../x"}, "CALL_INVALID"), ({"mode": "tests"}, "MODE_UNKNOWN"),
        ({"root_digest": "sha256:" + "0" * 64}, "BASE_UNKNOWN"),
        ({"limits": {**LIMITS.model_dump(), "memory_mb": 257}}, "LIMITS_EXCEEDED"),
        ({"limits": {**LIMITS.model_dump(), "gpus": 1}}, "CALL_INVALID"),
    ],
)  # fmt: skip
def test_a_request_beyond_the_schema_or_the_maximum_is_refused(
    executor: Executor, root: RootFilesystem, change: dict[str, Any], code: str
) -> None:
    assert [one["error"]["code"] for one in answer_to(executor, asked(root, **change))] == [code]


@pytest.mark.parametrize(
    "frames",
    [
        [({"input": 3}, b"no\n")], [({"input": 19}, b'{"mode": "tests"}  ')], [({"exec": "sh"}, b"")], [({"input": 9}, b"x")],
        [({"input": 1}, b"x"), ({"kill": 1}, b"")],
    ],
    ids=["no job", "job of another mode", "unknown frame", "other size", "altered kill"],
)  # fmt: skip
def test_nonsense_after_the_start_kills_the_sandbox(
    executor: Executor, root: RootFilesystem, frames: list[tuple[dict[str, Any], bytes]]
) -> None:
    said = answer_to(executor, asked(root), *frames)
    assert said[0] == {"started": True}
    assert not said[-1].keys() & {"ended"} or said[-1]["ended"]["ending"] == "killed"


def test_input_beyond_the_window_is_not_kept_in_memory(executor: Executor, root: RootFilesystem) -> None:
    job = b'{"mode": "job", "code": "import time; time.sleep(60)"}\n'
    flood = [({"input": 16 << 20}, b"x" * (16 << 20))] * 6
    started = time.monotonic()
    answer_to(executor, asked(root), ({"input": len(job)}, job), *flood)
    assert time.monotonic() - started < 10


def tar_of(*members: tuple[tarfile.TarInfo, bytes]) -> io.BytesIO:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for member, data in members:
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    out.seek(0)
    return out


def member(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.linkname = kind, target
    return made


HOSTILE = {
    "outside": tar_of((member("../x"), b"1")), "absolute": tar_of((member("/tmp/x"), b"1")),
    "link": tar_of((member("a", tarfile.SYMTYPE, "/etc"), b"")),
    "hard link": tar_of((member("a", tarfile.LNKTYPE, "/etc/passwd"), b"")),
    "device": tar_of((member("a", tarfile.CHRTYPE), b"")), "twice": tar_of((member("a"), b"1"), (member("a"), b"2")),
    "file as folder": tar_of((member("a"), b"1"), (member("a/b"), b"2")), "no tar": io.BytesIO(b"x" * 4096),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_an_archive_with_anything_but_regular_files_inside_is_refused(tmp_path: Path, name: str) -> None:
    data = HOSTILE[name].getvalue()
    with pytest.raises(Refused, match="ARCHIVE_INVALID"):
        unpack_folder(io.BytesIO(data), sha256_hex(data), tmp_path / "env")
    assert not (tmp_path / "x").exists()


def test_an_archive_is_the_one_that_was_named_and_the_same_each_time(tmp_path: Path) -> None:
    folder = tmp_path / "from"
    folder.mkdir()
    (folder / "b").write_text("2")
    (folder / "a").write_text("1")
    first, second = io.BytesIO(), io.BytesIO()
    sha256 = pack_folder(folder, first)
    os.utime(folder / "a", (1, 1))
    assert pack_folder(folder, second) == sha256
    with pytest.raises(Refused, match="ARCHIVE_INVALID"):
        unpack_folder(first, "0" * 64, tmp_path / "env")
    assert sorted(path.name for path in unpack_folder(second, sha256, tmp_path / "env").iterdir()) == ["a", "b"]


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""

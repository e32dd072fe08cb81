"""A worker has its tests run by an executor: same results, a receipt for each, and nothing that it says is believed."""

from __future__ import annotations

import io
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from activities.kernel.channel import call
from activities.kernel.sandbox import tree_watch
from activities.kernel.sandbox.remote import Executor
from activities.kernel.sandbox.running import Cause
from activities.testbed import receipts, remote_runs
from activities.testbed.executing import MODES
from activities.testbed.harness import RUNNER_FOLDER
from activities.testbed.remote_runs import _RemoteRun
from activities.testbed.scans import Scans
from schemas.canonical import digest_of, jcs
from schemas.capabilities import RunTests
from schemas.error import Gen4Error, InfrastructureError, Refused, Stopped
from schemas.receipt import BenchmarkReceipt, ScanReceipt
from schemas.regression import RunBenchmark, ScannedTree, ScanTree
from schemas.test_command import parse_test_command
from schemas.testing import Environment, RunVariant, TestRun
from tests.testbed.conftest import LIMITS, Bed, Files
from tests.testbed.executors import Remote, executor, start

PASSES = {"test_a.py": "def test_a():\n    print('hello')\n\ndef test_b():\n    assert 1 + 1 == 3\n"}
SLEEPS = {"test_s.py": "import time\ndef test_s():\n    time.sleep(60)\n"}


@pytest.fixture(scope="module")
def remote(bed: Bed) -> Iterator[Remote]:
    with executor(bed) as started:
        yield started


def request(tree: str, environment: Environment, **fields: Any) -> RunTests:
    wanted = {"plan": parse_test_command(()), "limits": LIMITS, "commit_time": 1_700_000_000, "purpose": "base", **fields}
    return RunTests(tree=tree, environment=environment, **wanted)


def asked(at: str, environment: Environment, **fields: Any) -> dict[str, Any]:
    """A call as a worker makes it, for the tree ``at``."""
    plan = parse_test_command(())
    return {
        "run_tests": {
            "tenant_id": "local", "tree": at, "environment_digest": environment.environment_digest, "measure": False,
            "plan": plan.model_dump(mode="json", exclude={"argv"}), "limits": LIMITS.model_dump(), "commit_time": 0,
            "variant": RunVariant().model_dump(mode="json", exclude_none=True), **fields,
        }
    }  # fmt: skip


def refusal(action: Callable[[], object]) -> Gen4Error:
    with pytest.raises(Gen4Error) as caught:
        action()
    return caught.value


def ask(remote: Remote, message: dict[str, Any], supply: Callable[[Mapping[str, Any]], Any] | None = None) -> object:
    channel = remote.executor.connect()
    try:
        return call(channel, message, supply=supply or remote.executor.supply)
    finally:
        channel.close()


# --- runs ------------------------------------------------------------------------------------------------------------


def test_a_run_is_the_same_as_in_our_own_process_and_has_a_receipt(bed: Bed, plain: Environment, remote: Remote) -> None:
    tree = bed.tree(PASSES)
    local, _ = bed.run(tree, plain)
    run = remote.runs.run(request(tree, plain), lambda: None)

    known = {"receipt", "executor"}
    assert run.model_dump(exclude=known) == local.model_dump(exclude=known)
    assert bed.blobs.get_json(run.outcomes) == {"test_a.py::test_a": "passed", "test_a.py::test_b": "failed"}
    assert run.receipt is not None
    receipt = receipts.verify(bed.blobs.get(run.receipt), [remote.public_key])
    assert receipts.agrees(receipt, run)
    assert (receipt.tree, receipt.tenant_id, receipt.commit_time) == (tree, "local", 1_700_000_000)
    assert receipt.environment_digest == plain.environment_digest


def test_what_was_measured_is_in_the_receipt_and_the_tools_are_those_that_we_pin(
    bed: Bed, plain: Environment, remote: Remote
) -> None:
    files = {"lib.py": "def double(x):\n    return x * 2\n", "test_a.py": "import lib\ndef test_a(): assert lib.double(2) == 4\n"}
    run = remote.runs.run(request(bed.tree(files), plain, measure=True), lambda: None)
    assert run.status == "passed" and run.coverage is not None and run.timings is not None and run.receipt is not None
    assert bed.blobs.get_json(run.coverage)["lib.py"] == {"lines": [1, 2], "covered": [1, 2]}
    assert receipts.agrees(receipts.verify(bed.blobs.get(run.receipt), [remote.public_key]), run)

    def supply(wanted: Mapping[str, Any]) -> Any:
        return bed.blobs.get(plain.lock) if "measuring" in wanted else remote.executor.supply(wanted)

    with executor(bed) as fresh:
        message = asked(bed.tree(files), plain, measure=True)
        assert refusal(lambda: ask(fresh, message, supply)).code == "LOCK_INVALID"


def scan_of(bed: Bed, base: Files, tree: Files, **fields: Any) -> ScanTree:
    return ScanTree(tree=bed.tree(tree), against=bed.tree(base), limits=LIMITS, **fields)


def test_a_scan_has_a_receipt_and_is_made_once_for_a_pair_of_trees(bed: Bed, remote: Remote) -> None:
    scans = Scans(bed.home, bed.blobs, remote.environments, remote.runs, ("machine",))
    asked = scan_of(bed, {"a.py": "x = 1\n", "gone": ""}, {"a.py": "import subprocess\nsubprocess.call('ls', shell=True)\n"})
    scanned = scans.scan(asked, lambda: None)
    assert scanned.findings is not None and "B602" in {one["rule"] for one in bed.blobs.get_json(scanned.findings)}
    receipt = scan_receipt(bed, remote, scanned)
    assert receipts.agrees_with_scan(receipt, scanned) and set(receipt.tools) == {"bandit", "detect-secrets"}
    assert (receipt.tree, receipt.against, receipt.tenant_id) == (asked.tree, asked.against, "local")
    assert scans.scan(asked, lambda: None) == scanned
    others = asked.model_copy(update={"fresh": True}), asked.model_copy(update={"against": bed.tree({})})
    again = [scan_receipt(bed, remote, scans.scan(other, lambda: None)) for other in others]
    assert len({one.receipt_id for one in (receipt, *again)}) == 3
    assert scans.scan(asked, lambda: None).receipt not in (None, scanned.receipt), "the fresh one is kept"


def test_a_scan_without_scanners_says_who_looked_for_them(bed: Bed, remote: Remote, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object) -> Path:
        raise Refused("ENVIRONMENT_UNRESOLVED", "no bandit here")

    monkeypatch.setattr(remote.environments, "tools", none)
    scans = Scans(bed.home, bed.blobs, remote.environments, remote.runs, ("machine",))
    scanned = scans.scan(scan_of(bed, {}, {"a.py": "x = 2\n"}), lambda: None)
    assert scanned.scanners_missing and "no bandit here" in scanned.message and scanned.size_bytes == 6
    assert receipts.agrees_with_scan(scan_receipt(bed, remote, scanned), scanned)


def scan_receipt(bed: Bed, remote: Remote, scanned: ScannedTree) -> ScanReceipt:
    assert scanned.receipt is not None
    return receipts.verify_as(ScanReceipt, bed.blobs.get(scanned.receipt), [remote.public_key])


def test_other_scanners_than_those_that_we_pin_are_refused(bed: Bed, plain: Environment, remote: Remote) -> None:
    asked = scan_of(bed, {}, {"a.py": "x = 3\n"})
    error = refusal(lambda: remote.runs.scan(asked, plain.environment_digest, lambda: None))
    assert error.code == "LOCK_INVALID"


def test_a_benchmark_has_a_receipt_also_where_it_fails(bed: Bed, plain: Environment, remote: Remote) -> None:
    asked = RunBenchmark(
        tree=bed.tree({"b.py": "pass\n"}), environment=plain, plan=parse_test_command(()), argv=("python", "b.py"),
        limits=LIMITS, commit_time=1, repeat=2, ordinal=7,
    )  # fmt: skip
    for request, code in ((asked, 0), (asked.model_copy(update={"argv": ("python", "none.py")}), 2)):
        sample = remote.runs.benchmark(request, lambda: None)
        assert sample.exit_code == code and sample.receipt is not None
        receipt = receipts.verify_as(BenchmarkReceipt, bed.blobs.get(sample.receipt), [remote.public_key])
        assert receipts.agrees_with_sample(receipt, sample) and len(receipt.micros) == (0 if code else 2)
        assert (receipt.argv, receipt.tree, receipt.ordinal) == (request.argv, request.tree, 7)


def test_two_equal_runs_have_two_receipts(bed: Bed, plain: Environment, remote: Remote) -> None:
    tree = bed.tree(PASSES)
    runs = [remote.runs.run(request(tree, plain), lambda: None) for _ in range(2)]
    first, second = [receipts.verify(bed.blobs.get(run.receipt or ""), [remote.public_key]) for run in runs]
    assert first.receipt_id != second.receipt_id
    alike = {"receipt_id", "sentinels"}
    assert first.model_dump(exclude=alike) == second.model_dump(exclude=alike)


def test_a_tree_is_sent_once_and_afterwards_only_what_changed(bed: Bed, plain: Environment, remote: Remote) -> None:
    tree = bed.tree({f"d{number}/x.py": f"{number}" for number in range(50)} | {"test_a.py": "def test_a(): pass"})
    changed = bed.objects.write_tree(tree, {"test_a.py": b"def test_c(): pass"})
    packs: list[bytes] = []

    def supply(wanted: Mapping[str, Any]) -> Any:
        content = remote.executor.supply(wanted)
        if "pack" in wanted:
            assert not isinstance(content, bytes)
            content.seek(0)
            packs.append(content.read())
        return content

    for one in (tree, tree, changed):
        ask(remote, asked(one, plain), supply)
    assert [int.from_bytes(pack[8:12]) for pack in packs] == [102, 2]


def test_a_run_that_is_cancelled_ends_its_sandbox(bed: Bed, plain: Environment, remote: Remote) -> None:
    class Cancelled(Exception):
        pass

    def heartbeat() -> None:
        if remote.running.entries() and remote.running.entries()[0].process.cpu().ms:
            raise Cancelled

    with pytest.raises(Cancelled):
        remote.runs.run(request(bed.tree(SLEEPS), plain), heartbeat)
    assert descendants(remote.process.pid) == []


def test_a_kill_switch_reaches_a_run_within_two_seconds(bed: Bed, plain: Environment, remote: Remote) -> None:
    seen: list[Gen4Error] = []
    tree = bed.tree(SLEEPS)
    runner = threading.Thread(target=lambda: seen.append(refusal(lambda: remote.runs.run(request(tree, plain), lambda: None))))
    runner.start()
    await_true(lambda: bool(descendants(remote.process.pid)))
    killed_at = time.monotonic()
    assert remote.running.kill(lambda who: Cause("KILL_SWITCH", "leak"))
    runner.join()
    assert time.monotonic() - killed_at < 2 and descendants(remote.process.pid) == []
    assert isinstance(seen[0], Stopped) and seen[0].code == "KILL_SWITCH"


def test_a_caller_that_goes_away_takes_its_sandbox_with_it(bed: Bed, plain: Environment, remote: Remote) -> None:
    channel = remote.executor.connect()
    channel.send({"call": asked(bed.tree(SLEEPS), plain)})
    serve_needs(channel, remote, until=lambda: bool(descendants(remote.process.pid)))
    channel.close()
    await_true(lambda: not descendants(remote.process.pid), 2)


def test_a_run_beyond_its_limits_is_a_result_not_a_failure(bed: Bed, plain: Environment, remote: Remote) -> None:
    tight = LIMITS.model_copy(update={"wall_ms": 4_000})
    run = remote.runs.run(request(bed.tree(SLEEPS), plain, limits=tight), lambda: None)
    assert run.status == "failed" and run.receipt is not None


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"mounts": ["/:/host"]}, "CALL_INVALID"), ({"argv": ["sh"]}, "CALL_INVALID"),
        ({"env": {"LD_PRELOAD": "x"}}, "CALL_INVALID"),
        ({"user": 0}, "CALL_INVALID"), ({"tree": "/etc"}, "CALL_INVALID"), ({"tenant_id": "../x"}, "CALL_INVALID"),
        ({"plan": {"pytest_args": [], "env": {}, "python_path": [], "frozen_clock": False, "program": "sh"}}, "CALL_INVALID"),
        ({"limits": LIMITS.model_dump() | {"memory_mb": 1 << 30}}, "LIMITS_EXCEEDED"),
        ({"limits": LIMITS.model_dump() | {"wall_ms": 0}}, "LIMITS_EXCEEDED"),
        ({"environment_digest": "/home"}, "CALL_INVALID"),
    ],
    ids=["mount", "argv", "variables", "user", "path", "tenant", "program", "memory", "no time", "folder"],
)  # fmt: skip
def test_a_request_with_anything_but_its_fields_is_refused(
    bed: Bed, plain: Environment, remote: Remote, change: dict[str, Any], code: str
) -> None:
    message = asked(bed.tree(PASSES), plain, **change)
    assert refusal(lambda: ask(remote, message)).code == code


@pytest.mark.parametrize("message", [{"exec": {}}, {"facts": {}, "run_tests": {}}, [], "facts"])
def test_a_call_that_is_not_known_is_refused(remote: Remote, message: Any) -> None:
    assert refusal(lambda: ask(remote, message)).code == "CALL_INVALID"


def test_another_trees_bytes_are_not_taken_for_the_one_that_was_named(bed: Bed, plain: Environment, remote: Remote) -> None:
    wanted, other = bed.tree({"a": "wanted"}), bed.tree({"a": "other"})

    def supply(question: Mapping[str, Any]) -> Any:
        return remote.executor.supply({**question, "pack": other} if "pack" in question else question)

    assert refusal(lambda: ask(remote, asked(wanted, plain), supply)).code == "TREE_MISMATCH"
    assert refusal(lambda: ask(remote, asked(wanted, plain), lambda _: b"no pack")).code == "OBJECTS_MALFORMED"


def lock_with(bed: Bed, plain: Environment, **change: Any) -> Environment:
    """An environment that a worker made up."""
    data = jcs({**bed.environments.lock(plain.environment_digest).model_dump(mode="json", exclude_none=True), **change})
    return plain.model_copy(update={"environment_digest": digest_of(data), "lock": bed.blobs.put(data)})


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"base_digest": "sha256:" + "0" * 64}, "BASE_UNKNOWN"), ({"schema_version": "env/9"}, "LOCK_INVALID"),
        ({"project": {"name": "../../../../tmp/x", "version": "1"}}, "LOCK_INVALID"),
        ({"project": {"name": "x", "version": "1/../../../x"}}, "LOCK_INVALID"),
    ],
    ids=["base", "version", "name", "project version"],
)  # fmt: skip
def test_an_environment_is_made_of_a_sound_lock_for_this_base(
    bed: Bed, plain: Environment, remote: Remote, change: dict[str, Any], code: str
) -> None:
    environment = lock_with(bed, plain, **change)
    assert refusal(lambda: remote.runs.prepare("local", environment.environment_digest)).code == code


def test_wheels_and_locks_are_those_of_their_hashes(bed: Bed, plain: Environment, remote: Remote) -> None:
    environment = lock_with(bed, plain, origin="altered on the way")
    message = {"environment": {"tenant_id": "local", "environment_digest": environment.environment_digest}}
    assert refusal(lambda: ask(remote, message, lambda _: b"{}")).code == "CONTENT_MISMATCH"


def test_another_tenants_environment_is_not_found_by_its_digest(plain: Environment, remote: Remote, bed: Bed) -> None:
    remote.runs.run(request(bed.tree(PASSES), plain), lambda: None)
    message = {"environment": {"tenant_id": "stranger", "environment_digest": plain.environment_digest}}
    assert refusal(lambda: ask(remote, message, lambda _: b"")).code == "CONTENT_MISMATCH"


def test_an_executor_that_sends_other_results_than_it_names_is_not_believed(bed: Bed, plain: Environment, remote: Remote) -> None:
    class Lying:
        """A channel whose other side sends what it likes."""

        def __init__(self, frames: list[Any]) -> None:
            self._frames = frames

        def receive(self) -> Any:
            return self._frames.pop(0)

    run = TestRun.model_validate(bed.run(bed.tree(PASSES), plain)[0])
    ref = run.outcomes.model_dump(mode="json")
    for frames in (
        [({"blob": ref}, io.BytesIO(b"other"))],
        [({"result": run.model_dump(mode="json")}, io.BytesIO())],
        [({"nonsense": 1}, io.BytesIO())],
    ):
        one = _RemoteRun(Lying(frames), Executor(Path("/nowhere"), lambda _: b""), bed.blobs, TestRun)  # type: ignore[arg-type]
        one._await = lambda heartbeat: None  # type: ignore[method-assign]
        assert refusal(lambda one=one: one.result(lambda: None)).code == "EXECUTOR_BROKEN"  # type: ignore[misc]


# --- crashes ---------------------------------------------------------------------------------------------------------


def killed_once_it_runs_something(doomed: Remote) -> threading.Thread:
    def kill() -> None:
        await_true(lambda: bool(descendants(doomed.process.pid)))
        doomed.process.kill()

    killer = threading.Thread(target=kill)
    killer.start()
    return killer


def test_an_executor_that_dies_and_stays_away_is_a_failure_of_the_machine(
    bed: Bed, plain: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_runs, "RESTART_S", 0.5)
    with executor(bed) as doomed:
        killer = killed_once_it_runs_something(doomed)
        error = refusal(lambda: doomed.runs.run(request(bed.tree(SLEEPS), plain), lambda: None))
        killer.join()
        assert isinstance(error, InfrastructureError) and error.code == "CHANNEL_UNAVAILABLE"


def test_a_run_is_made_again_where_the_executor_was_started_again(bed: Bed, plain: Environment) -> None:
    tree = bed.tree({"test_s.py": "import time\ndef test_s():\n    time.sleep(2)\n"})
    with executor(bed) as doomed:
        killer = killed_once_it_runs_something(doomed)
        runs: list[TestRun] = []
        runner = threading.Thread(target=lambda: runs.append(doomed.runs.run(request(tree, plain), lambda: None)))
        runner.start()
        killer.join()
        doomed.process.wait()
        old = doomed.home / "blobs" / "local" / "00" / ("0" * 64)
        old.parent.mkdir(parents=True, exist_ok=True)
        old.touch()
        os.utime(old, (1, 1))
        again = start(doomed.home.parent)
        runner.join()
        again.terminate()
        again.wait()
        assert not old.exists(), "what was not used for long is deleted at the start"
    assert runs[0].status == "passed" and runs[0].receipt is not None


def test_an_executor_that_is_told_to_end_ends_its_sandboxes_and_removes_its_socket(
    bed: Bed, plain: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_runs, "RESTART_S", 0.5)  # nobody starts it again
    with executor(bed) as ended:
        seen: list[Gen4Error] = []
        tree = bed.tree(SLEEPS)
        runner = threading.Thread(target=lambda: seen.append(refusal(lambda: ended.runs.run(request(tree, plain), lambda: None))))
        runner.start()
        await_true(lambda: bool(descendants(ended.process.pid)))
        sandbox = descendants(ended.process.pid)
        ended.process.terminate()
        assert ended.process.wait(10) == 0
        runner.join()
        assert not [pid for pid in sandbox if Path(f"/proc/{pid}").exists()]
        assert isinstance(seen[0], InfrastructureError) and not ended.executor.path.exists()


def test_a_machine_without_a_sandbox_is_told_to_the_caller(tmp_path: Path, bed: Bed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///nonexistent.sock")
    with pytest.raises(Refused, match="SANDBOX_UNAVAILABLE"), executor(bed, sandbox="docker"):
        pass


def test_the_modes_that_may_be_driven_are_those_of_the_runner() -> None:
    source = (RUNNER_FOLDER / "main.py").read_text()
    modes = source[source.index("MODES = ") :].split("\n", 1)[0]
    assert set(re.findall('"([a-z]+)"', modes)) == MODES


def descendants(pid: int) -> list[int]:
    """Processes of sandboxes that come from ``pid``; a git that reads objects for it lives as long as it does."""
    return [child for child in tree_watch.descendants(pid)[1:] if _name(child) != "git"]


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def await_true(condition: Callable[[], bool], within_s: float = 20) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def serve_needs(channel: Any, remote: Remote, until: Callable[[], bool]) -> None:
    """Answer what is asked for until something has happened."""
    while not until():
        answer, _ = channel.receive()
        if "need" in answer:
            channel.send({"content": True}, remote.executor.supply(answer["need"]))

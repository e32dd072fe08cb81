"""The same run gives the same canonical result in the other backend, and each pin of a run holds in both."""

from __future__ import annotations

from typing import Any

import pytest

from activities.kernel.sandbox.backends import choose_backend
from activities.kernel.sandbox.port import RootFilesystem
from activities.testbed.run import TestBed
from schemas.capabilities import RunTests
from schemas.test_command import parse_test_command
from schemas.testing import Environment, Limits, Outcomes, RunVariant

SEEN = """
import datetime, getpass, locale, os, socket, subprocess, sys, tempfile, time
def test_host_name(): assert socket.gethostname() == os.uname().nodename == "gen4"
def test_user(): assert getpass.getuser() == "gen4" and os.path.expanduser("~") == "/home/gen4" and os.getuid() == 10001
def test_umask():
    open("made", "w").close()
    assert os.stat("made").st_mode & 0o777 == 0o644
    assert subprocess.run(["sh", "-c", "umask"], capture_output=True, text=True).stdout.strip() in ("022", "0022")
def test_one_cpu(): assert len(os.sched_getaffinity(0)) == 1
def test_zone(): assert time.tzname == ("UTC", "UTC") and datetime.datetime(2020, 7, 1).astimezone().utcoffset().seconds == 0
def test_locale():
    assert sys.getfilesystemencoding() == "utf-8" and locale.setlocale(locale.LC_ALL, "") == "C.UTF-8"
def test_folders(): assert os.getcwd() == "/work" and tempfile.gettempdir() == "/tmp"
def test_hash_seed(): assert os.environ["PYTHONHASHSEED"] == "{seed}" and hash("gen4") == {hash}
def test_epoch(): assert os.environ["SOURCE_DATE_EPOCH"] == "1700000000"
def test_bytecode(): assert sys.dont_write_bytecode
def test_no_network(): assert [name for _, name in socket.if_nameindex() if name == "lo"] == ["lo"]
def test_plugins(request): assert not request.config.pluginmanager.hasplugin("cacheprovider")
def test_clock():
    now = time.time()
    time.sleep(0.05)
    assert (time.time() == now == {clock}) if {clock} else time.time() > now
    told = subprocess.run(["date", "+%s"], capture_output=True, text=True).stdout
    assert int(told) == {clock} or not {clock}
def test_monotonic():
    before = time.monotonic()
    time.sleep(0.05)
    assert time.monotonic() - before >= 0.05
"""
HASHES = {0: "-3710806384322220665", 7: "-4355619393100940430"}


@pytest.fixture(scope="module")
def docker(bed: Any, root: RootFilesystem, docker_host: str) -> TestBed:
    return TestBed(bed.home, bed.blobs, bed.objects, bed.environments, root, choose_backend(root, "docker"))


@pytest.fixture(params=["bubblewrap", "docker"])
def testbed(request: pytest.FixtureRequest, bed: Any) -> TestBed:
    chosen: TestBed = bed.testbed if request.param == "bubblewrap" else request.getfixturevalue("docker")
    return chosen


def test_every_pin_holds(testbed: TestBed, bed: Any, plain: Environment) -> None:
    for seed, clock in ((0, None), (7, 5)):
        source = SEEN.replace("{seed}", str(seed)).replace("{hash}", str(HASHES[seed])).replace("{clock}", str(clock or 0))
        request = RunTests(
            tree=bed.tree({"test_a.py": source}), environment=plain, plan=parse_test_command(()), commit_time=1_700_000_000,
            limits=Limits(wall_ms=60_000), purpose="diagnosis", variant=RunVariant(hash_seed=seed, clock=clock),
        )  # fmt: skip
        run = testbed.run(request, lambda: None)
        found: Outcomes = bed.blobs.get_json(run.outcomes)
        assert {name: outcome for name, outcome in found.items() if outcome != "passed"} == {} and len(found) == 14
        assert run.codes == () and run.variant == request.variant


def test_docker_and_bubblewrap_agree(bed: Any, plain: Environment, docker: TestBed) -> None:
    source = """
import os
def test_a(): pass
def test_b(): assert 0
def test_exit(): os._exit(0)
def test_loop():
    while True: pass
def test_z(): open("written", "w").write(os.getcwd())
"""
    request = RunTests(
        tree=bed.tree({"test_a.py": source}),
        environment=plain,
        plan=parse_test_command(()),
        limits=Limits(wall_ms=60_000, test_ms=1_000),
        commit_time=1,
        purpose="base",
    )
    first, second = bed.testbed.run(request, lambda: None), docker.run(request, lambda: None)
    assert first.sandbox.backend == "bubblewrap" and second.sandbox.backend == "docker"
    assert first.outcomes_sha256 == second.outcomes_sha256
    assert (first.run_key, first.codes, first.counts) == (second.run_key, second.codes, second.counts)
    assert first.counts == {"error": 1, "failed": 2, "passed": 2}

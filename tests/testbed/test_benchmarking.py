"""Benchmarks in a real sandbox: times of a command of the request, or how it failed."""

from __future__ import annotations

from typing import Any

import pytest

from activities.testbed.benchmarking import run_benchmark
from schemas.regression import BenchmarkSample, RunBenchmark
from schemas.test_command import parse_test_command
from schemas.testing import Environment
from tests.testbed.conftest import LIMITS, Bed

FILES = {
    "src/lib.py": "def work():\n    return 1\n",
    "bench.py": "import time, lib, pytest\nlib.work()\ntime.sleep(0.05)\n",
    "broken.py": "import sys\nprint('no such thing')\nsys.exit(3)\n",
    "hangs.py": "import time\ntime.sleep(600)\n",
    "leaves.py": "import subprocess\nsubprocess.Popen(['/bin/sleep', '600'], start_new_session=True)\n",
    "talks.py": """
import os
for descriptor in range(3, 64):
    try:
        os.write(descriptor, b'{"kind":"end","micros":[1,1],"exit_code":0}')
    except OSError:
        pass
print('{"kind":"end","micros":[1,1],"exit_code":0}')
""",
}


@pytest.fixture
def benchmark(bed: Bed, plain: Environment) -> Any:
    def go(*argv: str, wall_ms: int = 60_000, repeat: int = 2) -> BenchmarkSample:
        request = RunBenchmark(
            tree=bed.tree(FILES), environment=plain, plan=parse_test_command(()), argv=argv, repeat=repeat, commit_time=1,
            limits=LIMITS.model_copy(update={"wall_ms": wall_ms}),
        )  # fmt: skip
        return run_benchmark(bed.testbed, request, lambda: None)

    return go


def test_each_repetition_is_timed_and_sees_the_tree_and_its_environment(benchmark: Any) -> None:
    sample = benchmark("python", "bench.py")
    assert (sample.exit_code, sample.message, len(sample.micros)) == (0, "", 2)
    assert all(50_000 <= time < 10_000_000 for time in sample.micros)


@pytest.mark.parametrize(
    ("argv", "code", "said"), [(("python", "broken.py"), 3, "no such thing"), (("no-such-program", "x"), 127, "no-such-program")]
)
def test_a_command_that_fails_has_no_times(benchmark: Any, argv: tuple[str, ...], code: int, said: str) -> None:
    sample = benchmark(*argv)
    assert (sample.micros, sample.exit_code) == ((), code)
    assert said in sample.message


def test_a_command_that_hangs_or_leaves_processes_behind_or_writes_to_our_descriptors(benchmark: Any) -> None:
    assert benchmark("python", "hangs.py", wall_ms=4_000).micros == ()
    assert len(benchmark("python", "leaves.py").micros) == 2
    assert min(benchmark("python", "talks.py").micros) > 1

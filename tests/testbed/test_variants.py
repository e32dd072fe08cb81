"""Runs that differ on purpose, to explain a test that is unsteady; and runs whose wall clock stands still."""

from __future__ import annotations

from typing import Any

from activities.testbed.run import run_key
from schemas.capabilities import RunTests
from schemas.test_command import parse_test_command
from schemas.testing import Environment, RunVariant

from .conftest import LIMITS
from .test_measuring import observe

FIRST, SECOND = "test_a.py::test_first", "test_b.py::test_second"
LEAK = {
    "shared.py": "seen = []\n",
    "test_a.py": "import shared\ndef test_first(): shared.seen.append(1)\n",
    "test_b.py": "import shared\ndef test_second(): assert shared.seen\n",
}


def test_a_test_that_needs_another_fails_in_reverse_and_alone(bed: Any, plain: Environment) -> None:
    tree = bed.tree(LEAK)
    assert observe(bed, tree, plain).outcomes == {FIRST: "passed", SECOND: "passed"}
    assert observe(bed, tree, plain, order="reversed").outcomes == {FIRST: "passed", SECOND: "failed"}
    alone = observe(bed, tree, plain, only=(SECOND, "test_a.py::test_gone"))
    assert (alone.outcomes, alone.run.variant.only) == ({SECOND: "failed"}, (SECOND, "test_a.py::test_gone"))


def test_a_run_of_some_tests_knows_nothing_of_the_others(bed: Any, plain: Environment) -> None:
    tree = bed.tree({**LEAK, "test_c.py": "def (\n", "test_d.py": "import os\ndef test_exit(): os._exit(0)\n"})
    seen = observe(bed, tree, plain, only=(FIRST,))
    assert (seen.run.status, seen.run.codes, seen.outcomes) == ("passed", (), {FIRST: "passed"})
    assert observe(bed, tree, plain, only=("test_z.py::test_gone",)).run.codes == ("TESTS_NONE_COLLECTED",)


def test_order_follows_names_whatever_the_file_system_says(bed: Any, plain: Environment) -> None:
    """Each test notes its place; a temporary file system lists files in another order than ours."""
    names = ["zeta", "alpha", "Beta", "2", "10"]
    files = {f"test_{name}.py": f"def test_{name}(): open('order', 'a').write('{name} ')\n" for name in names}
    files["test_zz.py"] = "def test_order(): assert open('order').read() == '10 2 Beta alpha zeta '\n"
    seen = observe(bed, bed.tree(files), plain)
    assert seen.outcomes["test_zz.py::test_order"] == "passed"


def test_a_clock_that_stands_is_asked_for_by_plan_or_variant(bed: Any, plain: Environment) -> None:
    source = "import time\ndef test_commit(): assert time.time() == 1_700_000_000\ndef test_variant(): assert time.time() == 5\n"
    tree, plan = bed.tree({"test_a.py": source}), parse_test_command(())
    frozen = plan.model_copy(update={"frozen_clock": True})
    commit, variant = "test_a.py::test_commit", "test_a.py::test_variant"
    assert observe(bed, tree, plain, plan=frozen).outcomes == {commit: "passed", variant: "failed"}
    assert observe(bed, tree, plain, plan=frozen, clock=5).outcomes == {commit: "failed", variant: "passed"}


def test_time_limits_hold_whatever_the_tests_clock_says(bed: Any, plain: Environment) -> None:
    source = "import time\ndef test_loop():\n    while time.time() < 2_000_000_000: pass\ndef test_after(): pass\n"
    limits = LIMITS.model_copy(update={"test_ms": 1_000})
    seen = observe(bed, bed.tree({"test_a.py": source}), plain, clock=1_000_000_000, limits=limits)
    assert seen.run.codes == ("TEST_TIMEOUT",)
    assert seen.outcomes == {"test_a.py::test_loop": "failed", "test_a.py::test_after": "passed"}


def test_a_run_key_names_the_variant_only_where_there_is_one(bed: Any, plain: Environment) -> None:
    plan = parse_test_command(())
    usual = RunTests(tree="0" * 40, environment=plain, plan=plan, commit_time=1, purpose="base")
    same = usual.model_copy(update={"purpose": "patched", "ordinal": 2, "measure": True, "variant": RunVariant()})
    others = [usual.model_copy(update={"variant": RunVariant.model_validate(fields)}) for fields in (
        {"hash_seed": 1}, {"order": "reversed"}, {"clock": 0}, {"only": ["a"]},
    )]  # fmt: skip
    others.append(usual.model_copy(update={"plan": plan.model_copy(update={"frozen_clock": True})}))
    keys = [run_key(request, "local") for request in (usual, *others)]
    assert run_key(same, "local") == keys[0] and len(set(keys)) == 6

"""Rows from the server's record of a start: sessions are inherited, never chosen."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from activities.kernel.identity import PHASES, Started, heir_row, predecessor, root_row, task_of
from activities.record.executions import ExecutionRow

ROOT = Started(workflow_id="w", run_id="r1", workflow_type="Remediation", original_run_id="r1", first_run_id="r1")
CHILD = Started(
    workflow_id="c", run_id="c1", workflow_type="Compile", original_run_id="c1", first_run_id="c1", parent=("w", "r1")
)


def row(started: Started) -> ExecutionRow:
    made = root_row(started, "t", "p", "operator")
    assert made is not None
    return made


def test_root() -> None:
    made = row(ROOT)
    assert (made.session_id, made.phase, made.principal_id, made.reset, made.generation) == ("r1", "control", "p", False, 1)
    assert predecessor(ROOT) is None


def test_only_the_fabrics_own_operations_share_a_session() -> None:
    """Its lease would be somebody else's, if he came first."""
    reaper = replace(ROOT, workflow_type="Reaper")
    shared, own = root_row(reaper, "t", "gen4", "operator"), row(reaper)
    assert shared is not None and (shared.session_id, own.session_id) == ("operations", "r1")


def test_child() -> None:
    assert predecessor(CHILD) == ("w", "r1")
    made = heir_row(CHILD, row(ROOT))
    assert made is not None
    assert (made.session_id, made.phase, made.parent_workflow_id, made.parent_run_id) == ("r1", "compile", "w", "r1")


def test_continued_child_keeps_its_parent() -> None:
    child = heir_row(CHILD, row(ROOT))
    continued = replace(CHILD, run_id="c2", original_run_id="c2", continued_run_id="c1")
    assert child is not None and predecessor(continued) == ("c", "c1")
    made = heir_row(continued, child)
    assert made is not None and (made.parent_workflow_id, made.parent_run_id, made.run_id) == ("w", "r1", "c2")


def test_reset_is_seen_fenced_and_inherited() -> None:
    again = replace(ROOT, run_id="r2")
    assert predecessor(again) == ("w", "r1")
    made = heir_row(again, row(ROOT))
    assert made is not None and (made.session_id, made.reset, made.generation) == ("r1", True, 2)
    heir = heir_row(CHILD, made)
    assert heir is not None and (heir.reset, heir.generation) == (True, 2)


def test_a_parent_in_another_namespace_is_no_parent_of_ours() -> None:
    assert heir_row(replace(CHILD, foreign_parent=True), row(ROOT)) is None


@given(st.text().filter(lambda name: name not in PHASES))
def test_other_workflow_types_have_no_row(name: str) -> None:
    assert root_row(replace(ROOT, workflow_type=name), "t", "p", "operator") is None
    assert heir_row(replace(CHILD, workflow_type=name), row(ROOT)) is None


@given(st.uuids())
def test_a_task_is_fit_for_a_branch_name(session: object) -> None:
    task = task_of(str(session))
    assert len(task) == 12 and set(task) <= set("0123456789abcdef")

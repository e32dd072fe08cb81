"""Foreign text in details is inert: it cannot steer a terminal, leave its fence or stand beside what is to be pasted."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.approval import Refusal
from schemas.details import MAX_BYTES, escaped, fenced, plain, repository_label, session_details
from schemas.request import SessionResult
from schemas.session import State
from schemas.status import SessionStatus, Stage
from tests.schemas.test_approval import REQUEST


@given(st.text(st.characters()))
def test_plain_text_is_one_line_without_controls(text: str) -> None:
    cleaned = plain(text)
    assert all(unicodedata.category(char) not in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp") for char in cleaned)
    assert plain(cleaned) == cleaned
    cleaned.encode("utf-8")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("\x1b[31mred\x1b[0m", "red"), ("\x1b]8;;http://x\x07link\x1b]8;;\x07", "link"), ("a\tb\nc\r\nd", "a b c  d"),
        ("left\u202eright", "leftright"), ("zero\u200bwidth\ufeff", "zerowidth"), ("\x9b31mc1", "31mc1"), ("ü ß 漢", "ü ß 漢"),
        ("bell\x07 null\x00", "bell null"), ("a\u2028b", "a b"),
    ],
)  # fmt: skip
def test_what_is_removed(text: str, expected: str) -> None:
    assert plain(text) == expected


@given(st.text(st.characters(codec="utf-8")))
def test_no_text_leaves_its_fence(text: str) -> None:
    lines = fenced(text).split("\n")
    fence = lines[0]
    assert set(fence) == {"`"} and lines[-1] == fence
    assert not any(fence in line for line in lines[1:-1])


@given(st.text("ab`*_[]()<>#!|\\", max_size=30))
def test_escaped_text_has_no_live_markup(text: str) -> None:
    shown = escaped(text)
    index = 0
    while index < len(shown):
        if shown[index] == "\\":
            index += 2
            continue
        assert shown[index] not in "`*_[]()<>#!|"
        index += 1


@pytest.mark.parametrize(
    ("repository", "label"),
    [
        ("https://user:secret@host.example/a/b?token=x#f", "https://host.example/a/b"),
        ("ssh://git@host.example/a", "ssh://host.example/a"), ("/srv/my repo", "/srv/my repo"), ("https://[", "invalid URL"),
    ],
)  # fmt: skip
def test_labels_carry_no_credentials(repository: str, label: str) -> None:
    assert repository_label(repository) == label


def waiting(**more: object) -> SessionStatus:
    return SessionStatus.model_validate(
        {
            "state": State.VERIFYING,
            "approval": REQUEST.model_dump(),
            "next_step": "Decide.",
            "stages": (Stage(name="x", started_ms=0),),
        }
        | more
    )


@given(st.text(st.characters(), max_size=200), st.text(st.characters(), max_size=200), st.text(st.characters(), max_size=200))
def test_foreign_text_comes_after_what_is_pasted(goal: str, repository: str, workflow_id: str) -> None:
    details = session_details(waiting(), workflow_id=workflow_id, repository=repository, goal="MARK" + goal)
    assert details.index(REQUEST.action_digest) < details.rindex("MARK")
    assert len(details.encode()) <= MAX_BYTES + 10


def test_a_workflow_id_cannot_smuggle_a_command() -> None:
    details = session_details(waiting(), workflow_id="x; rm -rf ~ `id`", repository="/r", goal="g")
    assert "gen4 approve 'x; rm -rf ~ `id`' --digest" in details


def test_a_refusal_is_seen_above_what_is_to_be_pasted_but_only_by_its_code() -> None:
    refused = (Refusal(code="MALFORMED", message="old", remedy="r"), Refusal(code="UNKNOWN_SIGNAL", message="SENDER", remedy="r"))
    details = session_details(waiting(refused=refused), workflow_id="w", repository="/r", goal="g")
    pasted = details.rindex(REQUEST.action_digest)
    assert details.index("`UNKNOWN_SIGNAL`") < details.index(REQUEST.action_digest)
    assert details.index("SENDER") > pasted
    assert "MALFORMED" not in details[:pasted] and "goes on waiting" in details


def test_a_closed_session_shows_its_outcome_first_and_waits_no_more() -> None:
    refused = (Refusal(code="SIGNATURE_MISSING", message="m", remedy="r"),)
    result = SessionResult(workflow_id="w", run_id="r", session_id="s", state=State.CLOSED, outcome="merged")
    status = waiting(state=State.CLOSED, next_step="", refused=refused, result=result)
    details = session_details(status, workflow_id="w", repository="/r", goal="g")
    assert details.index("Outcome: merged") < details.index("SIGNATURE_MISSING")
    assert "waiting" not in details


def test_a_branch_that_is_to_be_made_is_called_so() -> None:
    details = session_details(waiting(), workflow_id="w", repository="/r", goal="g")
    assert "expects  no such branch yet" in details and "0" * 40 not in details


def test_refusals_and_length_are_bounded() -> None:
    refused = tuple(Refusal(code="MALFORMED", message="m" * 2_000, remedy="r") for _ in range(200))
    stages = tuple(Stage(name="s" * 500, started_ms=0, note="n" * 900) for _ in range(200))
    details = session_details(waiting(refused=refused, stages=stages), workflow_id="w", repository="/r", goal="g" * 8_000)
    assert len(details.encode()) <= MAX_BYTES + 10

"""Text of a goal, a path, a message or a patch stays data: on terminals, in Markdown, in commits and in logs (row 6.10)."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from activities.forge.sealing import message_of
from cli import output
from schemas.approval import Action, ApprovalRequest
from schemas.details import escaped, fenced, session_details, stage_details
from schemas.error import Refused
from schemas.model import ZERO_ID
from schemas.session import State
from schemas.status import SessionStatus, Stage
from schemas.text import plain
from workers.logs import CONTINUED, FORMAT, InertFormatter

STEERING = [
    *("\x1b[2J\x1b[H", "\x1b]0;title\x07", "\x9b31m", "\x07", "\r", "\x85"),
    *("\u202e", "\u2066", "\u200b", "\ufeff", "\u2028"),
]
MARKUP = [
    *("`", "```", "````", "\n", "# ", "##[", "::", "- ", "[x](http://e)"),
    *("<img src=x>", "|", "a", "é", '"', "{", "Signed-off-by: x"),
]
PIECES = [*STEERING, *MARKUP]
TEXT = st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=6)), max_size=12).map("".join)
DANGEROUS = {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}


def steering(text: str) -> set[str]:
    return {char for char in text if char != "\n" and unicodedata.category(char) in DANGEROUS}


@given(TEXT)
def test_one_line_without_anything_that_steers(text: str) -> None:
    assert not steering(plain(text)) and "\n" not in plain(text)


@pytest.mark.parametrize("piece", STEERING)
def test_a_terminal_gets_no_steering_character(
    piece: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, highlight=False, soft_wrap=True, color_system=None)
    monkeypatch.setattr(output, "results", console)
    monkeypatch.setattr(output, "progress", console)
    output.show(f"before{piece}after [bold]no markup[/bold]")
    output.say(f"before{piece}after")
    assert not steering(stream.getvalue()) and stream.getvalue().count("\n") == 2
    assert "[bold]no markup[/bold]" in stream.getvalue()
    output.emit({"goal": f"before{piece}after"})
    printed = capsys.readouterr().out
    assert not steering(printed) and json.loads(printed) == {"goal": f"before{piece}after"}


@given(TEXT, TEXT)
def test_an_error_of_somebody_else_is_shown_inert(code: str, message: str) -> None:
    stream = io.StringIO()
    usual, output.progress = output.progress, Console(file=stream, highlight=False, soft_wrap=True, color_system=None)
    try:
        output.explain(Refused(code + "[/]", message, message), False)
    finally:
        output.progress = usual
    assert not steering(stream.getvalue()) and "[/]" in stream.getvalue() and stream.getvalue().count("\n") <= 2


@given(TEXT)
def test_the_json_of_a_command_is_the_same_document_and_harmless(text: str) -> None:
    stream = io.StringIO()
    with contextlib.redirect_stdout(stream):
        output.emit({"goal": text})
    assert not steering(stream.getvalue()) and "##" not in stream.getvalue()
    assert json.loads(stream.getvalue()) == {"goal": text}
    line = json.dumps({"output": text}, ensure_ascii=False, separators=(",", ":"))  # of a recorded trajectory
    assert not steering(output.inert_json(line)) and json.loads(output.inert_json(line)) == {"output": text}


@given(TEXT)
def test_no_line_is_a_command_to_a_build_server(text: str) -> None:
    shown = output.line(text)
    assert not shown.lstrip().startswith("::") and "##" not in shown
    assert not steering(shown) and shown.replace(" ", "") == plain(text).replace(" ", "")


@given(TEXT)
def test_a_fence_is_never_left(text: str) -> None:
    block = fenced(text)
    fence = re.match(r"`+", block)
    assert fence is not None and not steering(block)
    first, *body, last = block.split("\n")
    assert first == last == fence.group() and all(fence.group() not in line for line in body)


@given(TEXT)
def test_escaped_text_has_no_markup(text: str) -> None:
    shown = escaped(text)
    assert not steering(shown) and "\n" not in shown
    assert not re.search(r"(?<!\\)(?:\\\\)*[`*_\[\]<>#|]", shown)


def request() -> ApprovalRequest:
    action = Action(
        repository="/r", target_ref="refs/heads/gen4/t", expected_head=ZERO_ID, commit_id="1" * 40, result_tree="2" * 40,
        bundle_digest="sha256:" + "3" * 64, stamp_sha256="4" * 64, policy_digest="sha256:" + "5" * 64,
        approvers_digest="sha256:" + "6" * 64, tenant_id="t", session_id="s", mode="branch", revert="delete-branch",
    )  # fmt: skip
    return ApprovalRequest(
        approval_id="id", action=action, action_digest=action.digest, stamp_id="s", fix="complete", requester_id="operator",
        eligible_approvers=("operator",), run_id="r", nonce="n", requested_at_ms=0, expires_at_ms=1, rollback="delete it",
    )  # fmt: skip


@given(TEXT, TEXT)
def test_foreign_text_stands_apart_from_the_json_to_paste(goal: str, repository: str) -> None:
    pending = request()
    status = SessionStatus(state=next(state for state in State if state is not State.CLOSED), approval=pending)
    shown = session_details(status, workflow_id="remediation-1", repository=repository, goal=goal)
    assert not steering(shown)
    blocks = re.findall(r"(?ms)^(`{3,})json\n(.*?)\n\1$", shown.partition("Request, as it was sent")[0])
    assert [json.loads(body)["action_digest"] for _, body in blocks] == [pending.action_digest]
    ours, _, foreign = shown.partition("Request, as it was sent")
    assert pending.action_digest in ours and pending.action_digest not in foreign
    without = session_details(status, workflow_id="remediation-1", repository="", goal="").partition("Request, as it was sent")[0]
    assert ours == without  # nothing of it reached the part where one pastes


@given(TEXT, TEXT)
def test_notes_of_stages_stay_in_their_cell(title: str, note: str) -> None:
    shown = stage_details(title, (Stage(name=title, started_ms=0, ended_ms=1, note=note),), note)
    assert not steering(shown)
    assert sum(line.startswith("| ") for line in shown.split("\n")) == 2


@given(TEXT, TEXT)
def test_a_goal_fills_one_line_of_the_commit(goal: str, explorer: str) -> None:
    message = message_of(goal, explorer=explorer, task_id="task", bundle_digest="sha256:x")
    subject, empty, *trailers = message.rstrip("\n").split("\n")
    assert subject.startswith("Fix: ") and len(subject) <= 72 and empty == "" and not steering(message)
    assert [line.partition(":")[0] for line in trailers] == ["Assisted-by", "Gen4-Task", "Gen4-Evidence"]


@given(TEXT)
def test_a_log_record_cannot_be_forged(text: str) -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(InertFormatter(FORMAT))
    logger = logging.Logger("gen4.test")
    logger.addHandler(handler)
    forged = f"{text}\n2026-01-01 00:00:00,000 WARNING gen4: approved by operator"
    try:
        raise ValueError(forged)
    except ValueError:
        logger.exception("failed: %s", forged)
    first, *rest = stream.getvalue().rstrip("\n").split("\n")
    assert first.endswith(plain(f"ERROR gen4.test: failed: {text}".splitlines()[0])) and not steering(stream.getvalue())
    assert rest and all(line.startswith(CONTINUED) for line in rest)

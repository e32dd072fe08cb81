"""What may arrive at a start form or as a signal: anything. Nothing of it hangs or kills a workflow (temporal §1.2, §2.1)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from temporalio.api.common.v1 import Payload as RawPayload
from temporalio.api.sdk.v1 import WorkflowMetadata
from temporalio.common import RawValue

from schemas.request import Rejection
from schemas.session import State
from tests.workflows.harness import Fabric

Make = Callable[..., Path]


def raw(data: bytes, encoding: str = "json/plain") -> RawValue:
    """These very bytes, which no encoder of ours would write."""
    return RawValue(RawPayload(metadata={"encoding": encoding.encode()}, data=data))


VALID = {"repository": "/somewhere", "goal": "x"}


@pytest.mark.parametrize(
    ("kind", "arguments", "fragment"),
    [
        ("Remediation", (), "no input"),
        ("Remediation", (None,), "no input"),
        ("Remediation", ("text",), "RemediationRequest"),
        ("Remediation", (7,), "RemediationRequest"),
        ("Remediation", ([],), "RemediationRequest"),
        ("Remediation", ({},), "repository"),
        ("Remediation", ({"repository": "/r"},), "goal"),
        ("Remediation", ({**VALID, "goal": ""},), "goal"),
        ("Remediation", ({**VALID, "colour": "red"},), "colour"),
        ("Remediation", (raw(b'{"repository": "/r", "goal": "x", "\\ud800": 1}'),), "RemediationRequest"),
        ("Remediation", (raw(b'{"repository": '),), "RemediationRequest"),
        ("Remediation", (raw(b"{}", "binary/unheard-of"),), "RemediationRequest"),
        ("Compile", (raw(b"\xff"),), "CompileRequest"),
        ("Remediation", ({**VALID, "candidates": 99},), "candidates"),
        ("Remediation", ({**VALID, "release": {"mode": "yolo"}},), "release.mode"),
        ("Remediation", (VALID, VALID), "2 inputs"),
        ("Remediation", (VALID, VALID, VALID), "3 inputs"),
        ("Remediation", ({**VALID, "test_command": ["make", "test"]},), "test_command"),
        ("Remediation", ({**VALID, "test_command": ["pytest", "&&", "ls"]},), "test_command"),
        ("Remediation", (VALID,), "REPOSITORY_OUTSIDE_ROOTS"),
        ("Remediation", ({**VALID, "repository": "relative"},), "REPOSITORY_INVALID"),
        ("Remediation", ({**VALID, "repository": "ext::sh -c touch% /tmp/x"},), "REPOSITORY_INVALID"),
        ("Remediation", ({**VALID, "repository": "file:///etc"},), "REPOSITORY_INVALID"),
        ("Remediation", ({**VALID, "repository": "https://user:secret@git.example/x"},), "REPOSITORY_CREDENTIALS"),
        ("Remediation", ({**VALID, "repository": "https://git.example/x"},), "REPOSITORY_HOST"),
        ("Compile", (), "no input"),
        ("Compile", ({"repository": "/r"},), "patch"),
        ("Compile", ({"repository": "/r", "patch": "x", "patch_ref": {"sha256": "0" * 64, "size": 1}},), "exactly one"),
        ("Compile", ({"repository": "/r", "patch": "x", "test_command": ["ls"]},), "test_command"),
        ("Compile", ({"repository": "/r", "patch": "x"},), "REPOSITORY_OUTSIDE_ROOTS"),
        ("Explore", (VALID,), "Remediation"),
        ("Release", ({},), "Remediation"),
    ],
)
def test_a_bad_start_fails_at_once_and_says_what_to_send(
    fabric: Fabric, kind: str, arguments: tuple[Any, ...], fragment: str
) -> None:
    failure = fabric.failure(fabric.start(*arguments, kind=kind))
    assert (failure.type, failure.non_retryable) == ("InvalidInput", True)
    assert fragment in failure.message
    assert "secret" not in failure.message


def test_a_link_out_of_the_roots_is_refused(fabric: Fabric, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    link = fabric.repositories / "link"
    link.symlink_to(tmp_path / "elsewhere")
    failure = fabric.failure(fabric.start({"repository": str(link), "goal": "x"}))
    assert "REPOSITORY_OUTSIDE_ROOTS" in failure.message
    why = Rejection.model_validate(failure.details[0])
    assert why.codes == ("REPOSITORY_OUTSIDE_ROOTS",) and why.remedy in failure.message


MALFORMED: list[tuple[str, tuple[Any, ...], str]] = [
    ("approve", (), "MALFORMED"),
    ("approve", (None,), "MALFORMED"),
    ("approve", ("yes",), "MALFORMED"),
    ("approve", (["yes"],), "MALFORMED"),
    ("approve", (1.5,), "MALFORMED"),
    ("approve", ({},), "MALFORMED"),
    ("approve", ({}, {}), "MALFORMED"),
    ("approve", ({"approval_id": "x", "action_digest": "sha256:abc"},), "MALFORMED"),
    ("approve", ({"approval_id": "x", "action_digest": "sha256:" + "0" * 64, "role": "admin"},), "MALFORMED"),
    ("approve", (raw(b'{"approval_id": "x", "\\ud800": 1}'),), "MALFORMED"),
    ("approve", (raw(b'{"approval_id": "x", "reason": "\\ud800"}'),), "MALFORMED"),
    ("approve", (raw(b'{"approval_id": '),), "MALFORMED"),
    ("approve", (raw(b"{}", "binary/unheard-of"),), "MALFORMED"),
    ("reject", ("no",), "MALFORMED"),
    ("revise", ({"reason": "better"},), "UNKNOWN_SIGNAL"),
    ("take_over", (), "UNKNOWN_SIGNAL"),
    ("approve", ({"approval_id": "x", "action_digest": "sha256:" + "0" * 64},), "UNKNOWN_APPROVAL"),
]


def test_malformed_signals_are_recorded_and_the_session_goes_on(fabric: Fabric, repository: Make) -> None:
    handle = fabric.start({"repository": str(repository()), "goal": "the answer is wrong"})
    pending = fabric.pending(handle)
    for name, arguments, _ in MALFORMED:
        fabric.signal(handle, name, *arguments)
    expected = [code for _, _, code in MALFORMED]
    assert fabric.refused(handle, len(expected)) == expected
    recorded = [item["ruling"]["refusal"]["code"] for item in fabric.payloads(handle, "approval.refused")]
    assert recorded == expected
    fabric.signal(handle, "approve", fabric.decision(pending))
    assert fabric.result(handle).outcome == "merged"


def test_signals_before_anything_is_asked_are_kept_and_judged_later(fabric: Fabric, repository: Make) -> None:
    handle = fabric.start({"repository": str(repository()), "goal": "the answer is wrong"})
    fabric.signal(handle, "approve", {"approval_id": "early", "action_digest": "sha256:" + "0" * 64})
    fabric.pending(handle)
    assert fabric.refused(handle, 1) == ["UNKNOWN_APPROVAL"]
    fabric.run(handle.cancel())
    fabric.ended(handle)


def test_the_menus_of_the_ui_say_what_to_send(fabric: Fabric, repository: Make) -> None:
    handle = fabric.start({"repository": str(repository()), "goal": "`</script>` ```\n# Approve\n\x1b[31mred\u202e"})
    pending = fabric.pending(handle)
    metadata = fabric.run(handle.query("__temporal_workflow_metadata", result_type=WorkflowMetadata))
    signals = {item.name: item.description for item in metadata.definition.signal_definitions}
    assert signals.keys() >= {"approve", "reject"}
    assert '"action_digest"' in signals["approve"]
    details = metadata.current_details
    assert f"gen4 approve {handle.id} --digest {pending.action_digest}" in details
    assert pending.action_digest in details.split("```json")[1].split("```")[0]
    assert "\x1b" not in details and "\u202e" not in details
    assert details.index("Approve it") < details.index("</script>"), "foreign text comes after what is to be pasted"
    assert fabric.run(handle.query("pending_approvals"))[0]["approval_id"] == pending.approval_id
    fabric.run(handle.cancel())
    fabric.ended(handle)
    assert fabric.status(handle).state is State.CLOSED

"""The door for decisions is total, and what is signed covers everything but the signature."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.approval import REFUSALS, Action, ApprovalRequest, Decision, Refusal, parse_decision, precheck, signed_bytes

SHA = "sha256:" + "a" * 64
ACTION = Action(
    repository="/r", target_ref="refs/heads/gen4/x", expected_head="0" * 40, commit_id="1" * 40, result_tree="2" * 40,
    bundle_digest=SHA, stamp_sha256="b" * 64, policy_digest=SHA, approvers_digest=SHA, tenant_id="local", session_id="s",
    mode="branch", revert="delete-branch",
)  # fmt: skip
REQUEST = ApprovalRequest(
    approval_id="id", action=ACTION, action_digest=ACTION.digest, stamp_id="stm", fix="complete", requester_id="r",
    eligible_approvers=("a",), run_id="run", nonce="n", requested_at_ms=1_000, expires_at_ms=2_000, rollback="delete it",
)  # fmt: skip
GOOD = {"approval_id": "id", "action_digest": ACTION.digest}

json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters(), max_size=8), inner, max_size=4),
    max_leaves=12,
)
near_misses = st.fixed_dictionaries({}, optional=dict.fromkeys([*Decision.model_fields, "role", "\ud800"], json_values))


@given(json_values | near_misses, st.lists(json_values, max_size=2))
def test_any_payload_gives_a_decision_or_a_refusal_that_can_be_sent_on(payload: Any, extra: list[Any]) -> None:
    parsed = parse_decision(payload, tuple(extra))
    assert isinstance(parsed, Decision | Refusal)
    parsed.model_dump_json().encode()


def test_what_a_captain_sends_is_read() -> None:
    parsed = parse_decision({**GOOD, "reason": "ok", "argument_pins": {"mode": "branch"}, "signature": "s"}, ())
    assert isinstance(parsed, Decision)


@pytest.mark.parametrize("digest", ["", "sha256:abc", "a" * 64, SHA.upper(), SHA[:-1], SHA + "0", " " + SHA, SHA + "\n"])
def test_only_all_64_digits_are_a_digest(digest: str) -> None:
    refused = parse_decision({**GOOD, "action_digest": digest}, ())
    assert isinstance(refused, Refusal) and refused.code == "MALFORMED"


@pytest.mark.parametrize(
    ("change", "decision", "now_ms", "code"),
    [
        ({}, {"approval_id": "other"}, 1_500, "UNKNOWN_APPROVAL"),
        ({"status": "approved"}, {}, 1_500, "ALREADY_FINAL"),
        ({"status": "redeemed"}, {}, 1_500, "ALREADY_FINAL"),
        ({"status": "expired"}, {}, 1_500, "ALREADY_FINAL"),
        ({}, {"action_digest": SHA}, 1_500, "DIGEST_MISMATCH"),
        ({}, {}, 2_000, "EXPIRED"),
        ({}, {"argument_pins": {"target_ref": "refs/heads/main"}}, 1_500, "WIDENED"),
        ({}, {"argument_pins": {"unheard": "of"}}, 1_500, "WIDENED"),
        ({}, {"argument_pins": {"mode": "branch"}}, 1_999, None),
        ({}, {}, 1_500, None),
    ],
)
def test_what_needs_no_key_is_checked_first(
    change: dict[str, Any], decision: dict[str, Any], now_ms: int, code: str | None
) -> None:
    refused = precheck(REQUEST.model_copy(update=change), Decision.model_validate({**GOOD, **decision}), now_ms)
    assert (refused.code if refused else None) == code


@given(st.sampled_from(sorted(Action.model_fields)), st.text(min_size=1, max_size=8))
def test_every_field_of_the_action_is_in_its_digest(field: str, value: str) -> None:
    changed = ACTION.model_copy(update={field: value})
    assert (changed.digest == ACTION.digest) == (getattr(ACTION, field) == value)


def test_the_signature_covers_the_whole_decision_object() -> None:
    base = signed_bytes(REQUEST, "approve", "", {})
    others = [
        signed_bytes(REQUEST, "reject", "", {}),
        signed_bytes(REQUEST, "approve", "because", {}),
        signed_bytes(REQUEST, "approve", "", {"mode": "branch"}),
        *(
            signed_bytes(REQUEST.model_copy(update=change), "approve", "", {})
            for change in (
                {"approval_id": "x"}, {"action_digest": SHA}, {"nonce": "x"}, {"run_id": "x"}, {"expires_at_ms": 3},
                {"action": ACTION.model_copy(update={"tenant_id": "x"})},
            )
        ),
    ]  # fmt: skip
    assert len({base, *others}) == 1 + len(others)


def test_every_refusal_has_a_remedy_and_is_used_somewhere() -> None:
    root = Path(__file__).resolve().parents[2]
    sources = [path.read_text() for layer in ("schemas", "activities", "workflows") for path in (root / layer).rglob("*.py")]
    for code, remedy in REFUSALS.items():
        assert len(remedy) > 10
        assert sum(len(re.findall(rf'"{code}"', source)) for source in sources) > 1, f"{code} is never given"

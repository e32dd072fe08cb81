"""What is signed and decided carries whole digests that cover everything they stand for (rows 1.3, 1.4, 5.2, 6.1, 6.2)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from activities.record.approvals import Approvals
from activities.record.store import Store, TenantStore
from cli.local import LocalStore
from schemas.approval import Action, ApprovalRequest, Decision, Refusal, parse_decision, signed_bytes
from schemas.error import InputError
from schemas.evidence import BUILDER_ID
from schemas.task import TraceKeys
from tests.record.templates import new_sqlite
from tests.threats.test_foreign_text import request

ROOT = Path(__file__).resolve().parents[2]
KEYS = TraceKeys(tenant_id="t", trace_id="trace", session_id="s", task_id="task")


def other(value: object) -> object:
    """Something else of the same shape."""
    text = str(value)
    return {"branch": "merge", "deliver": "revert"}.get(text, text[:-1] + ("0" if text[-1] != "0" else "1"))


@pytest.mark.parametrize("field", [name for name in Action.model_fields if name != "verb"])
def test_every_field_of_an_action_is_in_its_digest(field: str) -> None:
    action = request().action
    changed = Action.model_validate({**action.model_dump(), field: other(getattr(action, field))})
    assert changed.digest != action.digest


def test_a_stamp_made_anew_is_another_action() -> None:
    action = request().action
    assert {"stamp_sha256", "bundle_digest", "policy_digest", "approvers_digest"} <= set(Action.model_fields)
    assert action.model_copy(update={"stamp_sha256": "0" * 64}).digest != action.digest


@pytest.mark.parametrize(
    "change",
    [{"approval_id": "x"}, {"action_digest": "sha256:" + "0" * 64}, {"nonce": "x"}, {"run_id": "x"}, {"expires_at_ms": 7}],
)
def test_every_field_of_a_decision_is_signed(change: dict[str, Any]) -> None:
    asked: ApprovalRequest = request()
    usual = signed_bytes(asked, "approve", "why", {"mode": "branch"})
    assert signed_bytes(asked.model_copy(update=change), "approve", "why", {"mode": "branch"}) != usual
    assert signed_bytes(asked, "reject", "why", {"mode": "branch"}) != usual
    assert signed_bytes(asked, "approve", "because", {"mode": "branch"}) != usual
    assert signed_bytes(asked, "approve", "why", {}) != usual
    elsewhere = asked.model_copy(update={"action": asked.action.model_copy(update={"tenant_id": "x"})})
    assert signed_bytes(elsewhere, "approve", "why", {"mode": "branch"}) != usual


@pytest.mark.parametrize("length", [0, 12, 63, 65])
def test_a_decision_carries_all_64_digits(length: int) -> None:
    parsed = parse_decision({"approval_id": "id", "action_digest": "sha256:" + "a" * length}, ())
    assert isinstance(parsed, Refusal) and parsed.code == "MALFORMED"
    assert isinstance(parse_decision({"approval_id": "id", "action_digest": "sha256:" + "a" * 64}, ()), Decision)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[TenantStore]:
    opened = Store.open(new_sqlite(tmp_path / "store.db"))
    yield opened.tenant("t")
    opened.close()


def test_a_prefix_that_two_requests_share_finds_none(store: TenantStore) -> None:
    first = request()
    digests = ["sha256:" + "abcdef123456" + digit * 52 for digit in "01"]
    for number, digest in enumerate(digests):
        Approvals(store).put(first.model_copy(update={"approval_id": f"id-{number}", "action_digest": digest}), KEYS)
    local = cast(LocalStore, SimpleNamespace(store=store, tenant_id="t"))
    with pytest.raises(InputError, match="2 pending requests match"):
        LocalStore.find_approval(local, "abcdef123456")
    assert LocalStore.find_approval(local, digests[1].removeprefix("sha256:")).approval_id == "id-1"
    with pytest.raises(InputError, match="DIGEST_PREFIX"):
        LocalStore.find_approval(local, "abcdef12345")


def test_embedded_mode_claims_no_isolation_and_the_docs_say_what_it_is() -> None:
    assert BUILDER_ID.endswith("/embedded")
    said = " ".join((ROOT / "docs" / "architecture.md").read_text().split())
    for sentence in (
        "Whoever can open the Docker socket is root",
        "an approval confirms intent, not separation of duty",
        "It guards against flakes and drift, not against a hostile patch",
        "Verdicts are tamper-evident, not unforgeable",
    ):
        assert sentence in said, sentence

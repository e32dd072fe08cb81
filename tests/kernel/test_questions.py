"""What the gate remembers of the policy's answers: the same question for a moment, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from activities.kernel.questions import MEMO_MS, PhaseQuestions
from schemas.capabilities import FETCH_SOURCE
from schemas.error import InfrastructureError
from schemas.policy import PolicyDecision
from tests.kernel.test_admission import GOOD, ROW, decision


@dataclass
class Counting:
    """Answers with what it was told to, and counts."""

    answer: str = "allow"
    policy_digest: str = "sha256:" + "0" * 64
    asked: list[Mapping[str, Any]] = field(default_factory=list)
    down: bool = False

    def decide(self, package: str, question: Mapping[str, Any]) -> PolicyDecision:
        if self.down:
            raise InfrastructureError("POLICY_UNAVAILABLE", "nobody answers")
        self.asked.append(question)
        return decision(self.answer)


@dataclass
class Clock:
    now: float = 100.0

    def __call__(self) -> float:
        return self.now


def test_the_same_question_is_answered_once_for_a_moment() -> None:
    policy, clock = Counting(), Clock()
    questions = PhaseQuestions(policy, clock)
    assert questions.remembered(GOOD) is None
    assert questions.ask(GOOD).decision == "allow"
    assert questions.remembered(GOOD) is not None and len(policy.asked) == 1
    clock.now += MEMO_MS / 1000
    assert questions.remembered(GOOD) is None


@pytest.mark.parametrize(
    "other",
    [
        replace(GOOD, activity_type=FETCH_SOURCE.id, capability=FETCH_SOURCE),
        replace(GOOD, parent_phase="control"),
        replace(GOOD, row=ROW.model_copy(update={"phase": "release"})),
        replace(GOOD, row=ROW.model_copy(update={"role": "verifier"})),
    ],
)
def test_another_question_is_asked(other: Any) -> None:
    questions = PhaseQuestions(Counting(), Clock())
    questions.ask(GOOD)
    assert questions.remembered(other) is None


def test_another_policy_is_asked() -> None:
    policy = Counting()
    questions = PhaseQuestions(policy, Clock())
    questions.ask(GOOD)
    policy.policy_digest = "sha256:" + "1" * 64
    assert questions.remembered(GOOD) is None


def test_an_engine_that_is_down_is_an_outage_and_is_not_remembered() -> None:
    policy = Counting(down=True)
    questions = PhaseQuestions(policy, Clock())
    with pytest.raises(InfrastructureError, match="POLICY_UNAVAILABLE"):
        questions.ask(GOOD)
    assert questions.remembered(GOOD) is None


def test_a_denial_is_remembered_as_such() -> None:
    questions = PhaseQuestions(Counting(answer="deny"), Clock())
    questions.ask(GOOD)
    known = questions.remembered(GOOD)
    assert known is not None and known.decision == "deny"

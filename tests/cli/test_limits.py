"""``--limits`` of ``gen4 remediate`` and ``gen4 compile`` as people write it."""

from __future__ import annotations

import pytest

from cli.remediate import limits_of
from schemas.error import InputError
from schemas.limits import LimitRequest


def test_what_is_written_is_asked_for_and_the_rest_is_left_to_policy() -> None:
    assert limits_of("") == LimitRequest()
    assert limits_of("memory_mb=4096, cpu_percent=200") == LimitRequest(memory_mb=4_096, cpu_percent=200)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("much", "LIMIT_SYNTAX"), ("memory_mb=", "LIMIT_SYNTAX"), ("memory_mb=-1", "LIMIT_SYNTAX"),
        ("pids=1,pids=2", "LIMIT_SYNTAX"),
        ("memory_mb=1e3", "LIMIT_SYNTAX"), ("memory_mb=٣", "LIMIT_SYNTAX"), ("memory=1", "INVALID_INPUT"),
        ("memory_mb=0", "INVALID_INPUT"), ("memory_mb=9007199254740992", "INVALID_INPUT"),
    ],
)  # fmt: skip
def test_what_is_no_limit_is_refused_before_anything_starts(text: str, code: str) -> None:
    with pytest.raises(InputError) as refused:
        limits_of(text)
    assert refused.value.code == code and refused.value.remedy

"""The host reads the runner's lines strictly: whatever else arrives is a broken harness, never a result."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from activities.testbed.protocol import HarnessBroken, read_report

END = {
    "kind": "end", "codes": [], "message": "", "runner": "pytest 9", "exit_code": 0, "outcomes": 1, "children": 1, "tail": "",
    "sentinels": {"planted": 2, "caught": 2}, "network": [],
}  # fmt: skip
PASSED = {"kind": "outcome", "id": "a::b", "outcome": "passed"}


def lines(*values: Any) -> list[bytes]:
    return [value if isinstance(value, bytes) else json.dumps(value).encode() for value in values]


def test_a_whole_report() -> None:
    report = read_report(lines(PASSED, {"kind": "worse", "id": "a::b", "outcome": "error"}, END))
    assert (report.outcomes, report.ended, report.runner) == ({"a::b": "error"}, True, "pytest 9")


def test_a_stream_that_stops_has_no_end() -> None:
    assert not read_report(lines(PASSED)).ended


@pytest.mark.parametrize(
    ("stream", "reason"),
    [
        ([END | {"outcomes": 0}, END | {"outcomes": 0}], "after the end"),
        ([PASSED, END, PASSED], "after the end"),
        ([{"kind": "verdict"}], "unknown kind"),
        ([b"PASSED"], "not JSON"),
        ([b'{"kind":"end","kind":"end"}'], "duplicate"),
        ([b'{"kind":"outcome","id":"\\udc80","outcome":"passed"}'], "surrogate"),
        ([b"[]"], "without a kind"),
        ([{"kind": 1}], "without a kind"),
        ([PASSED, PASSED], "two outcomes"),
        ([{"kind": "worse", "id": "a", "outcome": "failed"}], "never reported"),
        ([{"kind": "outcome", "id": "a", "outcome": "PASSED"}], "unknown outcome"),
        ([{"kind": "outcome", "id": "a", "outcome": ["passed"]}], "unknown outcome"),
        ([{"kind": "outcome", "id": "", "outcome": "passed"}], "without a test id"),
        ([{"kind": "outcome", "outcome": "passed"}], "without a test id"),
        ([END], "0 outcomes where 1"),
        ([PASSED, {key: value for key, value in END.items() if key != "codes"}], "without codes"),
        ([PASSED, END | {"exit_code": True}], "without exit_code"),
        ([PASSED, END | {"codes": [1]}], "no text"),
    ],
)
def test_everything_else_is_broken(stream: list[Any], reason: str) -> None:
    with pytest.raises(HarnessBroken, match=reason):
        read_report(lines(*stream))


@given(
    st.lists(
        st.one_of(st.binary(max_size=60), st.sampled_from(lines(PASSED, END, {"kind": "detail", "id": "a", "text": "x"}))),
        max_size=6,
    )
)
def test_any_bytes_are_a_report_or_broken(stream: list[bytes]) -> None:
    try:
        report = read_report(stream)
    except HarnessBroken:
        return
    assert not report.ended or stream[-1] == lines(END)[0]

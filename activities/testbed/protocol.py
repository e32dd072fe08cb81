"""What the runner may say: its JSON lines are read strictly, because foreign code shares its sandbox."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, cast, get_args

from schemas.canonical import StrictJsonError, strict_json
from schemas.testing import Outcomes, TestOutcome

_OUTCOMES = frozenset(get_args(TestOutcome))
_MAX_ID = 16_384
_END_FIELDS = {"codes": list, "message": str, "runner": str, "exit_code": int, "outcomes": int, "children": int, "tail": str}


class HarnessBroken(ValueError):
    """The lines are not those of our runner."""


@dataclass
class Report:
    """A run as reported. ``ended`` is False when the stream stopped before its end line."""

    outcomes: Outcomes = field(default_factory=dict)
    details: dict[str, str] = field(default_factory=dict)
    """Why some tests failed, as pytest shows it; text of foreign origin."""
    codes: tuple[str, ...] = ()
    message: str = ""
    runner: str = ""
    exit_code: int = -1
    children: int = 0
    planted: int = 0
    """Sentinels: tests of the runner's own that had to fail."""
    caught: int = 0
    tail: str = ""
    ended: bool = False


def parse_line(line: bytes) -> dict[str, Any]:
    """One line as an object with ``kind``.

    Raises:
        HarnessBroken: not strict JSON, not an object, or without a kind.
    """
    try:
        value = strict_json(line)
    except StrictJsonError as error:
        raise HarnessBroken(f"a line that is not JSON: {error.reason}") from error
    if not isinstance(value, dict) or not isinstance(value.get("kind"), str):
        raise HarnessBroken("a line without a kind")
    return value


def read_report(lines: Iterable[bytes]) -> Report:
    """All lines of mode ``tests``.

    Raises:
        HarnessBroken: an unknown kind, a result twice, anything after the end, a wrong count.
    """
    report = Report()
    for line in lines:
        if report.ended:
            raise HarnessBroken("a line after the end")
        _take(report, parse_line(line))
    return report


def _take(report: Report, line: dict[str, Any]) -> None:
    kind = line["kind"]
    if kind == "outcome":
        nodeid, outcome = _nodeid(line), _outcome(line)
        if nodeid in report.outcomes:
            raise HarnessBroken("two outcomes of one test")
        report.outcomes[nodeid] = outcome
    elif kind == "worse":
        nodeid = _nodeid(line)
        if nodeid not in report.outcomes:
            raise HarnessBroken("an outcome changed that was never reported")
        report.outcomes[nodeid] = _outcome(line)
    elif kind == "detail":
        if not isinstance(line.get("text"), str):
            raise HarnessBroken("a detail without text")
        report.details[_nodeid(line)] = line["text"]
    elif kind == "end":
        _end(report, line)
    else:
        raise HarnessBroken(f"an unknown kind of line, {kind[:40]!r}")


def _nodeid(line: dict[str, Any]) -> str:
    nodeid = line.get("id")
    if not isinstance(nodeid, str) or not 0 < len(nodeid) <= _MAX_ID:
        raise HarnessBroken("a line without a test id")
    return nodeid


def _outcome(line: dict[str, Any]) -> TestOutcome:
    outcome = line.get("outcome")
    if not isinstance(outcome, str) or outcome not in _OUTCOMES:
        raise HarnessBroken("an unknown outcome")
    return cast(TestOutcome, outcome)


def _end(report: Report, line: dict[str, Any]) -> None:
    for name, kind in _END_FIELDS.items():
        if type(line.get(name)) is not kind:
            raise HarnessBroken(f"an end without {name}")
    if not all(isinstance(code, str) for code in line["codes"]):
        raise HarnessBroken("a code that is no text")
    if line["outcomes"] != len(report.outcomes):
        raise HarnessBroken(f"{len(report.outcomes)} outcomes where {line['outcomes']} were announced")
    report.codes, report.message, report.runner = tuple(line["codes"]), line["message"], line["runner"]
    report.exit_code, report.children, report.tail = line["exit_code"], line["children"], line["tail"]
    report.ended = True

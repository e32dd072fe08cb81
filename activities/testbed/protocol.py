"""What the runner may say: its JSON lines are read strictly, because foreign code shares its sandbox."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, cast, get_args

from schemas.canonical import StrictJsonError, strict_json
from schemas.testing import Coverage, Outcomes, TestOutcome

_OUTCOMES = frozenset(get_args(TestOutcome))
_MAX_ID = 16_384
_MAX_LINE = 10_000_000
_MAX_LINES = 5_000_000
"""Of all files together."""
_LONGEST_US = 10**10
_MAX_SENTINELS = 1_000
_END_FIELDS = {
    "codes": list, "message": str, "runner": str, "exit_code": int, "outcomes": int, "children": int, "tail": str,
    "sentinels": dict, "network": list,
}  # fmt: skip


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
    network: tuple[str, ...] = ()
    """Tests that tried to reach the network."""
    coverage: Coverage | None = None
    timings: dict[str, int] | None = None
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
    report, coverage, timings = Report(), _CoverageLines(), dict[str, int]()
    for line in lines:
        if report.ended:
            raise HarnessBroken("a line after the end")
        value = parse_line(line)
        if value["kind"] == "coverage":
            coverage.take(value)
        elif value["kind"] == "timings":
            _timings(timings, value)
        else:
            _take(report, value)
            if report.ended and value.get("measured") is not None:
                _check_measured(value["measured"], coverage.files, timings)
                report.coverage, report.timings = coverage.files, timings
    return report


class _CoverageLines:
    def __init__(self) -> None:
        self.files: Coverage = {}
        self._left = _MAX_LINES

    def take(self, value: dict[str, Any]) -> None:
        path = value.get("path")
        if not isinstance(path, str) or not 0 < len(path) <= _MAX_ID or path in self.files or not _inside(path):
            raise HarnessBroken("coverage of no file of the tree")
        lines = self._numbers(value.get("lines"))
        covered = self._numbers(value.get("covered"))
        if not set(covered) <= set(lines):
            raise HarnessBroken("coverage of lines that a file does not have")
        self.files[path] = {"lines": lines, "covered": covered}

    def _numbers(self, text: Any) -> list[int]:
        found: list[int] = []
        for first, last in _spans(text):
            self._left -= last - first + 1
            if not (found[-1] if found else 0) < first <= last <= _MAX_LINE or self._left < 0:
                raise HarnessBroken("line numbers out of order or too many")
            found.extend(range(first, last + 1))
        return found


def _spans(text: Any) -> Iterator[tuple[int, int]]:
    if not isinstance(text, str):
        raise HarnessBroken("coverage without lines")
    for part in text.split(",") if text else ():
        first, dash, last = part.partition("-")
        if not first.isascii() or not first.isdigit() or (dash and not (last.isascii() and last.isdigit())):
            raise HarnessBroken("line numbers that are none")
        if max(len(first), len(last)) > 8:
            raise HarnessBroken("line numbers out of order or too many")
        yield int(first), int(last if dash else first)


def _inside(path: str) -> bool:
    return "\0" not in path and all(part not in ("", ".", "..") for part in path.split("/"))


def _timings(timings: dict[str, int], value: dict[str, Any]) -> None:
    found = value.get("us")
    if not isinstance(found, dict):
        raise HarnessBroken("timings without times")
    for nodeid, microseconds in found.items():
        if nodeid in timings or type(microseconds) is not int or not 0 <= microseconds <= _LONGEST_US:
            raise HarnessBroken("a time that is none")
        timings[nodeid] = microseconds


def _check_measured(announced: Any, files: Coverage, timings: dict[str, int]) -> None:
    if announced != {"files": len(files), "timings": len(timings)}:
        raise HarnessBroken("measurements are missing, or more than announced")


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
    sentinels = line["sentinels"]
    if set(sentinels) != {"planted", "caught"} or not all(type(count) is int for count in sentinels.values()):
        raise HarnessBroken("an end without sentinels")
    if not 0 <= sentinels["caught"] <= sentinels["planted"] <= _MAX_SENTINELS:
        raise HarnessBroken("counts of sentinels that cannot be")
    if not all(nodeid in report.outcomes for nodeid in line["network"]):
        raise HarnessBroken("an attempt of a test that has no outcome")
    report.planted, report.caught = sentinels["planted"], sentinels["caught"]
    report.network = tuple(sorted(line["network"]))
    report.codes, report.message, report.runner = tuple(line["codes"]), line["message"], line["runner"]
    report.exit_code, report.children, report.tail = line["exit_code"], line["children"], line["tail"]
    report.ended = True

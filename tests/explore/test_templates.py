"""Templates: what they offer for one statement, and what holds for everything that they offer."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from activities.explore.space import Space
from activities.explore.splice import Splices, whole_compiles
from activities.explore.templates import Edit, Module, UnreadableSource, edits_of_statement, template_names
from activities.explore.templates.formatting import replacement_fields
from activities.explore.templates.proposing import minimal
from schemas.candidate import Suspect
from tests.explore.bed import EXAMPLES

SAMPLE = '''\
"""Doc — with ünïcode."""
import math

LIMIT = 10


class Büchse:
    """Holds."""

    size: int = 3

    def __init__(self, items=None, *, strict=True):
        self.items = items or []
        self.strict = strict

    @property
    def first(self):
        return self.items[0] if self.items else None  # “first”

    def pick(self, index, default=''):
        if index < 0 or index >= len(self.items):
            return default
        total = 0
        for position, item in enumerate(self.items[1:]):
            if item is None:
                continue
            total += item * 2 - 1
            try:
                total = math.floor(total / (position + 1))
            except ZeroDivisionError:
                raise ValueError("näin", total)
        assert total != LIMIT, f"{total!r:>4} is {{odd}} {self.first if total > 1 else 'x'}"
        return max(total, index), [value for value in self.items if not value]
'''


def every_edit(data: bytes) -> list[Edit]:
    module = Module("m.py", data)
    return [edit for statement in module.statements() for edit in edits_of_statement(module, statement)]


def results(source: str, line: int = 1, template: str = "") -> set[str]:
    """Sources that the templates make of the statement at ``line``, with what does not compile left out."""
    module = Module("m.py", source.encode())
    found = set()
    for statement in module.statements():
        if statement.lineno == line:
            for edit in edits_of_statement(module, statement):
                if (not template or edit.template == template) and whole_compiles(edit.apply(module.data)):
                    found.add(edit.apply(module.data).decode())
    return found


@pytest.mark.parametrize(
    ("source", "line", "expected"),
    [
        ("ok = a < b\n", 1, "ok = a <= b\n"),
        ("ok = a  is  not b\n", 1, "ok = a  is b\n"),
        ("ok = a not in b\n", 1, "ok = a in b\n"),
        ("ok = a==b\n", 1, "ok = a is b\n"),
        ("ok = a and b or c\n", 1, "ok = a or b or c\n"),
        ("x = a // b\n", 1, "x = a / b\n"),
        ("x = a + b * c\n", 1, "x = (a + b) * c\n"),
        ("x = (a + b) * c\n", 1, "x = a + b * c\n"),
        ("x += 1\n", 1, "x -= 1\n"),
        ("x = 1\n", 1, "x = 2\n"),
        ("x = 0\n", 1, "x = None\n"),
        ("x = True\n", 1, "x = False\n"),
        ("f(a, b)\n", 1, "f(b, a)\n"),
        ("f(a, b)\n", 1, "f(a)\n"),
        ("x = d[k]\n", 1, "x = d.get(k)\n"),
        ("x = d.get(k)\n", 1, "x = d[k]\n"),
        ("x = d.get(k)\n", 1, "x = d.get(k, '')\n"),
        ("x = s.lstrip('a')\n", 1, "x = s.strip('a')\n"),
        ("x = min(a)\n", 1, "x = max(a)\n"),
        ("x = any(a)\n", 1, "x = all(a)\n"),
        ("x = items[a:b]\n", 1, "x = items[a:b + 1]\n"),
        ("x = items[a:]\n", 1, "x = items[:]\n"),
        ("x = items[0]\n", 1, "x = items[-1]\n"),
        ("x = a\n", 1, "x = str(a)\n"),
        ("x = a\n", 1, "x = a or []\n"),
        ("x = a or b\n", 1, "x = a if a is not None else b\n"),
        ("x = a if b else c\n", 1, "x = c if b else a\n"),
        ("if a:\n    b()\n", 1, "if a is not None:\n    b()\n"),
        ("if a:\n    b()\n", 1, "if not a:\n    b()\n"),
        ("if a is None:\n    b()\n", 1, "if not a:\n    b()\n"),
        ("if a:\n    b()\n", 1, "if True:\n    b()\n"),
        ("if isinstance(a, list):\n    b()\n", 1, "if isinstance(a, (list, tuple)):\n    b()\n"),
        ("while a < n:\n    b()\n", 1, "while a < n - 1:\n    b()\n"),
        ("try:\n    a()\nexcept KeyError:\n    b()\n", 1, "try:\n    a()\nexcept (KeyError, IndexError):\n    b()\n"),
        ("try:\n    a()\nexcept KeyError:\n    b()\n", 1, "try:\n    a()\nexcept Exception:\n    b()\n"),
        ("for a in b:\n    if a:\n        break\n", 3, "for a in b:\n    if a:\n        continue\n"),
        ("def f(a, b):\n    return a\n", 2, "def f(a, b):\n    return b\n"),
        ("def f(a):\n    return a\n", 2, "def f(a):\n    return None\n"),
        ("def f(a=None):\n    return a\n", 1, "def f(a=0):\n    return a\n"),
        ("def f(a):\n    g(a)\n    h(a)\n", 2, "def f(a):\n    h(a)\n    g(a)\n"),
        ("def f(a):\n    g(a)\n    h(a)\n", 2, "def f(a):\n    h(a)\n"),
        ("def f(a):\n    g(a)\n", 2, "def f(a):\n    pass\n"),
        ("def f(a):\n    g(a)\n", 2, "def f(a):\n    return g(a)\n"),
        ("def f(a):\n    b = g(a)\n", 2, "def f(a):\n    if a is None:\n        return None\n    b = g(a)\n"),
        ("def f(a):\n    b = g(a)\n", 2, "def f(a):\n    if a:\n        b = g(a)\n"),
        ("def f(a):\n    b = g(a)\n", 2, "def f(a):\n    b = g(a)\n    return b\n"),
        ("def f(s):\n    s.strip()\n    return s\n", 2, "def f(s):\n    s = s.strip()\n    return s\n"),
        ("def f(a):\n    for b in a:\n        g(b)\n        return b\n", 4,
         "def f(a):\n    for b in a:\n        g(b)\n    return b\n"),
        ("def f(a):\n    yield a\n", 2, "def f(a):\n    yield from a\n"),
        ("x = f'{a} b'\n", 1, "x = f'{len(a)} b'\n"),
        ("x = 'é', a < b\n", 1, "x = 'é', a <= b\n"),
        ("class A:\n    def f(self, n):\n        self.n = 1\n        return n\n", 4,
         "class A:\n    def f(self, n):\n        self.n = 1\n        return self.n\n"),
    ],
)  # fmt: skip
def test_a_template_offers(source: str, line: int, expected: str) -> None:
    assert expected in results(source, line)


def test_every_edit_changes_only_its_span_and_almost_all_compile() -> None:
    data = SAMPLE.encode()
    edits = every_edit(data)
    assert len(edits) > 1000
    broken = 0
    for edit in edits:
        result = edit.apply(data)
        assert 0 <= edit.start <= edit.end <= len(data)
        assert result[: edit.start] == data[: edit.start]
        assert result[edit.start + len(edit.text.encode()) :] == data[edit.end :]
        assert result != data
        assert 0 < edit.prior <= 1
        result.decode()
        broken += not whole_compiles(result)
    assert broken / len(edits) < 0.02


def test_every_registered_template_is_exercised_by_some_example() -> None:
    sources = [SAMPLE.encode(), *(path.read_bytes() for path in EXAMPLES.rglob("*.py")), *(path.read_bytes() for path in _ours())]
    assert {edit.template for data in sources for edit in every_edit(data)} == set(template_names())


def _ours() -> list[Path]:
    folder = Path(__file__).parents[2] / "activities" / "explore" / "templates"
    return [folder / name for name in ("source.py", "statements.py", "slices.py", "names.py", "formatting.py", "calls.py")]


def test_the_cheap_compile_check_agrees_with_compiling_the_whole_file() -> None:
    data = SAMPLE.encode()
    splices = Splices()
    for edit in every_edit(data)[::3]:
        assert splices.compiles(data, edit) == whole_compiles(edit.apply(data)), edit


def test_a_result_is_offered_once() -> None:
    data = SAMPLE.encode()
    module = Module("m.py", data)
    for statement in module.statements():
        found = [edit.apply(data) for edit in edits_of_statement(module, statement)]
        assert len(found) - len(set(found)) <= len(found) // 50  # an insertion may be the same before and behind a repeated byte


@settings(max_examples=200)
@given(st.binary(max_size=30).map(lambda raw: raw.decode("utf-8", "ignore")), st.data())
def test_a_minimal_splice_has_the_same_result(text: str, draw: st.DataObject) -> None:
    start = draw.draw(st.integers(0, len(text)))
    end = draw.draw(st.integers(start, len(text)))
    new = draw.draw(st.text(max_size=10))
    data = text.encode()
    span = len(text[:start].encode()), len(text[:end].encode())
    small_start, small_end, small = minimal(data, span, new)
    assert span[0] <= small_start <= small_end <= span[1]
    assert data[:small_start] + small.encode() + data[small_end:] == data[: span[0]] + new.encode() + data[span[1] :]


_NAMES = st.sampled_from(["a", "b", "größe", "self.x", "items[0]", "f(a)", "1", "'é'", "None", "not a", "a + b"])
_CONDITIONS = st.builds("{} {} {}".format, _NAMES, st.sampled_from(["<", ">=", "==", "is", "in", "and", "or", "+", "%"]), _NAMES)
_LINES = st.one_of(
    st.builds("    größe = {}\n".format, _CONDITIONS),
    st.builds("    if {}:\n        return {}\n".format, _CONDITIONS, _NAMES),
    st.builds("    for b in items[{}:]:\n        f({}, {})\n        continue\n".format, _NAMES, _NAMES, _CONDITIONS),
    st.builds("    f(a, {})  # é\n".format, _CONDITIONS),
    st.builds("    return {}\n".format, _CONDITIONS),
)


@settings(max_examples=40, deadline=None)
@given(st.lists(_LINES, min_size=1, max_size=4), st.sampled_from(["\n", "\r\n"]), st.booleans())
def test_edits_of_generated_functions(lines: list[str], newline: str, bom: bool) -> None:
    source = ("def g(self, a, b, items, f):\n" + "".join(lines)).replace("\n", newline)
    data = (b"\xef\xbb\xbf" if bom else b"") + source.encode()
    if not whole_compiles(data):
        return
    edits = every_edit(data)
    for edit in edits[::7]:
        result = edit.apply(data)
        assert result[: edit.start] + data[edit.start : edit.end] + result[edit.start + len(edit.text.encode()) :] == data
        result.decode()
    assert sum(not whole_compiles(edit.apply(data)) for edit in edits[::7]) <= len(edits[::7]) * 0.1 + 2


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ("f'{a}'", ["a"]),
        ("f'{{x}} {a!r:>{width}} {b[1]:.2f}'", ["a", "b[1]"]),
        ("f\"{d['k']} {x != y} {z=}\"", ["d['k']", "x != y", "z"]),
        ("'plain {a}' f'{b}'", ["b"]),
        ("rf'{a}\\d'", ["a"]),
        ("f'''{a}\n{b}'''", ["a", "b"]),
    ],
)
def test_replacement_fields(text: str, fields: list[str]) -> None:
    assert [text[start:end] for start, end in replacement_fields(text)] == fields


def test_docstrings_are_left_alone() -> None:
    module = Module("m.py", b'def f():\n    """Doc."""\n    return 1\n')
    docstring = next(node for node in module.statements() if isinstance(node, ast.Expr))
    assert list(edits_of_statement(module, docstring)) == []


@pytest.mark.parametrize("data", [b"x = (\n", b"# coding: latin-1\nx = '\xe9'\n", b"x = '\xff'\n", b"x = \x00\n"])
def test_unreadable_sources_are_refused(data: bytes) -> None:
    with pytest.raises(UnreadableSource):
        Module("m.py", data)


def suspect(line: int, score: float, path: str = "m.py", covering: tuple[int, ...] = (0,)) -> Suspect:
    return Suspect(path=path, line=line, score=score, failed=1, passed=0, covering=covering)


def test_the_space_is_ordered_repeatable_and_without_repeats() -> None:
    data = SAMPLE.encode()
    suspects = [suspect(21, 1.0), suspect(22, 0.5), suspect(17, 0.2)]
    first = list(Space(suspects, {"m.py": data}.get).ranked())
    again = list(Space(suspects, {"m.py": data}.get).ranked())
    assert first == again
    assert len({(ranked.edit.start, ranked.edit.end, ranked.edit.text) for ranked in first}) == len(first)
    assert [ranked.value for ranked in first] == sorted((ranked.value for ranked in first), reverse=True)
    assert first[0].edit.line == 21


def test_headers_and_constants_inherit_suspicion_but_wait() -> None:
    source = b"LIMIT = 3\n\n\ndef f(a=1):\n    return a < LIMIT\n"
    units = Space([suspect(5, 1.0)], {"m.py": source}.get).units
    assert [(unit.line, unit.score, unit.in_body, unit.covering) for unit in units] == [
        (5, 1.0, True, (0,)), (4, 0.5, False, ()), (1, 0.5, False, ()),
    ]  # fmt: skip


def test_files_that_are_no_product_code_offer_nothing() -> None:
    space = Space([suspect(1, 1.0, "tests/test_m.py"), suspect(1, 1.0, "conftest.py")], lambda path: b"x = 1\n")
    assert space.units == ()


def test_missing_and_broken_files_offer_nothing() -> None:
    space = Space([suspect(1, 1.0, "gone.py"), suspect(1, 1.0, "broken.py")], {"broken.py": b"x = (\n"}.get)
    assert list(space.ranked()) == []

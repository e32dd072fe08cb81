"""The raise probe: touched functions raise, everything else is as patched."""

from __future__ import annotations

import ast
import codecs
import json
import textwrap
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from activities.compile.activities import CompileActivities
from activities.record.blobs import BlobStore
from activities.record.objects import ObjectStore
from activities.testbed.probing import RAISE, probe_source
from schemas.capabilities import ImportPatch
from schemas.task import Source
from tests.testbed.test_importing import EMPTY_TREE

FUNCTION = ast.FunctionDef | ast.AsyncFunctionDef
FRAGMENTS = (
    "x = 1\n",
    "@property\ndef f(self, a: int = 1, *b: 'C', **c) -> dict[str, int]:\n    '''Doc.'''\n    return {a: b}\n",
    "def f(): return 1\n",
    "def f(a=lambda: 0) -> (lambda: 1): pass; return a\n",
    "def f(\n    a,\n    b=(1, 2),\n):  # a comment: with a colon\n    # another\n\n    return a\n",
    "def f(): \\\n    return 'é' + 'ü'\n",
    "async def f():\n\tawait g()\n\tasync with h() as i:\n\t\tyield i\n",
    "def f():\n    @(  # @\n        decorated\n    )\n    def inner():\n        return f\n    return inner\n",
    "def f():\n    global x\n    x = '''a\nb'''\n    return x\n",
    "class K:\n    y: int = 2\n\n    def m(self): return self.y\n\n    class L:\n        async def n(self):\n            'doc'\n",
    "try:\n    def f(): return 'é'\nexcept ImportError:\n    def f():\n        return 2\n",
    "if x:\n    def f():\n        if x: return 1\n        else: return 2\n",
    "match x:\n    case 1:\n        def f():\n            return 1\n    case _:\n        pass\n",
    "f = lambda a: a\n",
)


def text_of(fragments: list[str]) -> str:
    return "".join(fragments)


SOURCES = st.lists(st.sampled_from(FRAGMENTS), max_size=6).map(text_of)


def encoded(text: str, form: str) -> bytes:
    match form:
        case "latin-1":
            return ("# -*- coding: latin-1 -*-\n" + text).encode("latin-1")
        case "bom":
            return codecs.BOM_UTF8 + text.encode()
        case "crlf":
            return text.replace("\n", "\r\n").encode()
        case "cr":
            return text.replace("\n", "\r").encode()
    return text.encode()


def functions(node: ast.AST) -> list[FUNCTION]:
    """Outermost functions, in order."""
    found: list[FUNCTION] = []
    for child in ast.iter_child_nodes(node):
        found += [child] if isinstance(child, FUNCTION) else functions(child)
    return found


def raises(function: FUNCTION) -> bool:
    return ast.unparse(function.body[0]) == ast.unparse(ast.parse(RAISE))


def without_probe(data: bytes) -> str:
    tree = ast.parse(data)
    for function in functions(tree):
        if raises(function):
            del function.body[0]
    return ast.dump(tree)


FORMS = st.sampled_from(["plain", "latin-1", "bom", "crlf", "cr"])


@given(SOURCES, FORMS)
def test_of_a_new_file_every_function_raises_and_nothing_else_changes(text: str, form: str) -> None:
    data = encoded(text, form)
    probed = probe_source(None, data)
    if not functions(ast.parse(data)):
        assert probed is None
        return
    assert probed is not None and without_probe(probed) == ast.dump(ast.parse(data))
    assert all(raises(function) for function in functions(ast.parse(probed)))
    assert probed.startswith(codecs.BOM_UTF8) == (form == "bom")
    assert (b"\n" in probed.replace(b"\r\n", b"")) == (b"\n" in data.replace(b"\r\n", b""))


@given(SOURCES, FORMS)
def test_a_file_that_did_not_change_has_no_touched_function(text: str, form: str) -> None:
    assert probe_source(encoded(text, form), encoded(text, form)) is None


@given(SOURCES, SOURCES, SOURCES, FORMS)
def test_only_functions_that_base_does_not_have_raise(before: str, added: str, after: str, form: str) -> None:
    added = textwrap.indent(added, "    ").replace("'''a\n    b'''", "'c'")
    added = f"class Added:\n    pass\n{added}"
    base, patched = encoded(before + after, form), encoded(before + added + after, form)
    probed = probe_source(base, patched)
    tree = ast.parse(patched)
    new = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "Added")
    assert (probed is None) == (not functions(new))
    if probed is not None:
        touched = [function for function in functions(ast.parse(probed)) if raises(function)]
        assert [function.name for function in touched] == [function.name for function in functions(new)]
        assert without_probe(probed) == ast.dump(tree)


@pytest.mark.parametrize("module", [json, textwrap, codecs, ast], ids=lambda module: module.__name__)
def test_sources_as_people_write_them(module: object) -> None:
    data = Path(str(module.__file__)).read_bytes()  # type: ignore[attr-defined]
    probed = probe_source(None, data)
    assert probed is not None and without_probe(probed) == ast.dump(ast.parse(data))


BASE = b"LIMIT = 1\n\n\ndef f(a):\n    '''Doc.'''\n    return a - LIMIT\n\n\ndef g():\n    return 2\n"


@pytest.mark.parametrize(
    ("patched", "names"),
    [
        (BASE.replace(b"a - LIMIT", b"a + LIMIT"), ["f"]),
        (BASE.replace(b"def f(a)", b"def f(a=1)"), ["f"]),
        (BASE.replace(b"def f(a)", b"@cache\ndef f(a)"), ["f"]),
        (BASE.replace(b"def g", b"def h"), ["h"]),
        (BASE.replace(b"LIMIT = 1", b"LIMIT = 2"), []),
        (BASE.replace(b"'''Doc.'''", b"'''Other.'''"), []),
        (BASE.replace(b"    return 2", b"    # why\n    return  (2)"), []),
        (BASE + BASE[BASE.index(b"def g") :], ["g"]),
        (b"def g():\n    return 2\n\n\n" + BASE[: BASE.index(b"def g")], []),
        (b"class K:\n    def g():\n        return 2\n", ["g"]),
    ],
)
def test_what_counts_as_touched(patched: bytes, names: list[str]) -> None:
    probed = probe_source(BASE, patched)
    found = [] if probed is None else [function.name for function in functions(ast.parse(probed)) if raises(function)]
    assert found == names


@pytest.mark.parametrize(
    "data",
    [
        b"def f(:\n", b"def f():\n\treturn 1\n        return 2\n", b"\0", b"# coding: nonsense\ndef f(): pass\n", b"\xff",
        b"def f(): return " + b"(" * 500 + b")" * 500 + b"\n", b"def f(): pass\n" + b"#" * (1 << 20),
    ],
)  # fmt: skip
def test_a_file_that_python_does_not_read_stays_as_it_is(data: bytes) -> None:
    assert probe_source(None, data) is None
    assert probe_source(data, b"def f(): pass\n") == f"def f(): {RAISE}; pass\n".encode()


def test_the_probe_is_of_the_tree_that_the_tests_run_on(tmp_path: Path, admitted: object) -> None:
    objects, blobs = ObjectStore.open(tmp_path / "objects.git"), BlobStore(tmp_path, "local")
    test = b"def test(): assert False\n"
    base = objects.write_tree(EMPTY_TREE, {"a.py": b"def f(): return 1\n", "test_a.py": test, "run.py": b"x = 1\n"})

    def probed(edits: dict[str, bytes | None]) -> dict[str, bytes] | None:
        source = Source(repository="r", ref="main", base_commit="c0" * 20, base_tree=base, commit_time=1)
        patch = objects.diff(base, objects.write_tree(base, edits)).decode()
        imported = CompileActivities(blobs, objects).import_patch(ImportPatch(source=source, patch=patch))
        if imported.probe_tree is None:
            return None
        changes = objects.changes(imported.harness_tree, imported.probe_tree)
        return {change.path: objects.read(change.new_oid) for change in changes}

    assert probed({"a.py": b"def f(): return 2\n", "test_a.py": b"def test(): pass\n", "run.py": b"x = 2\n"}) == {
        "a.py": f"def f(): {RAISE}; return 2\n".encode()
    }
    assert probed({"run.py": b"x = 2\n", "test_new.py": b"def test_b(): pass\n", "a.py": None}) is None

"""Calls: arguments swapped or dropped, functions of one kind exchanged, lookups with and without a default."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from itertools import pairwise

from activities.explore.templates.proposing import Proposal, template
from activities.explore.templates.source import Module
from activities.explore.templates.tables import siblings

FUNCTION_SIBLINGS = siblings(
    """
min: max
max: min
any: all
all: any
list: tuple set sorted
tuple: list
set: list frozenset
sorted: list reversed
reversed: list sorted
int: float round
float: int
round: int
str: repr
repr: str
type: isinstance
isinstance: issubclass
issubclass: isinstance
range: enumerate
sum: len max
len: sum
ord: chr
chr: ord
hasattr: callable
zip: zip_longest
bytes: bytearray
dict: OrderedDict
filter: map
map: filter
"""
)
_WIDER_TYPES: dict[str, str] = {
    "int": "(int, float)", "float": "(int, float)", "str": "(str, bytes)", "bytes": "(bytes, bytearray)", "list": "(list, tuple)",
    "tuple": "(list, tuple)", "set": "(set, frozenset)", "dict": "(dict, list)",
}  # fmt: skip


@template("call.function", ast.Name)
def replace_function(node: ast.Name, module: Module) -> Iterator[Proposal]:
    for other in FUNCTION_SIBLINGS.get(node.id, ()) if isinstance(node.ctx, ast.Load) else ():
        yield Proposal(module.span(node), other, 0.5)


@template("call.swap", ast.Call, ast.Tuple, ast.List)
def swap_arguments(node: ast.Call | ast.Tuple | ast.List, module: Module) -> Iterator[Proposal]:
    """Adjacent arguments or elements, and the values of adjacent keywords."""
    values = node.args if isinstance(node, ast.Call) else node.elts
    named = [keyword.value for keyword in node.keywords if keyword.arg] if isinstance(node, ast.Call) else []
    pairs = [*pairwise(values), *pairwise(named)]
    if len(values) >= 3:
        pairs.append((values[0], values[-1]))
    if len(pairs) > 12 or (any(isinstance(value, ast.Starred) for value in values) and len(values) > 3):
        return
    for left, right in pairs:
        (start, left_end), (right_start, end) = module.span(left), module.span(right)
        text = module.text(right) + module.between(left_end, right_start) + module.text(left)
        yield Proposal((start, end), text, 0.4 if isinstance(node, ast.Call) else 0.25)


@template("call.drop", ast.Call, ast.Tuple, ast.List)
def drop_argument(node: ast.Call | ast.Tuple | ast.List, module: Module) -> Iterator[Proposal]:
    values: list[ast.AST] = list(node.args) + list(node.keywords) if isinstance(node, ast.Call) else list(node.elts)
    values.sort(key=lambda value: module.span(value))
    if len(values) > 12 or (isinstance(node, ast.Tuple) and len(values) < 3):
        return
    for index, value in enumerate(values):
        start, end = module.span(value)
        if index + 1 < len(values):
            end = module.span(values[index + 1])[0]
        elif index:
            start = module.span(values[index - 1])[1]
        yield Proposal((start, end), "", 0.25)


@template("call.unwrap", ast.Call)
def unwrap_call(node: ast.Call, module: Module) -> Iterator[Proposal]:
    """``f(x)`` to ``x``; ``x.f()`` to ``x``."""
    if len(node.args) == 1 and not node.keywords and not isinstance(node.args[0], ast.Starred | ast.GeneratorExp):
        yield Proposal(module.span(node), module.operand(node.args[0]), 0.3)
    if isinstance(node.func, ast.Attribute) and not isinstance(node.func.value, ast.Name):
        yield Proposal(module.span(node), module.operand(node.func.value), 0.25)
    elif isinstance(node.func, ast.Attribute) and not node.args:
        yield Proposal(module.span(node), module.operand(node.func.value), 0.25)


@template("call.lookup", ast.Subscript)
def subscript_to_get(node: ast.Subscript, module: Module) -> Iterator[Proposal]:
    """``d[k]`` to ``d.get(k)``."""
    if isinstance(node.ctx, ast.Load) and not isinstance(node.slice, ast.Slice | ast.Tuple):
        base, key = module.operand(node.value), module.text(node.slice)
        yield Proposal(module.span(node), f"{base}.get({key})", 0.35)
        yield Proposal(module.span(node), f"{base}.get({key}, {key})", 0.15)
        yield Proposal(module.span(node), f"{base}.get({key}, 0)", 0.2)
        yield Proposal(module.span(node), f"{base}.get({key}, [])", 0.15)
        yield Proposal(module.span(node), f"{base}.get({key}, '')", 0.15)


@template("call.lookup", ast.Call)
def change_lookup(node: ast.Call, module: Module) -> Iterator[Proposal]:
    """``d.get(k)`` to ``d[k]`` and to a lookup with a default."""
    if not (
        isinstance(node.func, ast.Attribute) and node.func.attr in ("get", "pop") and len(node.args) == 1 and not node.keywords
    ):
        return
    end = module.span(node.args[0])[1]
    if node.func.attr == "get":
        yield Proposal(module.span(node), f"{module.operand(node.func.value)}[{module.text(node.args[0])}]", 0.25)
    for default, prior in (
        ("None", 0.3),
        ("''", 0.25),
        ("0", 0.25),
        ("[]", 0.25),
        ("{}", 0.2),
        ("()", 0.15),
        ("False", 0.2),
        ("True", 0.15),
    ):
        yield Proposal((end, end), f", {default}", prior)


@template("call.types", ast.Call)
def widen_types(node: ast.Call, module: Module) -> Iterator[Proposal]:
    """``isinstance(x, list)`` to ``isinstance(x, (list, tuple))`` and back to one of several."""
    if not (isinstance(node.func, ast.Name) and node.func.id in ("isinstance", "issubclass") and len(node.args) == 2):
        return
    kinds = node.args[1]
    if isinstance(kinds, ast.Name) and kinds.id in _WIDER_TYPES:
        yield Proposal(module.span(kinds), _WIDER_TYPES[kinds.id], 0.35)
    elif isinstance(kinds, ast.Tuple) and len(kinds.elts) <= 6:
        for kind in kinds.elts:
            yield Proposal(module.span(kinds), module.text(kind), 0.2)


@template("call.value", ast.Name, ast.Attribute)
def call_value(node: ast.Name | ast.Attribute, module: Module) -> Iterator[Proposal]:
    """``x.f`` to ``x.f()``: a function used where its result was meant."""
    parent = module.parent(node)
    if isinstance(node.ctx, ast.Load) and isinstance(node, ast.Attribute) and not isinstance(parent, ast.Call | ast.Attribute):
        end = module.span(node)[1]
        yield Proposal((end, end), "()", 0.2)


@template("call.value", ast.Call)
def uncall_value(node: ast.Call, module: Module) -> Iterator[Proposal]:
    """``f()`` to ``f``."""
    if not node.args and not node.keywords:
        yield Proposal((module.span(node.func)[1], module.span(node)[1]), "", 0.15)

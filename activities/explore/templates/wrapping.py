"""A value put into a common conversion, or given a default: ``int(x)``, ``x or []``, ``x.strip()``."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from activities.explore.templates.proposing import Proposal, template
from activities.explore.templates.source import Module
from activities.explore.templates.tables import weighted

_CONVERSIONS = weighted(
    {
        0.2: "int str list abs",
        0.15: "float len bool tuple sorted max0",
        0.12: "set round",
        0.1: "dict repr reversed",
        0.08: "iter",
    }
)
_METHODS = weighted(
    {
        0.15: "strip() lower() copy()",
        0.08: "upper() rstrip() values()",
        0.06: "lstrip() keys()",
        0.1: "items()",
        0.04: "title()",
    }
)
_DEFAULTS = (("''", 0.2), ("[]", 0.25), ("0", 0.15), ("{}", 0.2), ("None", 0.15), ("()", 0.12), ("1", 0.1))
_NOT_WRAPPED = (
    ast.Constant,
    ast.JoinedStr,
    ast.Lambda,
    ast.Starred,
    ast.Yield,
    ast.YieldFrom,
    ast.Await,
    ast.GeneratorExp,
    ast.NamedExpr,
    ast.Slice,
)


def _values(node: ast.AST) -> Iterator[ast.expr]:
    """Values that a statement or an expression hands on."""
    if isinstance(node, ast.Return | ast.Assign | ast.AugAssign | ast.AnnAssign | ast.keyword) and node.value is not None:
        yield node.value
    elif isinstance(node, ast.Call):
        yield from node.args
    elif isinstance(node, ast.Compare):
        yield from (node.left, *node.comparators)
    elif isinstance(node, ast.BinOp):
        yield from (node.left, node.right)
    elif isinstance(node, ast.For | ast.AsyncFor | ast.comprehension):
        yield node.iter
    elif isinstance(node, ast.Subscript):
        yield from (node.value, node.slice)
    elif isinstance(node, ast.Attribute):
        yield node.value
    elif isinstance(node, ast.Dict):
        yield from node.values
    elif isinstance(node, ast.IfExp):
        yield from (node.body, node.orelse)
    elif isinstance(node, ast.List | ast.Tuple) and isinstance(getattr(node, "ctx", None), ast.Load):
        yield from node.elts


_STATEMENTS = (ast.Return, ast.Assign, ast.AugAssign, ast.AnnAssign, ast.For, ast.AsyncFor)
_EXPRESSIONS = (ast.Call, ast.Compare, ast.BinOp, ast.Subscript, ast.Attribute, ast.Dict, ast.IfExp, ast.List, ast.Tuple)
_PLACES = (*_STATEMENTS, *_EXPRESSIONS, ast.keyword, ast.comprehension)


def _wrapped(node: ast.AST) -> Iterator[ast.expr]:
    for value in _values(node):
        if not isinstance(value, _NOT_WRAPPED) and not isinstance(getattr(value, "ctx", None), ast.Store | ast.Del):
            yield value


@template("wrap.conversion", *_PLACES)
def wrap_in_conversion(node: ast.AST, module: Module) -> Iterator[Proposal]:
    if isinstance(node, ast.Attribute):
        return
    for value in _wrapped(node):
        if isinstance(value, ast.Tuple) and not module.text(value).startswith("("):
            continue
        text = module.text(value)
        known = value.func.id if isinstance(value, ast.Call) and isinstance(value.func, ast.Name) else ""
        for name, prior in _CONVERSIONS:
            if name == "max0":
                yield Proposal(module.span(value), f"max(0, {text})", prior)
            elif name != known:
                yield Proposal(module.span(value), f"{name}({text})", prior)


@template("wrap.method", *_PLACES)
def append_method(node: ast.AST, module: Module) -> Iterator[Proposal]:
    for value in _wrapped(node):
        if isinstance(value, ast.Name | ast.Attribute | ast.Subscript | ast.Call):
            end = module.span(value)[1]
            for call, prior in _METHODS:
                yield Proposal((end, end), f".{call}", prior)


@template("wrap.default", *_PLACES)
def give_default(node: ast.AST, module: Module) -> Iterator[Proposal]:
    """``x`` to ``x or []`` and the like."""
    for value in _wrapped(node):
        if isinstance(value, ast.Name | ast.Attribute | ast.Subscript | ast.Call):
            text = module.text(value)
            for default, prior in _DEFAULTS:
                expression = f"{text} or {default}"
                bare = isinstance(node, ast.Return | ast.Assign | ast.AnnAssign | ast.Call | ast.keyword) and "\n" not in text
                yield Proposal(module.span(value), expression if bare else f"({expression})", prior)


@template("wrap.unless_none", ast.Return, ast.Assign)
def keep_none(node: ast.Return | ast.Assign, module: Module) -> Iterator[Proposal]:
    """``return f(x)`` to ``return None if x is None else f(x)`` and, for ``x[...]`` and ``x.y``, the same for ``x``."""
    if node.value is None:
        return
    subjects: list[str] = []
    for inner in ast.walk(node.value):
        if isinstance(inner, ast.Name) and isinstance(inner.ctx, ast.Load):
            parent = module.parent(inner)
            if not (isinstance(parent, ast.Call) and parent.func is inner) and inner.id not in subjects:
                subjects.append(inner.id)
    text = module.text(node.value)
    if isinstance(node.value, ast.Tuple | ast.Lambda | ast.Yield | ast.IfExp):
        text = f"({text})"
    for name in subjects[:3]:
        if name not in ("self", "cls"):
            yield Proposal(module.span(node.value), f"None if {name} is None else {text}", 0.25)
            yield Proposal(module.span(node.value), f"{text} if {name} else {name}", 0.2)

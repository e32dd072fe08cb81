"""New statements: guards that return or go on early, jumps, a name rebound before it is used."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from activities.explore.templates.names import local_names
from activities.explore.templates.proposing import Proposal, own_nodes, template
from activities.explore.templates.source import Module, header_end_line
from activities.explore.templates.statements import whole_lines

_HOSTS = (
    ast.Expr,
    ast.Assign,
    ast.AugAssign,
    ast.AnnAssign,
    ast.Return,
    ast.If,
    ast.For,
    ast.While,
    ast.With,
    ast.Raise,
    ast.Try,
)
_REBINDINGS = tuple(
    (pattern, prior)
    for prior, patterns in {
        0.1: ("int({})", "str({})", "{}.lower()", "sorted({})", "{} or []"),
        0.12: ("list({})", "{}.copy()", "{}.strip()", "abs({})"),
        0.08: ("float({})", "{} or {{}}", "{} or ''"),
        0.06: ("tuple({})", "set({})"),
    }.items()
    for pattern in patterns
)


def _subjects(statement: ast.stmt, module: Module) -> list[str]:
    """Plain names and ``self.x`` that the statement reads, in order, at most four."""
    found: list[str] = []
    locals_ = set(local_names(module, statement))
    for node in own_nodes(statement):
        if (
            isinstance(node, ast.Name)
            and isinstance(node.ctx, ast.Load)
            and node.id in locals_
            and node.id not in ("self", "cls")
        ):
            name = node.id
        elif (
            isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and node.value.id == "self"
            and isinstance(node.ctx, ast.Load)
        ):
            name = f"self.{node.attr}"
        else:
            continue
        if name not in found:
            found.append(name)
    return found[:4]


def _in_loop(module: Module, node: ast.AST) -> bool:
    for above in module.ancestors(node):
        if isinstance(above, ast.For | ast.AsyncFor | ast.While):
            return True
        if isinstance(above, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda):
            return False
    return False


def _is_elif(node: ast.stmt, module: Module) -> bool:
    return isinstance(node, ast.If) and module.data[module.span(node)[0] :].startswith(b"elif")


@template("insert.guard", *_HOSTS)
def insert_guard(node: ast.stmt, module: Module) -> Iterator[Proposal]:
    """``if x is None: return …`` and the like, before the statement."""
    indent = module.indent_of(node)
    if indent is None or module.function_of(node) is None or _is_elif(node, module):
        return
    start, newline = module.line_start(module.span(node)[0]), module.newline
    unit = "\t" if "\t" in indent else "    "
    for name in _subjects(node, module):
        for test, prior in ((f"{name} is None", 0.25), (f"not {name}", 0.25)):
            actions = [
                ("return None", prior),
                (f"return {name}", prior),
                ("return False", prior * 0.6),
                ("return []", prior * 0.6),
            ]
            actions += [(f"return {value}", prior * 0.5) for value in ("True", "''", "0")]
            if _in_loop(module, node):
                actions += [("continue", prior), ("break", prior * 0.7)]
            for action, value in actions:
                yield Proposal((start, start), f"{indent}if {test}:{newline}{indent}{unit}{action}{newline}", value)
        for default in ("[]", "{}", "''", "0"):
            text = f"{indent}if {name} is None:{newline}{indent}{unit}{name} = {default}{newline}"
            yield Proposal((start, start), text, 0.15)


@template("insert.only_if", ast.Expr, ast.Assign, ast.AugAssign, ast.Raise, ast.Return)
def only_if(node: ast.stmt, module: Module) -> Iterator[Proposal]:
    """The statement under ``if x:`` or ``if x is not None:``."""
    indent, lines = module.indent_of(node), whole_lines(module, node)
    if indent is None or lines is None or node.lineno != node.end_lineno:
        return
    unit = "\t" if "\t" in indent else "    "
    body = module.between(*lines)
    for name in _subjects(node, module):
        for test, prior in ((name, 0.25), (f"{name} is not None", 0.25), (f"not {name}", 0.15)):
            yield Proposal(lines, f"{indent}if {test}:{module.newline}{unit}{body}", prior)


@template("insert.return", *_HOSTS)
def insert_return(node: ast.stmt, module: Module) -> Iterator[Proposal]:
    """A return or a jump behind the statement, or before it."""
    indent, lines = module.indent_of(node), whole_lines(module, node)
    if indent is None or lines is None or module.function_of(node) is None or isinstance(node, ast.Return | ast.Raise):
        return
    newline = module.newline
    if not module.data[: lines[1]].endswith((b"\n", b"\r")):
        return
    names = local_names(module, node)
    texts = [(f"return {name}", 0.2) for name in names[:5]] + [("return", 0.15), ("return True", 0.12), ("return False", 0.12)]
    if _in_loop(module, node):
        texts += [("break", 0.3), ("continue", 0.2)]
    for text, prior in texts:
        yield Proposal((lines[1], lines[1]), f"{indent}{text}{newline}", prior)
        if not _is_elif(node, module):
            yield Proposal((lines[0], lines[0]), f"{indent}{text}{newline}", prior * 0.3)


@template("insert.rebind", *_HOSTS)
def insert_rebinding(node: ast.stmt, module: Module) -> Iterator[Proposal]:
    """``x = int(x)`` and the like before the statement."""
    indent = module.indent_of(node)
    if indent is None or module.function_of(node) is None or _is_elif(node, module) or header_end_line(node) - node.lineno > 8:
        return
    start = module.line_start(module.span(node)[0])
    for name in _subjects(node, module):
        for pattern, prior in _REBINDINGS:
            yield Proposal((start, start), f"{indent}{name} = {pattern.format(name)}{module.newline}", prior)


@template("insert.step", ast.Assign, ast.AugAssign, ast.Expr)
def insert_step(node: ast.stmt, module: Module) -> Iterator[Proposal]:
    """A counter that is moved on, behind the statement."""
    indent, lines = module.indent_of(node), whole_lines(module, node)
    if indent is None or lines is None or not module.data[: lines[1]].endswith((b"\n", b"\r")):
        return
    for name in local_names(module, node)[:4]:
        for text in (f"{name} += 1", f"{name} -= 1"):
            yield Proposal((lines[1], lines[1]), f"{indent}{text}{module.newline}", 0.1)

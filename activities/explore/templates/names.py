"""Names and attributes: replaced by others that are used in the same function, class or module."""

from __future__ import annotations

import ast
import builtins
from collections import Counter
from collections.abc import Iterator

from activities.explore.templates.proposing import Proposal, template
from activities.explore.templates.source import FunctionNode, Module
from activities.explore.templates.tables import siblings

_MAX_LOCALS = 12
_MAX_GLOBALS = 6
_MAX_ATTRIBUTES = 8
_BUILTINS = frozenset(dir(builtins))
_SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


def local_names(module: Module, node: ast.AST) -> list[str]:
    """Arguments and assigned names of the enclosing functions, most used first, then by name."""
    scopes = tuple(above for above in module.ancestors(node) if isinstance(above, _SCOPES))
    return module.once("locals", *scopes, make=lambda: _bound_names(scopes))


def _bound_names(scopes: tuple[ast.AST, ...]) -> list[str]:
    counts: Counter[str] = Counter()
    bound: set[str] = set()
    for inner in (inner for scope in scopes for inner in ast.walk(scope)):
        if isinstance(inner, ast.arg):
            bound.add(inner.arg)
        elif isinstance(inner, ast.Name):
            counts[inner.id] += 1
            if isinstance(inner.ctx, ast.Store):
                bound.add(inner.id)
    return sorted(bound, key=lambda name: (-counts[name], name))


def global_names(module: Module, called: bool) -> list[str]:
    """Names of the module's own that it uses: those that are called, or those that are not; most used first."""
    return module.once("globals", called, make=lambda: _global_names(module, called))


def _global_names(module: Module, called: bool) -> list[str]:
    counts: Counter[str] = Counter()
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            parent = module.parent(node)
            if (isinstance(parent, ast.Call) and node is parent.func) == called:
                counts[node.id] += 1
    defined = _defined_names(module.tree)
    return sorted((name for name in counts if name in defined), key=lambda name: (-counts[name], name))


def _defined_names(tree: ast.Module) -> set[str]:
    defined: set[str] = set()
    for statement in tree.body:
        if isinstance(statement, FunctionNode | ast.ClassDef):
            defined.add(statement.name)
        elif isinstance(statement, ast.Import | ast.ImportFrom):
            defined |= {(alias.asname or alias.name).partition(".")[0] for alias in statement.names}
        else:
            defined |= {node.id for node in ast.walk(statement) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    return defined


@template("name.other", ast.Name)
def replace_name(node: ast.Name, module: Module) -> Iterator[Proposal]:
    if not isinstance(node.ctx, ast.Load):
        return
    parent = module.parent(node)
    called = isinstance(parent, ast.Call) and node is parent.func
    span = module.span(node)
    locals_ = local_names(module, node)
    if not called and node.id not in _BUILTINS:
        for name in locals_[:_MAX_LOCALS]:
            if name not in (node.id, "self", "cls", "_"):
                yield Proposal(span, name, 0.35)
    if node.id not in locals_:
        for name in global_names(module, called)[:_MAX_GLOBALS]:
            if name != node.id:
                yield Proposal(span, name, 0.2)


@template("name.attribute", ast.Name)
def name_to_attribute(node: ast.Name, module: Module) -> Iterator[Proposal]:
    """``x`` to ``self.x`` where the class uses such an attribute."""
    owner = module.class_of(node)
    if isinstance(node.ctx, ast.Load) and owner is not None and node.id in own_attributes(owner):
        yield Proposal(module.span(node), f"self.{node.id}", 0.35)


@template("name.attribute", ast.Attribute)
def attribute_to_name(node: ast.Attribute, module: Module) -> Iterator[Proposal]:
    """``self.x`` to ``x`` where the function has such a name."""
    if isinstance(node.ctx, ast.Load) and isinstance(node.value, ast.Name) and node.attr in local_names(module, node):
        yield Proposal(module.span(node), node.attr, 0.35)


@template("attribute.other", ast.Attribute)
def replace_attribute(node: ast.Attribute, module: Module) -> Iterator[Proposal]:
    """Another attribute that the module reads from a value of the same name; also where the attribute is a method."""
    base = module.text(node.value) if isinstance(node.value, ast.Name) else ""
    parent = module.parent(node)
    called = isinstance(parent, ast.Call) and node is parent.func
    named, anywhere = module.once("attributes", called, make=lambda: _attributes(module, called))
    counts = Counter({name: 3 * count for name, count in named.get(base, {}).items()})
    if called and not base:
        counts.update(anywhere)
    del counts[node.attr]
    if base in ("self", "cls") and (owner := module.class_of(node)) is not None:
        counts = Counter({name: count for name, count in counts.items() if name in own_attributes(owner)} or counts)
    end = module.span(node)[1]
    start = end - len(node.attr.encode())
    if module.data[start:end].decode() != node.attr:
        return
    for name in sorted(counts, key=lambda name: (-counts[name], name))[:_MAX_ATTRIBUTES]:
        yield Proposal((start, end), name, 0.3)
    for name in METHOD_SIBLINGS.get(node.attr, ()) if called else ():
        yield Proposal((start, end), name, 0.35)


def _attributes(module: Module, called: bool) -> tuple[dict[str, Counter[str]], Counter[str]]:
    """How often each attribute is read (or called): by the name it is read from, and in all."""
    named: dict[str, Counter[str]] = {}
    anywhere: Counter[str] = Counter()
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Attribute):
            above = module.parent(node)
            if (isinstance(above, ast.Call) and node is above.func) == called:
                anywhere[node.attr] += 1
                if isinstance(node.value, ast.Name):
                    named.setdefault(node.value.id, Counter())[node.attr] += 1
    return named, anywhere


def own_attributes(owner: ast.ClassDef) -> set[str]:
    found = {
        node.attr
        for node in ast.walk(owner)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
    }
    return found | {node.name for node in owner.body if isinstance(node, FunctionNode)}


METHOD_SIBLINGS = siblings(
    """
append: extend add insert
extend: append
add: update discard
update: add
remove: discard pop
discard: remove
find: rfind index
rfind: find
index: rindex find
split: rsplit partition splitlines
rsplit: split
partition: rpartition
rpartition: partition
strip: lstrip rstrip
lstrip: strip rstrip removeprefix
rstrip: strip lstrip removesuffix
lower: upper casefold title
upper: lower title
ljust: rjust center
rjust: ljust center
startswith: endswith
endswith: startswith
keys: values items
values: keys items
items: keys values
get: pop setdefault
setdefault: get
pop: popleft get
popleft: pop
match: search fullmatch findall
search: match fullmatch
fullmatch: match search
isdigit: isdecimal isnumeric isalnum
isalpha: isalnum isidentifier
isalnum: isalpha
union: intersection difference
intersection: union difference
difference: symmetric_difference intersection
issubset: issuperset
issuperset: issubset
read: readline readlines
group: groups
copy: deepcopy
islower: isupper
isupper: islower
floor: ceil trunc
ceil: floor
encode: decode
decode: encode
"""
)

"""The search space in order: edits of suspicious statements, best suspiciousness × prior first, generated when needed."""

from __future__ import annotations

import ast
import heapq
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from activities.explore.product import is_product
from activities.explore.templates import Edit, Module, UnreadableSource, edits_of_statement
from activities.explore.templates.proposing import own_nodes
from activities.explore.templates.source import FunctionNode, header_end_line
from schemas.candidate import Suspect

MAX_FILES = 60
"""Suspicious files beyond this are left out: their lines score lowest."""
MAX_FILE_BYTES = 1_000_000
RING = 400
"""Statements that are expanded together; bounds the memory of the queue."""
_CACHED_MODULES = 4
_HEADER_SHARE = 0.5
"""Share of its body's suspicion that a function's header (defaults) gets: it runs at import, where no test covers it."""
_REFERENCE_SHARE = 0.5
"""Share that an assignment of a module or a class gets from the suspicious statements that name it."""
_IMPORT_DISCOUNT = 0.5
"""Edits outside of function bodies cost a new collection to decide, so they wait for the cheaper ones."""


@dataclass(frozen=True, slots=True)
class Unit:
    """A statement with the suspicion of the lines that it runs by itself."""

    path: str
    index: int
    line: int
    score: float
    in_body: bool
    covering: tuple[int, ...] = ()
    """Failing tests that run the statement; for one outside of function bodies nothing is known and this is empty."""


@dataclass(frozen=True, slots=True)
class Ranked:
    edit: Edit
    score: float
    """Suspiciousness of the statement, in [0, 1]."""
    value: float
    """What the queue is ordered by."""
    covering: tuple[int, ...]
    """Failing tests that the edit can change, as positions; empty: any."""


class Space:
    """``read(path)`` gives the bytes of a file of the base tree, None when there is none."""

    def __init__(
        self, suspects: Sequence[Suspect], read: Callable[[str], bytes | None], test_files: frozenset[str] = frozenset()
    ) -> None:
        self._read = read
        self._modules: OrderedDict[str, Module | None] = OrderedDict()
        self.offered = 0
        """Edits generated so far."""
        by_path: dict[str, dict[int, Suspect]] = {}
        for suspect in suspects:
            if is_product(suspect.path, test_files):
                by_path.setdefault(suspect.path, {})[suspect.line] = suspect
        ranked = sorted(by_path, key=lambda path: (-max(suspect.score for suspect in by_path[path].values()), path))[:MAX_FILES]
        units = [unit for path in ranked for unit in self._units(path, by_path[path])]
        units.sort(key=lambda unit: (-unit.score, unit.path, -unit.index))
        self.units: tuple[Unit, ...] = tuple(units)
        self.covered: frozenset[int] = frozenset(position for suspect in suspects for position in suspect.covering)
        """Failing tests that run some line of product code, as positions."""

    def ranked(self) -> Iterator[Ranked]:
        """Every edit once, best first within a ring of statements. The order depends on nothing but the input."""
        for start in range(0, len(self.units), RING):
            yield from self._ring(self.units[start : start + RING])

    def module(self, path: str) -> Module | None:
        """The parsed file, None when it cannot be read; the last few are kept."""
        if path in self._modules:
            self._modules.move_to_end(path)
            return self._modules[path]
        data = self._read(path)
        module: Module | None = None
        if data is not None and len(data) <= MAX_FILE_BYTES:
            try:
                module = Module(path, data)
            except UnreadableSource:
                module = None
        self._modules[path] = module
        while len(self._modules) > _CACHED_MODULES:
            self._modules.popitem(last=False)
        return module

    def _ring(self, units: Sequence[Unit]) -> Iterator[Ranked]:
        """Best first: a statement is expanded when the best that it could offer is due."""
        queue: list[tuple[float, int, int, list[Edit] | None]] = [
            (-_weight(unit), order, 0, None) for order, unit in enumerate(units)
        ]
        heapq.heapify(queue)
        seen: set[tuple[str, int, int, str]] = set()
        while queue:
            bound, order, position, edits = heapq.heappop(queue)
            unit = units[order]
            if edits is None:
                edits = self._edits(unit)
                self.offered += len(edits)
            else:
                edit = edits[position]
                position += 1
                key = (edit.path, edit.start, edit.end, edit.text)
                if key not in seen:
                    seen.add(key)
                    yield Ranked(edit, unit.score, round(-bound, 9), unit.covering)
            if position < len(edits):
                heapq.heappush(queue, (-_weight(unit) * edits[position].prior, order, position, edits))

    def _edits(self, unit: Unit) -> list[Edit]:
        module = self.module(unit.path)
        if module is None:
            return []
        return list(edits_of_statement(module, module.statements()[unit.index]))

    def _units(self, path: str, suspects: dict[int, Suspect]) -> Iterator[Unit]:
        module = self.module(path)
        if module is None:
            return
        statements = module.statements()
        own = [[suspects[line] for line in _own_lines(statement) if line in suspects] for statement in statements]
        direct = [max((suspect.score for suspect in found), default=0.0) for found in own]
        bodies: dict[ast.AST, float] = {}
        named: dict[str, float] = {}
        for statement, score in zip(statements, direct, strict=True):
            if score <= 0:
                continue
            for above in module.ancestors(statement):
                if isinstance(above, FunctionNode):
                    bodies[above] = max(bodies.get(above, 0.0), score)
            for name in _names(statement):
                named[name] = max(named.get(name, 0.0), score)
        for index, (statement, score) in enumerate(zip(statements, direct, strict=True)):
            inside = module.function_of(statement) is not None and not isinstance(statement, FunctionNode | ast.ClassDef)
            if isinstance(statement, FunctionNode):
                score = bodies.get(statement, 0.0) * _HEADER_SHARE
            elif not inside:
                score = max((named.get(name, 0.0) for name in _assigned(statement)), default=0.0) * _REFERENCE_SHARE
            if score > 0:
                covering = tuple(sorted({position for suspect in own[index] for position in suspect.covering})) if inside else ()
                yield Unit(path, index, statement.lineno, round(score, 6), inside, covering)


def _weight(unit: Unit) -> float:
    return unit.score * (1.0 if unit.in_body else _IMPORT_DISCOUNT)


def _own_lines(statement: ast.stmt) -> Iterator[int]:
    yield from range(statement.lineno, header_end_line(statement) + 1)
    for handler in getattr(statement, "handlers", ()):
        yield handler.lineno


def _names(statement: ast.stmt) -> Iterator[str]:
    for node in own_nodes(statement):
        if isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Attribute):
            yield node.attr


def _assigned(statement: ast.stmt) -> Iterator[str]:
    targets = (
        statement.targets
        if isinstance(statement, ast.Assign)
        else [statement.target]
        if isinstance(statement, ast.AnnAssign)
        else []
    )
    for target in targets:
        for node in ast.walk(target):
            if isinstance(node, ast.Name):
                yield node.id

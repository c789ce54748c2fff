"""What annotations and ``isinstance`` tests tell of a variable."""

from __future__ import annotations

import ast
from collections.abc import Callable

from shardwright._syntax import expression
from shardwright.sharding.callgraph._analysis import Analysis
from shardwright.sharding.callgraph._code import Function, Scope
from shardwright.sharding.callgraph._values import BoxValue, ClassValue, OutsideValue, Slot, Value

_SCALARS = {
    f"builtins.{type_.__name__}": type_ for type_ in (str, int, float, complex, bool, bytes, bytearray, type(None))
}
_SEQUENCES = {
    "list": "list", "List": "list", "Sequence": "list", "MutableSequence": "list", "Iterable": "iterator",
    "Iterator": "iterator", "Collection": "list", "set": "set", "Set": "set", "frozenset": "set", "FrozenSet": "set",
    "AbstractSet": "set", "MutableSet": "set", "deque": "list", "Deque": "list", "Reversible": "list",
    "Generator": "iterator", "AsyncIterator": "iterator", "AsyncIterable": "iterator", "AsyncGenerator": "iterator",
    "KeysView": "iterator", "ValuesView": "iterator",
}  # fmt: skip
_MAPPINGS = frozenset({
    "dict", "Dict", "Mapping", "MutableMapping", "DefaultDict", "defaultdict", "OrderedDict", "ChainMap",
})  # fmt: skip
_TRANSPARENT = frozenset({
    "Optional", "Union", "Final", "ClassVar", "Annotated", "Required", "NotRequired", "ReadOnly", "Awaitable", "Coroutine",
})  # fmt: skip
_OPAQUE = frozenset({"Literal", "Callable", "Concatenate", "TypeGuard", "TypeIs"})


class Hints:
    """Adds the values that annotations promise. ``lookup`` finds the slot of a name in a scope."""

    def __init__(self, analysis: Analysis) -> None:
        self.analysis = analysis
        self.solver = analysis.solver
        self.evaluate: Callable[[ast.expr, Scope], Slot] = lambda node, scope: Slot()
        self.narrowed: list[tuple[Slot, Slot]] = []
        self._results: list[tuple[ast.expr, Function, Scope]] = []

    def apply(self, node: ast.expr | None, slot: Slot, scope: Scope) -> None:
        """The slot holds what the annotation says."""
        match node:
            case None:
                return
            case ast.Constant(value=str(text)):
                try:
                    self.apply(expression(text.strip()), slot, scope)
                except (SyntaxError, ValueError):
                    return
            case ast.BinOp(left=left, op=ast.BitOr(), right=right):
                self.apply(left, slot, scope)
                self.apply(right, slot, scope)
            case ast.Subscript(value=base, slice=inner):
                self._generic(base, inner, slot, scope)
            case ast.Name(id="Self") | ast.Attribute(attr="Self"):
                self._own(slot, scope)
            case ast.Name() | ast.Attribute():
                self.solver.wait(self.evaluate(node, scope), lambda value: self._instance(value, slot))

    def result(self, node: ast.expr | None, function: Function, scope: Scope) -> None:
        """Kept until it is known what the body returns: `fill`."""
        if node is not None:
            self._results.append((node, function, scope))

    def fill(self) -> None:
        """Takes the annotations of results, and tests by ``isinstance``, for slots of which nothing is known."""
        for node, function, scope in self._results:
            slot = function.returns
            if function.is_generator:
                if not function.yields.values and isinstance(node, ast.Subscript):
                    inner = node.slice.elts[0] if isinstance(node.slice, ast.Tuple) else node.slice
                    self.apply(inner, function.yields, scope)
            elif not any(not isinstance(value, OutsideValue) for value in slot.values):
                self.apply(node, slot, scope)
        for slot, narrowed in self.narrowed:
            if not any(not isinstance(value, OutsideValue) for value in slot.values) and not slot.fixed:
                self.solver.flow(narrowed, slot)

    def _own(self, slot: Slot, scope: Scope | None) -> None:
        while scope is not None:
            if scope.owner is not None:
                self.solver.add(slot, self.analysis.instance(scope.owner, cone=True))
                return
            scope = scope.parent

    def _instance(self, value: Value, slot: Slot) -> None:
        if isinstance(value, ClassValue):
            if not any(base.rpartition(".")[2] == "Protocol" for base in value.class_.outside):
                self.solver.add(slot, self.analysis.instance(value.class_, cone=True))
            if value.class_.box is not None:
                self.solver.add(slot, value.class_.box)
        elif isinstance(value, OutsideValue):
            scalar = _SCALARS.get(value.path)
            if scalar is not None:
                for known in self.analysis.known(scalar).values:
                    self.solver.add(slot, known)
            elif value.path not in ("typing.Any", "builtins.object") and "TypeVar" not in value.path:
                self.solver.add(slot, self.analysis.outside(f"{value.path}()"))

    def _generic(self, base: ast.expr, inner: ast.expr, slot: Slot, scope: Scope) -> None:
        name = base.id if isinstance(base, ast.Name) else getattr(base, "attr", "")
        parts = list(inner.elts) if isinstance(inner, ast.Tuple) else [inner]
        if name in _OPAQUE:
            return
        if name in _TRANSPARENT:
            for part in parts if name in ("Union", "Optional") else parts[:1] if name != "Coroutine" else parts[-1:]:
                self.apply(part, slot, scope)
        elif name in _SEQUENCES:
            box = BoxValue(_SEQUENCES[name])
            self.apply(parts[0], box.rest, scope)
            self.solver.add(slot, box)
        elif name in ("tuple", "Tuple"):
            box = BoxValue("tuple")
            if len(parts) == 2 and isinstance(parts[1], ast.Constant) and parts[1].value is ...:
                self.apply(parts[0], box.rest, scope)
            else:
                for place, part in enumerate(parts):
                    self.apply(part, self.solver.item(box, place), scope)
            self.solver.add(slot, box)
        elif name in _MAPPINGS:
            box = BoxValue("dict")
            self.apply(parts[0], box.keys, scope)
            self.apply(parts[-1], box.rest, scope)
            self.solver.add(slot, box)
        elif name in ("type", "Type"):
            self.solver.wait(self.evaluate(parts[0], scope), lambda value: self._class(value, slot))
        else:
            self.apply(base, slot, scope)

    def _class(self, value: Value, slot: Slot) -> None:
        if isinstance(value, ClassValue):
            self.solver.add(slot, self.analysis.class_(value.class_, cone=True))

"""The state of one analysis: the code under it, one object for each value, and the sites with their candidates."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from shardwright.errors import PlanError
from shardwright.model.shard import Diagnostic, Severity, Site
from shardwright.sharding._source import SourceModule, SourceTree
from shardwright.sharding._symbols import Ref, Resolver
from shardwright.sharding.callgraph._code import Class, Function, Module, declare
from shardwright.sharding.callgraph._graph import How
from shardwright.sharding.callgraph._mro import linearize
from shardwright.sharding.callgraph._values import (
    BoundValue,
    BoxValue,
    ClassValue,
    FunctionValue,
    InstanceValue,
    KnownValue,
    ModuleValue,
    OutsideValue,
    Slot,
    Solver,
    SuspendedValue,
    Value,
)

_LONGEST_PATH = 5  # parts of an outside path; longer chains are of no use
_BOXES = {
    "builtins.list": "list", "builtins.dict": "dict", "builtins.set": "set", "builtins.tuple": "tuple",
    "builtins.frozenset": "set", "collections.OrderedDict": "dict", "collections.UserDict": "dict",
    "collections.UserList": "list", "collections.deque": "list", "collections.defaultdict": "dict",
    "collections.Counter": "dict",
    "typing.Dict": "dict", "typing.List": "list",
}  # fmt: skip


class Lenient(SourceTree):
    """A source tree that goes on after a file that cannot be parsed, and keeps what was wrong with it."""

    def __init__(self, root: str, search_path: tuple[str, ...] = ()) -> None:
        super().__init__(root, search_path)
        self.problems: dict[str, Diagnostic] = {}

    def load(self, name: str) -> SourceModule | None:
        if name in self.problems:
            return None
        try:
            return super().load(name)
        except PlanError as error:
            place, _, what = error.message.partition(": ")
            path, _, line = place.rpartition(":")
            site = Site(path, int(line)) if line.isdigit() else Site(place, 1)
            self.problems[name] = Diagnostic(
                "SW202", Severity.REFUSAL, f"module {name} cannot be parsed: {what}", site, None, error.remedy or ""
            )
            return None


class CallSite:
    """A place that calls, or that makes the interpreter call: an attribute, an operator, a loop."""

    __slots__ = ("caller", "candidates", "column", "kind", "line", "name")

    def __init__(self, caller: Function, node: ast.AST, kind: str, name: str) -> None:
        self.caller = caller
        self.line: int = getattr(node, "lineno", 0)
        self.column: int = getattr(node, "col_offset", 0)
        self.kind, self.name = kind, name
        self.candidates: dict[Function, How] = {}

    def add(self, function: Function, how: How) -> None:
        known = self.candidates.get(function)
        if known is None or how < known:
            self.candidates[function] = how


class Analysis:
    """Everything that the parts of the analysis share."""

    def __init__(self, tree: Lenient, modules: list[str]) -> None:
        self.tree = tree
        self.solver = Solver()
        self.resolver = Resolver(tree)
        self.sites: list[CallSite] = []
        self.modules: dict[str, Module] = {}
        for name in modules:
            source = tree.load(name)
            if source is not None:
                self.modules[name] = declare(source)
        self._values: dict[tuple[object, ...], Value] = {}
        self._known: dict[type, Slot] = {}
        self._classes: dict[ast.AST, Class] = {}
        for module in self.modules.values():
            self._classes.update(module.classes)
        self._link_classes()
        self.methods: dict[str, list[Function]] = {}

    # -- one object for each value -------------------------------------------------------------------------------

    def function(self, function: Function) -> Value:
        return self.one(FunctionValue, function)

    def bound(self, function: Function, receiver: Value, doubt: bool = False, guess: bool = False) -> Value:
        return self.one(BoundValue, function, receiver, doubt, guess)

    def class_(self, class_: Class, cone: bool = False) -> Value:
        return self.one(ClassValue, class_, cone and bool(class_.below))

    def instance(self, class_: Class, cone: bool = False) -> Value:
        return self.one(InstanceValue, class_, cone and bool(class_.below))

    def module(self, name: str) -> Value:
        return self.one(ModuleValue, name)

    def suspended(self, function: Function) -> Value:
        return self.one(SuspendedValue, function)

    def outside(self, path: str) -> Value:
        if path.count(".") + path.count("(") > _LONGEST_PATH:
            path = path.partition(".")[0] + ".?"
        return self.one(OutsideValue, path)

    def known(self, type_: type) -> Slot:
        slot = self._known.get(type_)
        if slot is None:
            slot = self._known[type_] = Slot(KnownValue(type_))
        return slot

    def one(self, kind: type[Value], *parts: object) -> Value:
        key = (kind, *parts)
        value = self._values.get(key)
        if value is None:
            value = self._values[key] = kind(*parts)
        return value

    # -- classes -------------------------------------------------------------------------------------------------

    def class_of(self, ref: Ref | None) -> Class | None:
        """The class under analysis that a reference names."""
        if ref is None or not ref.name or ref.module not in self.modules:
            return None
        node = self.resolver.class_node(ref)
        return self._classes.get(node) if node is not None else None

    def _link_classes(self) -> None:
        for module in self.modules.values():
            for made in module.classes.values():
                for base in made.node.bases:
                    found = self._base(module, made, base)
                    if found is not None:
                        made.bases.append(found)
                for keyword in made.node.keywords:
                    if keyword.arg == "metaclass":
                        made.metaclass = self._base(module, made, keyword.value)
        for class_ in self.classes():
            class_.mro = linearize(class_)
        for class_ in self.classes():
            for above in class_.inside[1:]:
                above.below.append(class_)
            for path in class_.outside:
                if path in _BOXES and class_.box is None:
                    class_.box = BoxValue(_BOXES[path])
            if class_.metaclass is None:
                class_.metaclass = next((item.metaclass for item in class_.inside if item.metaclass), None)

    def _base(self, module: Module, made: Class, node: ast.expr) -> Class | str | None:
        if isinstance(node, ast.Subscript):
            node = node.value
        if isinstance(node, ast.Starred):
            return None
        if isinstance(node, ast.Name):
            prefix = made.qualname.rpartition(".")[0]
            while prefix:  # a class of the same function or class body
                prefix = prefix.removesuffix(".<locals>")
                for other in module.classes.values():
                    if other.name == node.id and other.qualname in (
                        f"{prefix}.<locals>.{node.id}",
                        f"{prefix}.{node.id}",
                    ):
                        return other if other is not made else None
                prefix = prefix.rpartition(".")[0]
        if isinstance(node, ast.Call):  # namedtuple("P", "x y"), with_metaclass(M, Base), new_class()
            inner = [self._base(module, made, item) for item in node.args]
            made_of = [item for item in inner if isinstance(item, Class)]
            called = self.resolver.expression(module.name, node.func)
            return made_of[-1] if made_of else (f"{called.module}.{called.name}()" if called is not None else None)
        ref = self.resolver.expression(module.name, node)
        if ref is None:
            return None
        return self.class_of(ref) or f"{ref.module}.{ref.name}"

    def classes(self) -> Iterator[Class]:
        for module in self.modules.values():
            yield from module.classes.values()

    def functions(self) -> Iterator[Function]:
        for module in self.modules.values():
            yield module.body
            yield from module.functions.values()

    # -- sites ---------------------------------------------------------------------------------------------------

    def site(self, caller: Function, node: ast.AST, kind: str, name: str = "") -> CallSite:
        made = CallSite(caller, node, kind, name)
        self.sites.append(made)
        return made

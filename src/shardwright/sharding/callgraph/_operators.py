"""What operators, subscripts and formatting call."""

from __future__ import annotations

import ast

from shardwright.sharding.callgraph._analysis import CallSite
from shardwright.sharding.callgraph._applied import Applied
from shardwright.sharding.callgraph._call import Call
from shardwright.sharding.callgraph._code import Class
from shardwright.sharding.callgraph._graph import How
from shardwright.sharding.callgraph._values import (
    BoxValue,
    ClassValue,
    InstanceValue,
    KnownValue,
    OutsideValue,
    Slot,
    SuspendedValue,
    Value,
)


class Operators(Applied):
    """Dunder methods of what the operands hold, and what containers do."""

    def special(self, base: Slot, name: str, arguments: list[Slot], result: Slot, site: CallSite) -> None:
        """A dunder method of whatever ``base`` holds."""
        call = Call(site, Slot(), [(slot, False) for slot in arguments], [], result)

        def one(value: Value) -> None:
            if isinstance(value, InstanceValue):
                self.invoke_class(value.class_, name, value, call)
            elif isinstance(value, ClassValue) and isinstance(value.class_.metaclass, Class):
                self.invoke_class(value.class_.metaclass, name, value, call)

        self.solver.wait(base, one)

    def truth(self, base: Slot, site: CallSite) -> None:
        def one(value: Value) -> None:
            if isinstance(value, InstanceValue):
                name = "__bool__" if self.definers(value.class_, "__bool__", value.cone) else "__len__"
                self.invoke_class(value.class_, name, value, Call(site, Slot(), [], [], Slot()))

        if not base.fixed:
            self.solver.wait(base, one)

    def text(self, base: Slot, names: list[str], site: CallSite) -> None:
        """``str(x)`` and formatting; falls back from ``__str__`` to ``__repr__``."""

        def one(value: Value) -> None:
            if isinstance(value, InstanceValue):
                call = Call(site, Slot(), [(Slot(), False)], [], Slot())
                for name in names:
                    if name == "__str__" and not self.definers(value.class_, name, value.cone):
                        name = "__repr__"
                    self.invoke_class(value.class_, name, value, call)

        if not base.fixed:
            self.solver.wait(base, one)

    def formatted(self, left: Slot, right: Slot, site: CallSite) -> None:
        """``"%s" % x``"""
        if not any(isinstance(value, KnownValue) and value.type_ is str for value in left.values):
            return

        def one(value: Value) -> None:
            if isinstance(value, BoxValue) and value.kind == "tuple":
                self.text(value.every, ["__str__"], site)

        self.text(right, ["__str__"], site)
        self.solver.wait(right, one)

    def same_container(self, side: Slot, result: Slot) -> None:
        def one(value: Value) -> None:
            if isinstance(value, BoxValue | ClassValue | KnownValue):
                self.solver.add(result, value)

        self.solver.wait(side, one)

    def extended(self, target: Slot, value: Slot, site: CallSite) -> None:
        """``xs += ys``"""

        def one(found: Value) -> None:
            if isinstance(found, BoxValue):
                self.iterate(value, found.rest, site)

        self.solver.wait(target, one)

    def merged(self, source: Slot, box: BoxValue) -> None:
        """``{**source}``"""

        def one(value: Value) -> None:
            if isinstance(value, BoxValue) and value is not box:
                self.solver.each_item(value, lambda key, slot: self.solver.flow(slot, self.solver.item(box, key)))
                self.solver.flow(value.rest, box.rest)
                self.solver.flow(value.keys, box.keys)

        self.solver.wait(source, one)

    def contains(self, container: Slot, item: Slot, site: CallSite) -> None:
        def one(value: Value) -> None:
            if isinstance(value, InstanceValue):
                names = ("__contains__", "__iter__", "__getitem__")
                name = next((name for name in names if self.definers(value.class_, name, value.cone)), None)
                if name is not None:
                    self.invoke_class(value.class_, name, value, Call(site, Slot(), [(item, False)], [], Slot()))
            elif isinstance(value, SuspendedValue):
                self.candidate(site, value.function, How.EXACT)

        self.solver.wait(container, one)

    def load_item(self, base: Slot, index: ast.expr, key: Slot, result: Slot, site: CallSite) -> None:
        literal = index.value if isinstance(index, ast.Constant) else None
        if isinstance(index, ast.UnaryOp):
            literal = None

        def one(value: Value) -> None:
            match value:
                case InstanceValue():
                    names = ("__getitem__", "__missing__")
                    for name in names:
                        self.invoke_class(value.class_, name, value, Call(site, Slot(), [(key, False)], [], result))
                    if value.class_.box is not None:
                        one(value.class_.box)
                case BoxValue():
                    if isinstance(index, ast.Slice):
                        self.solver.add(result, value)
                    elif literal is not None and isinstance(literal, str | int | bytes):
                        self.solver.flow(self.solver.item(value, literal), result)
                        self.solver.flow(value.rest, result)
                    else:
                        self.solver.flow(value.every, result)
                case KnownValue():
                    self.solver.add(result, value)
                case ClassValue():
                    self.solver.add(result, value)  # Generic[T]
                    self.invoke_class(
                        value.class_, "__class_getitem__", value, Call(site, Slot(), [(key, False)], [], Slot())
                    )
                    if isinstance(value.class_.metaclass, Class):
                        self.invoke_class(
                            value.class_.metaclass, "__getitem__", value, Call(site, Slot(), [(key, False)], [], result)
                        )
                    if any(base.startswith("enum.") for base in value.class_.outside):
                        self.solver.add(result, self.analysis.instance(value.class_))
                case OutsideValue():
                    if value.path.rpartition(".")[2] in ("Union", "Optional", "Annotated"):
                        self._classes_in(key, result)
                    else:
                        self.solver.add(result, self.analysis.outside(f"{value.path}.()"))

        self.solver.wait(base, one)

    def _classes_in(self, key: Slot, result: Slot) -> None:
        """The classes of ``Union[A, B]`` as a value."""

        def one(value: Value) -> None:
            if isinstance(value, ClassValue):
                self.solver.add(result, value)

        self.solver.within(key, one)

    def store_item(self, base: Slot, index: ast.expr, key: Slot, value: Slot, site: CallSite) -> None:
        literal = index.value if isinstance(index, ast.Constant) else None

        def one(target: Value) -> None:
            if isinstance(target, InstanceValue):
                call = Call(site, Slot(), [(key, False), (value, False)], [], Slot())
                self.invoke_class(target.class_, "__setitem__", target, call)
                if target.class_.box is not None:
                    one(target.class_.box)
            elif isinstance(target, BoxValue):
                if isinstance(literal, str) and len(target.items) < 512:
                    self.solver.flow(value, self.solver.item(target, literal))
                elif isinstance(index, ast.Slice):
                    self.iterate(value, target.rest, site)
                else:
                    self.solver.flow(value, target.rest)
                self.solver.flow(key, target.keys)

        self.solver.wait(base, one)

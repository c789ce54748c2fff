"""The semantics of the language over values: its last part, iteration, and all of it under one name."""

from __future__ import annotations

import ast

from shardwright.sharding.callgraph._analysis import CallSite
from shardwright.sharding.callgraph._call import Call
from shardwright.sharding.callgraph._code import Class
from shardwright.sharding.callgraph._graph import How
from shardwright.sharding.callgraph._operators import Operators
from shardwright.sharding.callgraph._values import (
    BoxValue,
    ClassValue,
    InstanceValue,
    KnownValue,
    OutsideValue,
    Slot,
    SuspendedValue,
    Value,
    WrappedValue,
)


class Calls(Operators):
    """What loading, storing, calling and iterating do with each kind of value."""

    def iterate(self, source: Slot, item: Slot, site: CallSite) -> None:
        """``item`` holds what iterating over ``source`` gives."""
        if source.fixed and not any(isinstance(v, BoxValue | SuspendedValue | InstanceValue) for v in source.values):
            for value in source.values:
                if isinstance(value, KnownValue):
                    self.solver.add(item, value)
            return
        self.solver.wait(source, lambda value: self.iterate_value(value, item, site))

    def iterate_value(self, value: Value, item: Slot, site: CallSite) -> None:
        match value:
            case BoxValue():
                self.solver.flow(value.keys if value.kind == "dict" else value.every, item)
            case SuspendedValue(function=function):
                self.candidate(site, function, How.EXACT)
                self.solver.flow(function.yields, item)
            case InstanceValue(class_=class_):
                if self.definers(class_, "__iter__", value.cone) or self.definers(class_, "__aiter__", value.cone):
                    name = "__iter__" if self.definers(class_, "__iter__", value.cone) else "__aiter__"
                    made = self._iterator(site, class_)
                    self.invoke_class(class_, name, value, Call(site, Slot(), [], [], made))
                    self.solver.wait(made, lambda inner: self._next(inner, item, site))
                elif self.definers(class_, "__getitem__", value.cone) and class_.box is None:
                    self.invoke_class(class_, "__getitem__", value, Call(site, Slot(), [(Slot(), False)], [], item))
                if class_.box is not None:
                    self.iterate_value(class_.box, item, site)
            case ClassValue(class_=class_):
                if isinstance(class_.metaclass, Class):
                    made = self._iterator(site, class_)
                    self.invoke_class(class_.metaclass, "__iter__", value, Call(site, Slot(), [], [], made))
                    self.solver.wait(made, lambda inner: self._next(inner, item, site))
                if any(base.startswith("enum.") for base in class_.outside):
                    self.solver.add(item, self.analysis.instance(class_))
            case KnownValue():
                self.solver.add(item, value)
            case _:
                return

    def _iterator(self, site: CallSite, class_: Class) -> Slot:
        return class_.views.setdefault(("iterator", f"{id(site)}"), Slot())

    def _next(self, value: Value, item: Slot, site: CallSite) -> None:
        if isinstance(value, InstanceValue):
            call = Call(site, Slot(), [], [], item)
            name = "__next__" if self.definers(value.class_, "__next__", value.cone) else "__anext__"
            self.invoke_class(value.class_, name, value, call)
        elif isinstance(value, ClassValue) and isinstance(value.class_.metaclass, Class):
            self.invoke_class(value.class_.metaclass, "__next__", value, Call(site, Slot(), [], [], item))
        else:
            self.iterate_value(value, item, site)

    def next_of(self, source: Slot, item: Slot, site: CallSite) -> None:
        """``next(source)``"""
        self.solver.wait(source, lambda value: self._next(value, item, site))

    def starred(self, source: Slot, site: CallSite) -> None:
        """``f(*source)`` iterates over it."""
        self.iterate(source, Slot(), site)

    def unpack(self, value: Slot, targets: list[Slot], star: int | None, site: CallSite) -> None:
        def one(found: Value) -> None:
            if isinstance(found, BoxValue) and found.kind != "dict":
                for place, target in enumerate(targets):
                    if star is None or place < star:
                        self.solver.flow(self.solver.item(found, place), target)
                        self.solver.flow(found.rest, target)
                    else:
                        self.solver.flow(found.every, target)
            else:
                for target in targets:
                    self.iterate_value(found, target, site)
                if isinstance(found, InstanceValue) and self.is_record(found.class_):
                    self._unpack_record(found.class_, targets)

        self.solver.wait(value, one)

    def _unpack_record(self, class_: Class, targets: list[Slot]) -> None:
        names = [
            item.target.id
            for item in class_.node.body
            if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)
        ]
        for name, target in zip(names, targets, strict=False):
            self.solver.flow(self.stored(class_, name, False), target)

    def delegated(self, source: Slot, yields: Slot, result: Slot, site: CallSite) -> None:
        """``yield from``"""
        self.iterate(source, yields, site)

        def one(value: Value) -> None:
            if isinstance(value, SuspendedValue):
                self.solver.flow(value.function.returns, result)

        self.solver.wait(source, one)

    def awaited(self, source: Slot, result: Slot, site: CallSite) -> None:
        def one(value: Value) -> None:
            match value:
                case SuspendedValue(function=function):
                    self.candidate(site, function, How.EXACT)
                    self.solver.flow(function.yields if function.is_generator else function.returns, result)
                case InstanceValue():
                    self.invoke_class(value.class_, "__await__", value, Call(site, Slot(), [], [], Slot()))
                    self.invoke_class(value.class_, "__anext__", value, Call(site, Slot(), [], [], Slot()))

        self.solver.wait(source, one)

    def entered(self, manager: Slot, result: Slot, site: CallSite) -> None:
        """Context managers that functions make."""

        def one(value: Value) -> None:
            if isinstance(value, WrappedValue) and value.kind == "entered":
                self.candidate(site, value.function, How.OUTSIDE)
                self.solver.flow(value.function.yields, result)
            elif isinstance(value, OutsideValue):
                self.solver.add(result, value)

        self.solver.wait(manager, one)

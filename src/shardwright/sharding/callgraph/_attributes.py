"""What loading and storing an attribute does with each kind of value."""

from __future__ import annotations

import ast

from shardwright.sharding.callgraph._analysis import CallSite
from shardwright.sharding.callgraph._call import Call, Semantics
from shardwright.sharding.callgraph._code import Class
from shardwright.sharding.callgraph._graph import How
from shardwright.sharding.callgraph._values import (
    AccessorValue,
    BoundDecoratedValue,
    BoundValue,
    BoxMethodValue,
    BoxValue,
    ClassValue,
    DecoratedValue,
    FunctionValue,
    InstanceValue,
    KnownValue,
    ModuleValue,
    OutsideValue,
    PartialValue,
    PropertyValue,
    Slot,
    SuperValue,
    Value,
    WrappedValue,
)

_MOST_BELOW = 64  # subclasses whose overrides are looked at
_BOX_METHODS = frozenset(
    name for type_ in (list, dict, set, tuple, frozenset) for name in dir(type_) if not name.startswith("__")
) | {"appendleft", "popleft", "extendleft", "rotate", "maxlen", "move_to_end", "send", "throw", "close"}


class Attributes(Semantics):
    """Attributes of objects, classes and modules, bound to what they are taken from."""

    def load(self, base: Slot, name: str, result: Slot, site: CallSite, node: ast.Attribute | None = None) -> None:
        self.loads.append((base, name, result, site))
        self.solver.wait(base, lambda value: self.load_from(value, name, result, site))

    def load_from(self, value: Value, name: str, result: Slot, site: CallSite) -> None:
        add, flow = self.solver.add, self.solver.flow
        match value:
            case InstanceValue():
                flow(self.stored(value.class_, name, value.cone), result)
                self._of_class(value.class_, name, value.cone, value, result, site)
                if name == "__class__":
                    add(result, self.analysis.class_(value.class_, value.cone))
            case ClassValue():
                self._of_class(value.class_, name, value.cone, value, result, site)
                if value.cone:
                    flow(self.stored(value.class_, name, True), result)
                if isinstance(value.class_.metaclass, Class):
                    owner = self.analysis.instance(value.class_.metaclass)
                    self._of_class(value.class_.metaclass, name, False, owner, result, site)
            case SuperValue():
                self._above(value, name, result, site)
            case ModuleValue():
                flow(self.global_(value.name, name), result)
            case BoxValue():
                if name in _BOX_METHODS:
                    add(result, self.analysis.one(BoxMethodValue, value, name))
            case KnownValue():
                if hasattr(value.type_, name):
                    add(result, self.analysis.outside(f"builtins.{value.type_.__name__}.{name}"))
            case OutsideValue():
                add(result, self.analysis.outside(f"{value.path}.{name}"))
            case PropertyValue():
                if name in ("getter", "setter", "deleter"):
                    add(result, self.analysis.one(AccessorValue, value, name))
                elif name in ("fget", "fset", "fdel"):
                    flow({"fget": value.get, "fset": value.set, "fdel": value.delete}[name], result)
            case BoundValue():
                if name == "__func__":
                    add(result, self.analysis.function(value.function))
                elif name == "__self__":
                    add(result, value.receiver)
            case FunctionValue():
                flow(self.models.function_attribute(value.function, name), result)
                if name in ("__wrapped__", "__call__", "__func__"):
                    add(result, value)
            case PartialValue():
                if name == "func":
                    flow(value.callee, result)
            case DecoratedValue(outer=outer, inner=inner):
                if name in ("__wrapped__", "__call__"):
                    add(result, inner if name == "__wrapped__" else value)
                else:
                    self.load_from(outer, name, result, site)
            case _:
                return

    def stored(self, class_: Class, name: str, cone: bool) -> Slot:
        """What methods store into the attribute, here and above; with ``cone`` below, too."""
        key = ("cone" if cone else "exact", name)
        slot = class_.views.get(key)
        if slot is None:
            slot = class_.views[key] = Slot()
            for above in class_.inside:
                self.solver.flow(above.attributes.setdefault(name, Slot()), slot)
            for below in class_.below[:_MOST_BELOW] if cone else ():
                self.solver.flow(below.attributes.setdefault(name, Slot()), slot)
        return slot

    def definers(self, class_: Class, name: str, cone: bool) -> list[tuple[Class, bool]]:
        """The classes whose body may define the attribute; the flag says that another one may come first."""
        found: dict[Class, bool] = {}
        own = next((item for item in class_.inside if name in item.body), None)
        if own is not None:
            found[own] = False
        for below in class_.below[:_MOST_BELOW] if cone else ():
            first = next((item for item in below.inside if name in item.body), None)
            if first is not None:
                found.setdefault(first, own is not None)
        return list(found.items())

    def _of_class(self, class_: Class, name: str, cone: bool, receiver: Value, result: Slot, site: CallSite) -> None:
        for definer, doubt in self.definers(class_, name, cone):
            inner = receiver
            if doubt or (definer is not class_ and definer in class_.below):
                inner = (
                    self.analysis.class_(definer, True)
                    if isinstance(receiver, ClassValue)
                    else self.analysis.instance(definer, True)
                )
            self._bind_all(definer.body[name], inner, doubt, result, site)

    def _bind_all(self, slot: Slot, receiver: Value, doubt: bool, result: Slot, site: CallSite) -> None:
        self.solver.wait(slot, lambda value: self.bind(value, receiver, doubt, result, site))

    def bind(self, value: Value, receiver: Value, doubt: bool, result: Slot, site: CallSite) -> None:
        """What an attribute of a class gives when it is taken from ``receiver``."""
        add = self.solver.add
        of_class = isinstance(receiver, ClassValue)
        match value:
            case FunctionValue(function=function):
                if of_class and function.name not in ("__init_subclass__", "__class_getitem__"):
                    add(result, value)
                else:
                    add(result, self.analysis.bound(function, receiver, doubt))
            case DecoratedValue(outer=FunctionValue()) if not of_class:
                add(result, self.analysis.one(BoundDecoratedValue, value, receiver, doubt))
            case WrappedValue(function=function, kind="staticmethod"):
                add(result, self.analysis.function(function))
            case WrappedValue(function=function, kind="classmethod"):
                owner = receiver
                if isinstance(receiver, InstanceValue):
                    owner = self.analysis.class_(receiver.class_, receiver.cone)
                add(result, self.analysis.bound(function, owner, doubt))
            case PropertyValue():
                if of_class:
                    add(result, value)
                else:
                    self._read_property(value, result, site, doubt)
            case InstanceValue(class_=class_):
                getters = self.definers(class_, "__get__", value.cone)
                if getters:
                    call = Call(site, Slot(), [(Slot(receiver), False), (Slot(), False)], [], result)
                    self.invoke_class(class_, "__get__", value, call)
                else:
                    add(result, value)
            case _:
                add(result, value)

    def _read_property(self, value: PropertyValue, result: Slot, site: CallSite, doubt: bool) -> None:
        how = How.OUTSIDE if value.cached else How.POSSIBLE if doubt else How.EXACT

        def one(getter: Value) -> None:
            if isinstance(getter, FunctionValue):
                self.candidate(site, getter.function, how)
                self.returned(getter.function, result)

        self.solver.wait(value.get, one)

    def _above(self, value: SuperValue, name: str, result: Slot, site: CallSite) -> None:
        """``super().name``: the next definition after ``class_`` in the order of the class, or of one below it."""
        found: dict[Class, bool] = {}
        for place, start in enumerate((value.class_, *value.class_.below[:_MOST_BELOW])):
            order = start.inside
            behind = order[order.index(value.class_) + 1 :] if value.class_ in order else []
            first = next((item for item in behind if name in item.body), None)
            if first is not None:
                found.setdefault(first, place > 0 and bool(found))
        for definer, doubt in found.items():
            receiver = (
                self.analysis.class_(value.class_, True)
                if value.of_class and name != "__init__"
                else self.analysis.instance(value.class_, True)
            )
            if value.of_class and name == "__new__":
                receiver = self.analysis.class_(value.class_, True)
            self._bind_all(definer.body[name], receiver, doubt, result, site)
        for above in value.class_.inside[1:]:
            self.solver.flow(above.attributes.setdefault(name, Slot()), result)
        if value.class_.box is not None and name in _BOX_METHODS and not found:
            assert isinstance(value.class_.box, BoxValue)
            self.solver.add(result, self.analysis.one(BoxMethodValue, value.class_.box, name))

    def global_(self, module: str, name: str) -> Slot:
        """``module.name``: a global, or a submodule."""
        found = self.analysis.modules.get(module)
        slot = Slot()
        if found is not None:
            symbols = self.analysis.resolver.symbols(module)
            if symbols is None or name in symbols.bindings or name in found.scope.names or symbols.stars:
                slot = self.models.walker.module_slot(found, name)
        if f"{module}.{name}" in self.analysis.modules:
            self.solver.add(slot, self.analysis.module(f"{module}.{name}"))
        return slot

    def store(self, base: Slot, name: str, value: Slot, site: CallSite) -> None:
        self.solver.wait(base, lambda target: self.store_to(target, name, value, site))

    def store_to(self, target: Value, name: str, value: Slot, site: CallSite) -> None:
        if isinstance(target, InstanceValue | ClassValue | ModuleValue):
            self.writes.setdefault((site.caller, target, name), site.line)
        match target:
            case InstanceValue(class_=class_, cone=cone):
                is_property = False
                for definer, doubt in self.definers(class_, name, cone):
                    for held in tuple(definer.body[name].values):
                        is_property = is_property or isinstance(held, PropertyValue)
                        self._store_property(held, value, site, doubt)
                for definer, doubt in self.definers(class_, "__setattr__", cone):
                    for held in tuple(definer.body["__setattr__"].values):
                        if isinstance(held, FunctionValue):
                            self.candidate(site, held.function, How.POSSIBLE if doubt else How.EXACT)
                if not is_property:
                    self.solver.flow(value, class_.attributes.setdefault(name, Slot()))
            case ClassValue(class_=class_):
                self.solver.flow(value, class_.body.setdefault(name, Slot()))
            case ModuleValue(name=module):
                self.solver.flow(value, self.global_(module, name))
            case FunctionValue(function=function):
                self.solver.flow(value, self.models.function_attribute(function, name))
            case BoundValue(function=function):
                self.solver.flow(value, self.models.function_attribute(function, name))

    def _store_property(self, held: Value, value: Slot, site: CallSite, doubt: bool) -> None:
        how = How.POSSIBLE if doubt else How.EXACT
        if isinstance(held, PropertyValue):

            def one(setter: Value) -> None:
                if isinstance(setter, FunctionValue):
                    function = setter.function
                    self.candidate(site, function, how)
                    if len(function.positional) > 1:
                        self.solver.flow(value, function.named[function.positional[1]])

            self.solver.wait(held.set, one)
        elif isinstance(held, InstanceValue):
            call = Call(site, Slot(), [(Slot(), False), (value, False)], [], Slot())
            self.invoke_class(held.class_, "__set__", held, call)

    def deleted(self, base: Slot, name: str, site: CallSite) -> None:
        def one(target: Value) -> None:
            if isinstance(target, InstanceValue):
                for definer, _ in self.definers(target.class_, name, target.cone):
                    for held in tuple(definer.body[name].values):
                        if isinstance(held, PropertyValue):
                            for function in held.delete.values:
                                if isinstance(function, FunctionValue):
                                    self.candidate(site, function.function, How.EXACT)

        self.solver.wait(base, one)

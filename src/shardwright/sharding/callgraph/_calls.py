"""What loading, storing, calling and iterating do with each kind of value.

Over 400 lines: one table of semantics; every part of it calls every other.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from shardwright.sharding.callgraph._analysis import Analysis, CallSite
from shardwright.sharding.callgraph._code import Class, Function, Scope
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
    SuspendedValue,
    Value,
    WrappedValue,
)

if TYPE_CHECKING:
    from shardwright.sharding.callgraph._outside import Outside

_MOST_BELOW = 64  # subclasses whose overrides are looked at
_BOX_METHODS = frozenset(
    name for type_ in (list, dict, set, tuple, frozenset) for name in dir(type_) if not name.startswith("__")
) | {"appendleft", "popleft", "extendleft", "rotate", "maxlen", "move_to_end", "send", "throw", "close"}
_RECORDS = frozenset({"dataclasses.dataclass", "attr.s", "attr.attrs", "attr.dataclass", "attrs.define", "attrs.frozen",
                      "attr.define", "attr.frozen", "attr.mutable", "attrs.mutable"})  # fmt: skip


@dataclass(slots=True, eq=False)
class Call:
    """One call: ``arguments`` with whether they are starred, ``keywords`` with None for ``**``."""

    site: CallSite
    callee: Slot
    arguments: list[tuple[Slot, bool]]
    keywords: list[tuple[str | None, Slot]]
    result: Slot
    decorates: bool = False
    node: ast.Call | None = None
    scope: Scope | None = None
    through: bool = False  # not from the frame of the site, but from a decorator's
    made: dict[object, Value] = field(default_factory=dict)  # containers and the like that this call makes

    def box(self, kind: str, key: object = "") -> BoxValue:
        value = self.made.get((kind, key))
        if value is None:
            value = self.made[kind, key] = BoxValue(kind)
        assert isinstance(value, BoxValue)
        return value

    def slot(self, place: int) -> Slot | None:
        """The slot of a positional argument before any starred one."""
        if place < len(self.arguments) and not any(starred for _, starred in self.arguments[: place + 1]):
            return self.arguments[place][0]
        return None

    def keyword(self, name: str) -> Slot | None:
        return next((slot for key, slot in self.keywords if key == name), None)


class Calls:
    """The semantics. Every method may be called again for values that arrive later, and twice for the same."""

    def __init__(self, analysis: Analysis) -> None:
        self.analysis = analysis
        self.solver = analysis.solver
        self.models: Outside
        self.loads: list[tuple[Slot, str, Slot, CallSite]] = []
        self.writes: dict[tuple[Function, Value, str], int] = {}  # attributes written from outside of ``self``: line
        self._records: dict[Class, bool] = {}

    # -- candidates ----------------------------------------------------------------------------------------------

    def candidate(self, site: CallSite, function: Function, how: How) -> None:
        site.add(function, how)

    # -- attributes ----------------------------------------------------------------------------------------------

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
                    self._invoke_class(class_, "__get__", value, call)
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
            self._invoke_class(held.class_, "__set__", held, call)

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

    # -- calls ---------------------------------------------------------------------------------------------------

    def call(self, call: Call) -> None:
        self.solver.wait(call.callee, lambda value: self.apply(value, call))

    def apply(self, value: Value, call: Call) -> None:
        exact = How.OUTSIDE if call.through else How.EXACT
        match value:
            case FunctionValue(function=function):
                self.candidate(call.site, function, exact)
                self.pass_arguments(function, call, 0)
                if call.decorates:
                    self._decorated(function, call, 0)
                else:
                    self.returned(function, call.result)
            case DecoratedValue():
                self._apply_decorated(value, call, 0, False)
            case BoundDecoratedValue():
                self._apply_decorated(value.decorated, call, 1, value.doubt)
            case BoundValue(function=function):
                how = How.GUESS if value.guess else How.POSSIBLE if value.doubt else How.EXACT
                self.candidate(call.site, function, How.OUTSIDE if call.through else how)
                if function.owner is None and function.positional:  # put into a class from outside of it
                    self.solver.add(function.named[function.positional[0]], value.receiver)
                self.pass_arguments(function, call, 1)
                if call.decorates:
                    self._decorated(function, call, 1)
                else:
                    self.returned(function, call.result)
            case ClassValue():
                self.construct(value, call)
            case InstanceValue() if call.decorates and call.arguments:
                for definer, doubt in self.definers(value.class_, "__call__", value.cone):
                    for held in tuple(definer.body["__call__"].values):
                        self.bind(held, value, doubt, call.callee, call.site)
            case InstanceValue():
                self._invoke_class(value.class_, "__call__", value, call)
            case PartialValue():
                self._apply_partial(value, call)
            case BoxMethodValue():
                self.models.box_method(value, call)
            case OutsideValue():
                self.models.call(value.path, call)
            case WrappedValue(function=function, kind="context"):
                self.candidate(call.site, function, How.OUTSIDE)
                self.pass_arguments(function, call, 0)
                self.solver.add(call.result, self.analysis.one(WrappedValue, function, "entered"))
            case WrappedValue(function=function):
                self.candidate(call.site, function, How.EXACT)
                self.pass_arguments(function, call, 0)
                self.returned(function, call.result)
            case AccessorValue(of=of, which=which):
                for slot, _ in call.arguments[:1]:
                    target = {"getter": of.get, "setter": of.set, "deleter": of.delete}[which]
                    self.solver.flow(slot, target)
                self.solver.add(call.result, of)

    def _decorated(self, decorator: Function, call: Call, offset: int) -> None:
        """What ``@decorator`` makes of its argument: of all that it ever returns, what belongs to this use of it."""
        if not call.arguments:
            return
        argument = call.arguments[0][0]
        names = decorator.positional[offset:]
        taken = decorator.named[names[0]] if names else Slot()
        inside = f"{decorator.id}.<locals>."

        def one(value: Value) -> None:
            if isinstance(value, FunctionValue) and value.function.id.startswith(inside):
                self.solver.wait(argument, lambda inner: self._wrapped(value, inner, call))
            elif value in argument.values or value not in taken.values:
                self.solver.add(call.result, value)

        self.solver.wait(decorator.returns, one)
        self.solver.wait(argument, lambda inner: one(inner) if inner in decorator.returns.values else None)

    def _wrapped(self, outer: Value, inner: Value, call: Call) -> None:
        known = isinstance(inner, FunctionValue | DecoratedValue | WrappedValue)
        self.solver.add(call.result, self.analysis.one(DecoratedValue, outer, inner) if known else outer)

    def _apply_decorated(self, value: DecoratedValue, call: Call, offset: int, doubt: bool) -> None:
        """The outer callable is called; arguments and results are followed to the inner one, and to no other."""
        inner = Call(
            call.site, call.callee, call.arguments, call.keywords, call.result, node=call.node, scope=call.scope, through=True
        )  # fmt: skip
        outer = value.outer
        if isinstance(outer, InstanceValue):
            self._invoke_class(outer.class_, "__call__", outer, Call(call.site, Slot(), [], [], Slot()))
        elif isinstance(outer, FunctionValue):
            how = How.OUTSIDE if call.through else How.POSSIBLE if doubt else How.EXACT
            self.candidate(call.site, outer.function, how)
            self.pass_arguments(outer.function, call, offset, rest=False)
            if not _passes_through(outer.function):
                self.returned(outer.function, call.result)
            elif outer.function.is_async:
                self.solver.add(call.result, self.analysis.suspended(outer.function))
        if offset and isinstance(value.inner, FunctionValue):
            function = value.inner.function
            self.candidate(call.site, function, How.OUTSIDE)
            self.pass_arguments(function, inner, 1)
            self.returned(function, call.result)
        elif offset and isinstance(value.inner, DecoratedValue):
            self._apply_decorated(value.inner, inner, offset, doubt)
        else:
            self.apply(value.inner, inner)

    def returned(self, function: Function, result: Slot) -> None:
        if function.is_generator or function.is_async:
            self.solver.add(result, self.analysis.suspended(function))
        else:
            self.solver.flow(function.returns, result)

    def pass_arguments(self, function: Function, call: Call, offset: int, rest: bool = True) -> None:
        """Arguments flow into parameters; ``offset`` 1 where the first one is filled already."""
        flow = self.solver.flow
        place = offset
        for slot, starred in call.arguments:
            if starred:
                if rest:
                    self._pass_starred(function, slot, place)
                place = len(function.positional) + 1  # whatever follows may be anything
                continue
            if place < len(function.positional):
                flow(slot, function.named[function.positional[place]])
            elif rest and isinstance(function.rest, BoxValue):
                index = place - len(function.positional)
                flow(slot, self.solver.item(function.rest, index) if index < 16 else function.rest.rest)
            place += 1
        for name, slot in call.keywords:
            if name is None:
                if rest:
                    self._pass_mapping(function, slot)
            elif name in function.named:
                flow(slot, function.named[name])
            elif rest and isinstance(function.keyword_rest, BoxValue):
                flow(slot, self.solver.item(function.keyword_rest, name))

    def _pass_starred(self, function: Function, slot: Slot, place: int) -> None:
        def one(value: Value) -> None:
            if not isinstance(value, BoxValue):
                return

            def item(key: object, inner: Slot) -> None:
                if isinstance(key, int):
                    target = place + key
                    if target < len(function.positional):
                        self.solver.flow(inner, function.named[function.positional[target]])
                    elif isinstance(function.rest, BoxValue):
                        index = target - len(function.positional)
                        self.solver.flow(
                            inner, self.solver.item(function.rest, index) if index < 16 else function.rest.rest
                        )

            self.solver.each_item(value, item)
            source = value.keys if value.kind == "dict" else value.rest
            for name in function.positional[place:]:
                self.solver.flow(source, function.named[name])
            if isinstance(function.rest, BoxValue):
                self.solver.flow(source, function.rest.rest)

        self.solver.wait(slot, one)

    def _pass_mapping(self, function: Function, slot: Slot) -> None:
        def one(value: Value) -> None:
            if not isinstance(value, BoxValue):
                return

            def item(key: object, inner: Slot) -> None:
                if not isinstance(key, str):
                    return
                if key in function.named:
                    self.solver.flow(inner, function.named[key])
                elif isinstance(function.keyword_rest, BoxValue):
                    self.solver.flow(inner, self.solver.item(function.keyword_rest, key))

            self.solver.each_item(value, item)
            if isinstance(function.keyword_rest, BoxValue):
                self.solver.flow(value.rest, function.keyword_rest.rest)

        self.solver.wait(slot, one)

    def _apply_partial(self, value: PartialValue, call: Call) -> None:
        first = [(slot, False) for slot in value.first]
        given = {name for name, _ in call.keywords}
        named = [(name, slot) for name, slot in value.named.items() if name not in given]
        inner = call.made.get(value)
        if inner is None:
            more = Call(
                call.site, value.callee, [*first, *call.arguments], [*named, *call.keywords], call.result,
                node=None if first else call.node, scope=call.scope, decorates=call.decorates, through=call.through,
            )  # fmt: skip
            call.made[value] = value
            self.call(more)

    def construct(self, value: ClassValue, call: Call) -> None:
        class_ = value.class_
        if isinstance(class_.metaclass, Class):
            self._invoke_class(class_.metaclass, "__call__", value, call)
        if any(base.startswith("enum.") for base in class_.outside):
            self.solver.add(call.result, self.analysis.instance(class_))
            self._invoke_class(class_, "_missing_", value, call, How.OUTSIDE)
            return
        made = self.analysis.instance(class_, value.cone)
        for definer, doubt in self.definers(class_, "__new__", value.cone):
            inner = Call(
                call.site, Slot(), call.arguments, call.keywords, call.result, node=call.node, scope=call.scope
            )
            for held in tuple(definer.body["__new__"].values):
                function = held.function if isinstance(held, FunctionValue | WrappedValue) else None
                if function is not None:
                    self.candidate(call.site, function, How.POSSIBLE if doubt else How.EXACT)
                    self.pass_arguments(function, inner, 1)
                    self.returned(function, call.result)
        self._invoke_class(class_, "__init__", made, call, keep=False)
        self._record(class_, call)
        if call.decorates and call.arguments:
            self.solver.wait(call.arguments[0][0], lambda inner: self._wrapped(made, inner, call))
        else:
            self.solver.add(call.result, made)
        if class_.box is not None:
            self.solver.add(call.result, class_.box)
            assert isinstance(class_.box, BoxValue)
            for slot, _ in call.arguments[:1]:
                self.iterate(slot, class_.box.rest, call.site)

    def _record(self, class_: Class, call: Call) -> None:
        """Data classes and named tuples: arguments become attributes."""
        if not self.is_record(class_) or any("__init__" in item.body for item in class_.inside):
            return
        names = [
            statement.target.id
            for item in reversed(class_.inside)
            for statement in item.node.body
            if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name)
        ]
        for place, (slot, starred) in enumerate(call.arguments):
            if starred:
                break
            if place < len(names):
                self.solver.flow(slot, class_.attributes.setdefault(names[place], Slot()))
        for name, slot in call.keywords:
            if name in names and name is not None:
                self.solver.flow(slot, class_.attributes.setdefault(name, Slot()))
        self._invoke_class(
            class_,
            "__post_init__",
            self.analysis.instance(class_),
            Call(call.site, Slot(), [], [], Slot()),
            How.OUTSIDE,
        )

    def is_record(self, class_: Class) -> bool:
        known = self._records.get(class_)
        if known is None:
            known = any(base.endswith("NamedTuple") for base in class_.outside)
            for item in class_.inside:
                for decorator in item.node.decorator_list:
                    called = decorator.func if isinstance(decorator, ast.Call) else decorator
                    ref = self.analysis.resolver.expression(item.module.name, called)
                    known = known or (ref is not None and f"{ref.module}.{ref.name}" in _RECORDS)
            self._records[class_] = known
        return known

    def _invoke_class(
        self, class_: Class, name: str, receiver: Value, call: Call, how: How | None = None, keep: bool = True
    ) -> None:
        """Calls a method that the interpreter looks up in the class."""
        cone = isinstance(receiver, InstanceValue | ClassValue) and receiver.cone
        result = call.result if keep else Slot()
        for definer, doubt in self.definers(class_, name, cone):

            def one(held: Value, doubt: bool = doubt) -> None:
                match held:
                    case FunctionValue(function=function):
                        sure = how if how is not None else How.POSSIBLE if doubt else How.EXACT
                        self.candidate(call.site, function, sure)
                        self.pass_arguments(function, call, 1)
                        self.returned(function, result)
                        if function.owner is None and function.positional:
                            self.solver.add(function.named[function.positional[0]], receiver)
                    case WrappedValue(function=function):
                        self.candidate(call.site, function, How.EXACT if how is None else how)
                        self.pass_arguments(function, call, 0 if held.kind == "staticmethod" else 1)
                        self.returned(function, result)
                    case BoundValue() | ClassValue() | PartialValue() | InstanceValue():
                        self.apply(held, call)
                    case _:
                        return

            self.solver.wait(definer.body[name], one)

    def class_made(self, class_: Class, site: CallSite) -> None:
        """Making a class calls ``__init_subclass__``, ``__set_name__`` and the metaclass."""
        for above in class_.inside[1:]:
            if "__init_subclass__" in above.body:
                empty = Call(site, Slot(), [], [], Slot())
                self._invoke_class(above, "__init_subclass__", self.analysis.class_(class_), empty)
                break
        if isinstance(class_.metaclass, Class):
            for name in ("__new__", "__init__", "__prepare__"):
                empty = Call(site, Slot(), [], [], Slot())
                self._invoke_class(class_.metaclass, name, self.analysis.instance(class_.metaclass), empty)
        for slot in tuple(class_.body.values()):
            self.solver.wait(slot, lambda value: self._named(value, site))

    def _named(self, value: Value, site: CallSite) -> None:
        if isinstance(value, InstanceValue) and self.definers(value.class_, "__set_name__", value.cone):
            self._invoke_class(value.class_, "__set_name__", value, Call(site, Slot(), [], [], Slot()))

    # -- what operators and statements call -----------------------------------------------------------------------

    def special(self, base: Slot, name: str, arguments: list[Slot], result: Slot, site: CallSite) -> None:
        """A dunder method of whatever ``base`` holds."""
        call = Call(site, Slot(), [(slot, False) for slot in arguments], [], result)

        def one(value: Value) -> None:
            if isinstance(value, InstanceValue):
                self._invoke_class(value.class_, name, value, call)
            elif isinstance(value, ClassValue) and isinstance(value.class_.metaclass, Class):
                self._invoke_class(value.class_.metaclass, name, value, call)

        self.solver.wait(base, one)

    def truth(self, base: Slot, site: CallSite) -> None:
        def one(value: Value) -> None:
            if isinstance(value, InstanceValue):
                name = "__bool__" if self.definers(value.class_, "__bool__", value.cone) else "__len__"
                self._invoke_class(value.class_, name, value, Call(site, Slot(), [], [], Slot()))

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
                    self._invoke_class(value.class_, name, value, call)

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
                    self._invoke_class(value.class_, name, value, Call(site, Slot(), [(item, False)], [], Slot()))
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
                        self._invoke_class(value.class_, name, value, Call(site, Slot(), [(key, False)], [], result))
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
                    self._invoke_class(
                        value.class_, "__class_getitem__", value, Call(site, Slot(), [(key, False)], [], Slot())
                    )
                    if isinstance(value.class_.metaclass, Class):
                        self._invoke_class(
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
                self._invoke_class(target.class_, "__setitem__", target, call)
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

    # -- iteration -----------------------------------------------------------------------------------------------

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
                    self._invoke_class(class_, name, value, Call(site, Slot(), [], [], made))
                    self.solver.wait(made, lambda inner: self._next(inner, item, site))
                elif self.definers(class_, "__getitem__", value.cone) and class_.box is None:
                    self._invoke_class(class_, "__getitem__", value, Call(site, Slot(), [(Slot(), False)], [], item))
                if class_.box is not None:
                    self.iterate_value(class_.box, item, site)
            case ClassValue(class_=class_):
                if isinstance(class_.metaclass, Class):
                    made = self._iterator(site, class_)
                    self._invoke_class(class_.metaclass, "__iter__", value, Call(site, Slot(), [], [], made))
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
            self._invoke_class(value.class_, name, value, call)
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
                    self._invoke_class(value.class_, "__await__", value, Call(site, Slot(), [], [], Slot()))
                    self._invoke_class(value.class_, "__anext__", value, Call(site, Slot(), [], [], Slot()))

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


def _passes_through(function: Function) -> bool:
    """Whether a wrapper returns nothing but what something that it called gave it."""
    if not isinstance(function.node, ast.FunctionDef | ast.AsyncFunctionDef):
        return False
    returned = [
        item.value for item in ast.walk(function.node) if isinstance(item, ast.Return) and item.value is not None
    ]
    plain = (item.value if isinstance(item, ast.Await) else item for item in returned)
    return bool(returned) and all(isinstance(item, ast.Call | ast.Name | ast.Constant) for item in plain)

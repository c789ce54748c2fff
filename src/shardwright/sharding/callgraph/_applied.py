"""What calling does with each kind of value.

Near 400 lines: calls, decorators, partials and constructors hand arguments on to each other.
"""

from __future__ import annotations

import ast

from shardwright.sharding.callgraph._analysis import Analysis, CallSite
from shardwright.sharding.callgraph._attributes import Attributes
from shardwright.sharding.callgraph._call import Call
from shardwright.sharding.callgraph._code import Class, Function
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
    OutsideValue,
    PartialValue,
    Slot,
    Value,
    WrappedValue,
)

_MOST_WITHIN = 4  # calls that partials and models make in each other; those further in are one call of each site
_RECORDS = frozenset({"dataclasses.dataclass", "attr.s", "attr.attrs", "attr.dataclass", "attrs.define", "attrs.frozen",
                      "attr.define", "attr.frozen", "attr.mutable", "attrs.mutable"})  # fmt: skip


class Applied(Attributes):
    """Arguments flow into parameters, and what is returned to the result."""

    def __init__(self, analysis: Analysis) -> None:
        super().__init__(analysis)
        self._records: dict[Class, bool] = {}
        self._widest: dict[CallSite, Call] = {}

    def call(self, call: Call) -> None:
        self.solver.wait(call.callee, lambda value: self.apply(value, call))

    def within(self, outer: Call, call: Call) -> None:
        """A call that is made by what ``outer`` calls: a partial, or a model of something outside.

        Names that are bound anew make partials of themselves (``f = partial(f, ...)``), and `map` may be handed to `map`. So
        from some depth on all such calls of a site are one, which passes anything anywhere: there are finitely many.
        """
        if outer.depth < _MOST_WITHIN:
            call.depth = outer.depth + 1
            self.call(call)
            return
        widest = self._widest.get(outer.site)
        if widest is None:
            widest = self._widest[outer.site] = Call(outer.site, Slot(), [], [], Slot(), depth=_MOST_WITHIN)
            anything = widest.box("list", "anything")
            widest.arguments = [(anything.every, False)] * 3 + [(Slot(anything), True)]
            widest.keywords = [(None, Slot(widest.box("dict", "anything")))]
            self.call(widest)
        rest, mapping = widest.box("list", "anything").rest, widest.box("dict", "anything")
        for slot, starred in call.arguments:
            if starred:
                self.iterate(slot, rest, call.site)
            else:
                self.solver.flow(slot, rest)
        for name, slot in call.keywords:
            if name is None:
                self.merged(slot, mapping)
            else:
                self.solver.flow(slot, self.solver.item(mapping, name))
        self.solver.flow(call.callee, widest.callee)
        self.solver.flow(widest.result, call.result)

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
                self.invoke_class(value.class_, "__call__", value, call)
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
            call.site, call.callee, call.arguments, call.keywords, call.result, node=call.node, scope=call.scope, through=True,
            depth=call.depth,
        )  # fmt: skip
        outer = value.outer
        if isinstance(outer, InstanceValue):
            self.invoke_class(outer.class_, "__call__", outer, Call(call.site, Slot(), [], [], Slot()))
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
            self.within(call, more)

    def construct(self, value: ClassValue, call: Call) -> None:
        class_ = value.class_
        if isinstance(class_.metaclass, Class):
            self.invoke_class(class_.metaclass, "__call__", value, call)
        if any(base.startswith("enum.") for base in class_.outside):
            self.solver.add(call.result, self.analysis.instance(class_))
            self.invoke_class(class_, "_missing_", value, call, How.OUTSIDE)
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
        self.invoke_class(class_, "__init__", made, call, keep=False)
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
        self.invoke_class(
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

    def invoke_class(
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
                self.invoke_class(above, "__init_subclass__", self.analysis.class_(class_), empty)
                break
        if isinstance(class_.metaclass, Class):
            for name in ("__new__", "__init__", "__prepare__"):
                empty = Call(site, Slot(), [], [], Slot())
                self.invoke_class(class_.metaclass, name, self.analysis.instance(class_.metaclass), empty)
        for slot in tuple(class_.body.values()):
            self.solver.wait(slot, lambda value: self._named(value, site))

    def _named(self, value: Value, site: CallSite) -> None:
        if isinstance(value, InstanceValue) and self.definers(value.class_, "__set_name__", value.cone):
            self.invoke_class(value.class_, "__set_name__", value, Call(site, Slot(), [], [], Slot()))


def _passes_through(function: Function) -> bool:
    """Whether a wrapper returns nothing but what something that it called gave it."""
    if not isinstance(function.node, ast.FunctionDef | ast.AsyncFunctionDef):
        return False
    returned = [
        item.value for item in ast.walk(function.node) if isinstance(item, ast.Return) and item.value is not None
    ]
    plain = (item.value if isinstance(item, ast.Await) else item for item in returned)
    return bool(returned) and all(isinstance(item, ast.Call | ast.Name | ast.Constant) for item in plain)

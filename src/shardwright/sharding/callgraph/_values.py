"""What a variable may hold, as far as analysis knows, and the variables themselves.

The analysis propagates *values* (functions, classes, their instances, containers by the place that makes them) along
*slots* (variables, attributes, parameters, results) until nothing new arrives. It is insensitive to the order of
statements and to who calls: Andersen's inclusion constraints, with function and class values only.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from shardwright.sharding.callgraph._code import Class, Function

_MOST_VALUES = 160  # in one slot; more means that the slot holds anything
_DEEPEST = 40  # callbacks within each other; each is some frames of Python


class Value:
    """Something a slot may hold; one object for each, so that identity is equality."""

    __slots__ = ()


class Slot:
    """A variable of the analysis: its values, the slots they flow to, and who waits for new ones."""

    __slots__ = ("fixed", "flows", "values", "waits")

    def __init__(self, *values: Value) -> None:
        self.values: dict[Value, None] = dict.fromkeys(values)
        self.flows: dict[Slot, None] = {}
        self.waits: list[Callable[[Value], None]] = []
        self.fixed = bool(values)  # of a literal: nothing is ever added


class FunctionValue(Value):
    __slots__ = ("function",)

    def __init__(self, function: Function) -> None:
        self.function = function


class BoundValue(Value):
    """A method with its object. ``doubt``: the object may be of another class, ``guess``: found by its name alone."""

    __slots__ = ("doubt", "function", "guess", "receiver")

    def __init__(self, function: Function, receiver: Value, doubt: bool, guess: bool) -> None:
        self.function, self.receiver, self.doubt, self.guess = function, receiver, doubt, guess


class DecoratedValue(Value):
    """What a decorator of the application made of ``inner``: ``outer`` is called, and will call ``inner``."""

    __slots__ = ("inner", "outer")

    def __init__(self, outer: Value, inner: Value) -> None:
        self.outer, self.inner = outer, inner


class BoundDecoratedValue(Value):
    """A decorated method with its object."""

    __slots__ = ("decorated", "doubt", "receiver")

    def __init__(self, decorated: DecoratedValue, receiver: Value, doubt: bool) -> None:
        self.decorated, self.receiver, self.doubt = decorated, receiver, doubt


class ClassValue(Value):
    """A class; with ``cone``, or a subclass of it."""

    __slots__ = ("class_", "cone")

    def __init__(self, class_: Class, cone: bool) -> None:
        self.class_, self.cone = class_, cone


class InstanceValue(Value):
    """An object of a class; with ``cone``, or of a subclass of it."""

    __slots__ = ("class_", "cone")

    def __init__(self, class_: Class, cone: bool) -> None:
        self.class_, self.cone = class_, cone


class SuperValue(Value):
    """``super()`` in a method of ``class_``; ``of_class`` where the first argument is a class."""

    __slots__ = ("class_", "of_class")

    def __init__(self, class_: Class, of_class: bool) -> None:
        self.class_, self.of_class = class_, of_class


class ModuleValue(Value):
    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name


class OutsideValue(Value):
    """Something of no module of the application, by its dotted path; ``()`` in it stands for a result."""

    __slots__ = ("path",)

    def __init__(self, path: str) -> None:
        self.path = path


class KnownValue(Value):
    """A scalar of a builtin type, such as ``str``."""

    __slots__ = ("type_",)

    def __init__(self, type_: type) -> None:
        self.type_ = type_


class SuspendedValue(Value):
    """The generator or coroutine that calling a function gives."""

    __slots__ = ("function",)

    def __init__(self, function: Function) -> None:
        self.function = function


class WrappedValue(Value):
    """A function behind ``staticmethod``, ``classmethod`` or ``contextmanager`` (``kind``)."""

    __slots__ = ("function", "kind")

    def __init__(self, function: Function, kind: str) -> None:
        self.function, self.kind = function, kind


class PropertyValue(Value):
    """A property made at one place. ``cached``: its getter is called by a frame of the standard library."""

    __slots__ = ("cached", "delete", "get", "set")

    def __init__(self, cached: bool) -> None:
        self.get, self.set, self.delete, self.cached = Slot(), Slot(), Slot(), cached


class AccessorValue(Value):
    """``prop.getter``, ``prop.setter`` or ``prop.deleter``: called with a function, gives the property."""

    __slots__ = ("of", "which")

    def __init__(self, of: PropertyValue, which: str) -> None:
        self.of, self.which = of, which


class PartialValue(Value):
    """``functools.partial(callee, ...)`` made at one place: ``first`` are its positional arguments."""

    __slots__ = ("callee", "first", "named")

    def __init__(self, callee: Slot, first: tuple[Slot, ...], named: dict[str, Slot]) -> None:
        self.callee, self.first, self.named = callee, first, named


class BoxValue(Value):
    """A container made at one place. ``items`` are kept by literal key or position, ``rest`` holds all others.

    ``every`` is the union of both; ``keys`` what iterating over a mapping gives.
    """

    __slots__ = ("every", "items", "keys", "kind", "listeners", "rest")

    def __init__(self, kind: str) -> None:
        self.kind = kind  # list, tuple, dict, set, iterator
        self.items: dict[Hashable, Slot] = {}
        self.rest, self.every, self.keys = Slot(), Slot(), Slot()
        self.rest.flows[self.every] = None
        self.listeners: list[Callable[[Hashable, Slot], None]] = []


class BoxMethodValue(Value):
    """A method of a container, such as ``append``."""

    __slots__ = ("box", "name")

    def __init__(self, box: BoxValue, name: str) -> None:
        self.box, self.name = box, name


class Solver:
    """Moves values along slots until nothing new arrives."""

    def __init__(self) -> None:
        self._todo: list[tuple[Slot, Value]] = []
        self._late: list[tuple[Callable[[Value], None], Value]] = []
        self._depth = 0

    def add(self, slot: Slot, value: Value) -> None:
        if value not in slot.values and not slot.fixed and len(slot.values) < _MOST_VALUES:
            slot.values[value] = None
            if slot.flows or slot.waits:
                self._todo.append((slot, value))

    def flow(self, source: Slot, target: Slot) -> None:
        """All that ``source`` holds, ``target`` holds too."""
        if source is target or target.fixed or target in source.flows:
            return
        if not source.fixed:
            source.flows[target] = None
        for value in source.values:
            self.add(target, value)

    def wait(self, slot: Slot, callback: Callable[[Value], None]) -> None:
        """Calls back once for every value that ``slot`` holds or will hold.

        Callbacks wait for other slots in their turn; those that would be too deep in each other are left for `run`.
        """
        if not slot.fixed:
            slot.waits.append(callback)
        if self._depth >= _DEEPEST:
            self._late += [(callback, value) for value in slot.values]
            return
        self._depth += 1
        try:
            for value in tuple(slot.values):
                callback(value)
        finally:
            self._depth -= 1

    def within(self, slot: Slot, callback: Callable[[Value], None]) -> None:
        """Like `wait`, for values in containers in the slot, too."""
        seen: set[BoxValue] = set()

        def one(value: Value) -> None:
            if not isinstance(value, BoxValue):
                callback(value)
            elif value not in seen:
                seen.add(value)
                self.wait(value.every, one)

        self.wait(slot, one)

    def item(self, box: BoxValue, key: Hashable) -> Slot:
        """The slot of one literal key of a container."""
        slot = box.items.get(key)
        if slot is None:
            slot = box.items[key] = Slot()
            self.flow(slot, box.every)
            for listener in tuple(box.listeners):
                listener(key, slot)
        return slot

    def each_item(self, box: BoxValue, listener: Callable[[Hashable, Slot], None]) -> None:
        """Calls back once for every literal key of a container, now and later."""
        box.listeners.append(listener)
        for key, slot in tuple(box.items.items()):
            listener(key, slot)

    def run(self) -> None:
        todo, late = self._todo, self._late
        while todo or late:
            if not todo:
                callback, value = late.pop()
                callback(value)
                continue
            slot, value = todo.pop()
            for target in tuple(slot.flows):
                self.add(target, value)
            for callback in tuple(slot.waits):
                callback(value)

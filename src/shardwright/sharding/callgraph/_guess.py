"""Candidates by name alone, for objects of which nothing is known."""

from __future__ import annotations

from shardwright.sharding.callgraph._analysis import Analysis, CallSite
from shardwright.sharding.callgraph._calls import Calls
from shardwright.sharding.callgraph._code import Class
from shardwright.sharding.callgraph._graph import How
from shardwright.sharding.callgraph._values import (
    BoundDecoratedValue,
    BoxValue,
    ClassValue,
    DecoratedValue,
    FunctionValue,
    InstanceValue,
    KnownValue,
    ModuleValue,
    OutsideValue,
    PropertyValue,
    Slot,
    SuspendedValue,
    WrappedValue,
)

_MOST = 4  # classes that define a name; more of them, and the name tells nothing
_BUILTIN = frozenset(name for type_ in (str, bytes, list, dict, set, tuple, int) for name in dir(type_)) | {
    "read", "write", "close", "flush", "readline", "readlines", "seek", "tell", "fileno", "send", "throw", "group",
    "groups", "match", "search", "sub", "start", "end", "span", "put", "acquire", "release", "wait", "set", "next",
    "name", "stem", "suffix", "parent", "open", "exists", "run", "debug", "info", "warning", "error", "exception",
}  # fmt: skip


class Guesses:
    """Looks at attribute loads that found nothing, the least ambiguous names first."""

    def __init__(self, analysis: Analysis, calls: Calls) -> None:
        self.analysis = analysis
        self.calls = calls
        self._classes: dict[str, list[Class]] = {}
        for class_ in analysis.classes():
            for name in class_.body:
                if not (name.startswith("__") and name.endswith("__")):
                    self._classes.setdefault(name, []).append(class_)
        self._done: set[tuple[int, str]] = set()

    def spread(self, most: int) -> bool:
        """Adds candidates where at most ``most`` unrelated classes define the name; False when nothing was added."""
        added = False
        for base, name, result, site in tuple(self.calls.loads):
            if result.values or base.fixed or (id(result), name) in self._done:
                continue
            classes = self._roots(name)
            if not classes or len(classes) > most or not self._open(base, name):
                continue
            self._done.add((id(result), name))
            for class_ in classes:
                self._add(class_, name, result, site)
            added = True
        self.analysis.solver.run()
        return added

    def missing(self) -> None:
        """Attributes that no class and no method defines, of objects whose class has ``__getattr__``."""
        for base, name, result, site in tuple(self.calls.loads):
            if result.values or (name.startswith("__") and name.endswith("__")):
                continue
            for value in tuple(base.values):
                if isinstance(value, InstanceValue):
                    for definer, _ in self.calls.definers(value.class_, "__getattr__", value.cone):
                        self._answer(definer, result, site)
                elif isinstance(value, ModuleValue):
                    self._answer_of_module(value.name, result, site)
        self.analysis.solver.run()

    def _answer(self, definer: Class, result: Slot, site: CallSite) -> None:
        for held in tuple(definer.body["__getattr__"].values):
            if isinstance(held, FunctionValue):
                self.calls.candidate(site, held.function, How.POSSIBLE)
                self.calls.returned(held.function, result)

    def _answer_of_module(self, name: str, result: Slot, site: CallSite) -> None:
        module = self.analysis.modules.get(name)
        held = module.scope.names.get("__getattr__") if module is not None else None
        for value in tuple(held.values) if held is not None else ():
            if isinstance(value, FunctionValue):
                self.calls.candidate(site, value.function, How.POSSIBLE)
                self.calls.returned(value.function, result)

    def _roots(self, name: str) -> list[Class]:
        """The classes that define the name and inherit it from none of the others."""
        found = self._classes.get(name, [])
        return [item for item in found if not any(above in found for above in item.inside[1:])]

    @staticmethod
    def _open(base: Slot, name: str) -> bool:
        """Whether the object may be of a class under analysis, as far as its values tell."""
        if name in _BUILTIN:
            return False
        kinds = {type(value) for value in base.values}
        if kinds & {KnownValue, BoxValue, SuspendedValue, InstanceValue, ClassValue, ModuleValue}:
            return False
        return all("()" in value.path for value in base.values if isinstance(value, OutsideValue)) or not kinds

    def _add(self, class_: Class, name: str, result: Slot, site: CallSite) -> None:
        receiver = self.analysis.instance(class_, cone=True)
        for definer, _ in self.calls.definers(class_, name, True):
            for value in tuple(definer.body[name].values):
                match value:
                    case FunctionValue(function=function):
                        self.analysis.solver.add(
                            result, self.analysis.bound(function, self.analysis.instance(definer, True), True, True)
                        )
                    case WrappedValue(function=function):
                        self.analysis.solver.add(result, self.analysis.bound(function, receiver, True, True))
                    case DecoratedValue(outer=FunctionValue()):
                        self.analysis.solver.add(result, self.analysis.one(BoundDecoratedValue, value, receiver, True))
                    case PropertyValue():
                        for getter in tuple(value.get.values):
                            if isinstance(getter, FunctionValue):
                                how = How.OUTSIDE if value.cached else How.GUESS
                                self.calls.candidate(site, getter.function, how)
                                self.calls.returned(getter.function, result)

"""Which classes may cross, by name, and how their instances are laid out.

The allow-list is fixed when the edge is planned. A peer's message can name a class, never import one: a name outside
the list is refused before anything is looked up.
"""

from __future__ import annotations

import collections
import enum
import os
import sys
import types
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any

from msgspec import Struct

from shardwright.transport.codec._wire import Kind, Refusal

__all__ = ["ClassPlan", "ClassTable"]

_BASES: dict[type, Kind] = {
    list: Kind.LIST,
    dict: Kind.DICT,
    set: Kind.SET,
    collections.deque: Kind.DEQUE,
    collections.OrderedDict: Kind.ORDERED_DICT,
    collections.defaultdict: Kind.DEFAULT_DICT,
    bytearray: Kind.BYTEARRAY,
    tuple: Kind.VALUE,
    frozenset: Kind.VALUE,
    str: Kind.VALUE,
    bytes: Kind.VALUE,
    int: Kind.VALUE,
    float: Kind.VALUE,
    complex: Kind.VALUE,
    BaseException: Kind.EXCEPTION,
    enum.Enum: Kind.ENUM,
    types.SimpleNamespace: Kind.OBJECT,
    object: Kind.OBJECT,
}
_COPY_METHODS = (
    "__reduce__",
    "__reduce_ex__",
    "__getstate__",
    "__setstate__",
    "__getnewargs__",
    "__getnewargs_ex__",
    "__del__",
)
# Whose copy methods are part of the layout that we know, or are generated and say nothing beyond it.
_KNOWN_OWNERS = frozenset({*_BASES, collections.Counter})
_GENERATED_IN = frozenset({"dataclasses", "collections", "typing"})
_HEAP_TYPE = 1 << 9  # Py_TPFLAGS_HEAPTYPE: made by a class statement


class ClassPlan(Struct, frozen=True):
    """How instances of one class are taken apart and built, without running any code of the class."""

    cls: type
    name: str
    kind: Kind
    base: type  # whose ``__new__`` builds it
    has_dict: bool
    slots: tuple[tuple[str, Any], ...]  # wire name and member descriptor

    @property
    def has_state(self) -> bool:
        return self.has_dict or bool(self.slots)


class ClassTable:
    """The classes (and functions) that may cross one edge.

    ``names`` is the allow-list of ``"module:Qualname"``; ``resolve`` returns the object of such a name and is called
    only with names of the list, at most once each while it succeeds.
    """

    __slots__ = ("_names", "_plans", "_plans_by_name", "_resolve", "_resolved")

    def __init__(self, names: Iterable[str] = (), resolve: Callable[[str], Any] | None = None) -> None:
        self._names = frozenset(names)
        self._resolve = resolve
        self._resolved: dict[str, Any] = {}
        self._plans: dict[type, ClassPlan] = {}
        self._plans_by_name: dict[str, ClassPlan] = {}

    def __repr__(self) -> str:
        return f"ClassTable({len(self._names)} names)"

    @property
    def names(self) -> frozenset[str]:
        return self._names

    def name_of(self, thing: Any) -> str | None:
        """The listed name of a class or function, or None. Does not look inside anything else."""
        name = qualified_name(thing)
        return name if name in self._names else None

    def object_of(self, name: str) -> Any:
        """The class or function of a listed name; raises LookupError for any other."""
        if name not in self._names:
            raise LookupError(f"{name!r} is not in the list of this edge")
        try:
            return self._resolved[name]
        except KeyError:
            pass
        if self._resolve is None:
            raise LookupError(f"{name!r} cannot be resolved here")
        thing = self._resolved[name] = self._resolve(name)
        return thing

    def plan_of(self, cls: type) -> ClassPlan:
        """How instances of ``cls`` cross; raises Refusal when they do not."""
        plan = self._plans.get(cls)
        if plan is None:
            plan = self._plans[cls] = self._classify(cls)
            self._plans_by_name[plan.name] = plan
        return plan

    def plan_named(self, name: str) -> ClassPlan:
        """The plan of a class by its listed name; raises LookupError or Refusal."""
        plan = self._plans_by_name.get(name)
        if plan is None:
            cls = _ALWAYS.get(name)
            if cls is None:
                cls = self.object_of(name)
            if not isinstance(cls, type):
                raise LookupError(f"{name!r} is not a class")
            plan = self.plan_of(cls)
            if plan.name != name:
                raise LookupError(f"{name!r} is known as {plan.name!r} here")
        return plan

    def _classify(self, cls: type) -> ClassPlan:
        name = qualified_name(cls)
        if _ALWAYS.get(name) is not cls:
            if name not in self._names:
                if cls.__module__ == "__main__":
                    raise Refusal(
                        None,
                        f"instance of {cls.__qualname__}, a class that only this script or notebook has",
                        "define it in a module of the application, and import it from there; or pass plain data",
                    )
                raise Refusal(
                    None,
                    f"instance of {name.replace(':', '.')}, a class that is not known on both sides of this edge",
                    _remedy(cls, "list it as a value class of the component, or under `stateful` to pass it by handle"),
                )
            try:
                same = self.object_of(name) is cls
            except Exception as error:
                raise Refusal(None, f"instance of {name}, which cannot be looked up here: {error}") from None
            if not same:
                raise Refusal(None, f"instance of a class that is no longer the one called {name}")
        base = enum.Enum if enum.Enum in cls.__mro__ else next(k for k in cls.__mro__ if k in _BASES)
        kind = _BASES[base]
        if kind is Kind.EXCEPTION:
            base = next(k for k in cls.__mro__ if not k.__flags__ & _HEAP_TYPE)
        else:
            _refuse_own_copying(cls)
        slots = slots_of(cls)
        plan = ClassPlan(cls, name, kind, base, cls.__dictoffset__ != 0, slots)
        if plan.has_dict and not _plain_dict_attribute(cls):
            raise Refusal(None, f"instance of {name}, which replaces __dict__")
        if kind not in (Kind.ENUM, Kind.EXCEPTION):
            try:
                new: Any = base.__new__
                new(cls)
            except TypeError as error:
                raise Refusal(None, f"instance of {name}, which cannot be built from its attributes: {error}") from None
        return plan


_ALWAYS: dict[str, type] = {"types:SimpleNamespace": types.SimpleNamespace}


def qualified_name(thing: Any) -> str:
    """``"module:Qualname"`` of a class or function; ``""`` for anything that lacks either."""
    module = getattr(thing, "__module__", None)
    qualname = getattr(thing, "__qualname__", None)
    return f"{module}:{qualname}" if type(module) is str and type(qualname) is str else ""


def instance_dict(instance: object) -> dict[str, Any]:
    """The attributes, whatever the class's own ``__getattribute__`` says."""
    state: dict[str, Any] = object.__getattribute__(instance, "__dict__")
    return state


def _remedy(cls: type, of_the_application: str) -> str:
    """What helps depends on whose class it is: the manifest can speak of the application's own alone."""
    always = "pass plain data that it can be made from, or keep both sides in one component"
    if "<locals>" in cls.__qualname__:
        return f"define the class at the top of a module of the application; or {always}"
    file = getattr(sys.modules.get(cls.__module__), "__file__", None) or ""
    top = cls.__module__.partition(".")[0]
    if top in sys.stdlib_module_names or f"{os.sep}site-packages{os.sep}" in file:
        return always
    return f"{of_the_application}; or {always}"


def _refuse_own_copying(cls: type) -> None:
    for method in _COPY_METHODS:
        for owner in cls.__mro__:
            function = vars(owner).get(method)
            if function is None:
                continue
            if owner in _KNOWN_OWNERS or _BASES.get(owner) is not None:
                break
            if isinstance(function, types.FunctionType) and function.__globals__.get("__name__") in _GENERATED_IN:
                break
            if issubclass(cls, enum.Enum) and owner.__module__ == "enum":
                break
            raise Refusal(
                None,
                f"instance of {cls.__module__}.{cls.__qualname__}, which defines {method}: a copy might lose something",
                _remedy(cls, "list it under `stateful` to pass it by handle"),
            )


@lru_cache(maxsize=1024)
def slots_of(cls: type) -> tuple[tuple[str, Any], ...]:
    """Name and descriptor of each slot that a class statement made, the bases' too."""
    found: dict[str, Any] = {}
    for owner in cls.__mro__:
        if "__slots__" not in vars(owner) or not owner.__flags__ & _HEAP_TYPE:
            continue
        for name, descriptor in vars(owner).items():
            if type(descriptor) is types.MemberDescriptorType and descriptor.__objclass__ is owner:
                found[name if name not in found else f"{owner.__qualname__}.{name}"] = descriptor
    return tuple(found.items())


def _plain_dict_attribute(cls: type) -> bool:
    for owner in cls.__mro__:
        descriptor = vars(owner).get("__dict__")
        if descriptor is not None:
            return isinstance(descriptor, types.GetSetDescriptorType) or not owner.__flags__ & _HEAP_TYPE
    return True

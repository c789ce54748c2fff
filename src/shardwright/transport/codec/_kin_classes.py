"""What classes were given after they were made: a metaclass or a class method fills in what objects then rely on.

A class goes by its name, and is on the other side as importing made it. What was *added* to it since travels ahead of the
first object of it, once for each link, in the way values do.
"""

from __future__ import annotations

import sys
from collections import namedtuple
from enum import EnumType
from types import GetSetDescriptorType, MemberDescriptorType, ModuleType
from typing import Any

from shardwright.transport.codec._kin_code import codes_of

__all__ = ["Given", "executed", "put", "was_there"]

_NOT_OWN = frozenset({"shardwright", *sys.stdlib_module_names})
_foreign: set[str] = set()  # modules whose classes are as importing made them, as far as anybody knows
_made: dict[type, frozenset[str]] = {}  # which attributes classes had when their module had been executed


def executed(module: ModuleType, *, late: bool = False) -> None:
    """A module is there: what its classes hold now, importing makes anywhere.

    ``late``: it was there before anybody asked; then what the bodies of its classes name is taken for that.
    """
    bodies = {code.co_qualname: code.co_names for code in codes_of(module.__name__)} if late else {}
    for value in list(vars(module).values()):
        if isinstance(value, type) and value.__module__ == module.__name__ and value not in _made:
            named = bodies.get(value.__qualname__)
            _made[value] = frozenset(vars(value) if named is None else vars(value).keys() & {*named, *_own(value)})


def was_there(module: ModuleType) -> None:
    """As ``executed``, of a module that has been there for some time."""
    executed(module, late=True)


def _noted(cls: type) -> bool:
    """Whether it is known what importing made of a class: of the program's own modules that nobody watched, by their code."""
    if cls not in _made and cls.__module__ not in _foreign:
        module = sys.modules.get(cls.__module__)
        if module is None or not _own_code(module):
            _foreign.add(cls.__module__)
        else:
            executed(module, late=True)
            _made.setdefault(cls, frozenset(vars(cls)))  # of a class inside of something
    return cls in _made


def _own_code(module: ModuleType) -> bool:
    """Whether it is of the program, its tests among it: neither of Python, nor of what was installed, nor of ours."""
    top = module.__name__.partition(".")[0]
    path = getattr(module, "__file__", None) or ""
    return path.endswith(".py") and top not in _NOT_OWN and "site-packages" not in path


_Field = namedtuple("_Field", "x")
_OF_TUPLES = frozenset({"_asdict", "_field_defaults", "_fields", "_make", "_replace"})
_OF_PROTOCOLS = frozenset({"_is_protocol", "_is_runtime_protocol"})
_OF_FIELDS = (MemberDescriptorType, GetSetDescriptorType, type(_Field.x))


def _own(cls: type) -> list[str]:
    """What a class statement makes though its body does not name it: fields, and what enums, tuples and protocols need."""
    named = _OF_PROTOCOLS | _OF_TUPLES if issubclass(cls, tuple) else _OF_PROTOCOLS
    closed = isinstance(cls, EnumType)
    return [
        name
        for name, value in vars(cls).items()
        if name.startswith("__")
        or name in named
        or isinstance(value, _OF_FIELDS)
        or (closed and name.startswith("_") and name.endswith("_"))
    ]


class Given:
    """What one peer has been given."""

    def __init__(self) -> None:
        self._had: dict[type, int] = {}

    def to_give(self, classes: set[type]) -> list[tuple[type, int, dict[str, Any]]]:
        """What these classes, and those that they derive from, have by now and the peer does not, as far as is known."""
        found = []
        for cls in {above for each in classes for above in each.__mro__ if _noted(above)}:
            if len(vars(cls)) != self._had.get(cls, len(_made[cls])):
                held = _made[cls]
                added = {name: value for name, value in vars(cls).items() if name not in held and not _is_made(name)}
                if added:
                    found.append((cls, len(vars(cls)), added))
        return found

    def gave(self, given: list[tuple[type, int, dict[str, Any]]]) -> None:
        """The peer has answered a request that these came with."""
        for cls, size, _ in given:
            self._had[cls] = size


def _is_made(name: str) -> bool:
    """What the interpreter adds of its own accord, or ``copyreg`` and ``abc`` do."""
    return name.startswith("__") or name.startswith("_abc_")


def put(given: list[tuple[type, int, dict[str, Any]]]) -> None:
    """Give classes here what they were given there, where they do not have it."""
    for cls, _, added in given:
        for name, value in added.items():
            if name not in vars(cls):
                type.__setattr__(cls, name, value)

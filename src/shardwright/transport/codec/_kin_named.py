"""Objects that are one of a kind: those that copy themselves as themselves. They go by a name.

``copy.deepcopy`` of such an object is the object itself. A module of its class holds it, or holds one from which attributes
lead to it; the path is its name on both sides, and each side has its own.
"""

from __future__ import annotations

import importlib
import pickle
import sys
from collections import deque
from collections.abc import Callable
from types import FunctionType, ModuleType
from typing import Any

__all__ = ["is_single", "named", "reached", "sentinel"]

_MOST = 20_000  # objects that are looked through
_copiers: dict[type, Callable[..., Any] | None] = {}
_known: dict[int, tuple[Any, str, str]] = {}


def _copies_itself(cls: type) -> Callable[..., Any] | None:
    if cls not in _copiers:
        _copiers[cls] = _copier(cls)
    return _copiers[cls]


def _copier(cls: type) -> Callable[..., Any] | None:
    found = getattr(cls, "__deepcopy__", None)
    if type(found) is not FunctionType or found.__module__.partition(".")[0] in sys.stdlib_module_names:
        return None  # members of an Enum say the same of themselves, and pickle by name
    return found


def is_single(thing: object) -> bool:
    """Whether a thing says that there is just one of it."""
    copy = _copies_itself(type(thing))
    if copy is None:
        return False
    try:
        return copy(thing, {}) is thing
    except Exception:
        return False


def named(thing: Any) -> tuple[str, str] | None:
    """The module and the path from there that lead to a thing; None where nothing does."""
    found = _known.get(id(thing))
    if found is not None and found[0] is thing:
        return found[1], found[2]
    cls = type(thing)
    module = sys.modules.get(cls.__module__)
    if not isinstance(module, ModuleType):
        return None
    todo = deque((value, name) for name, value in list(vars(module).items()) if type(value) is cls)
    seen: set[int] = set()
    while todo and len(seen) < _MOST:
        item, path = todo.popleft()
        if id(item) in seen:
            continue
        seen.add(id(item))
        _known[id(item)] = (item, cls.__module__, path)
        todo += [
            (value, f"{path}.{name}")
            for name, value in list(getattr(item, "__dict__", {}).items())
            if type(value) is cls
        ]
    found = _known.get(id(thing))
    return (found[1], found[2]) if found is not None and found[0] is thing else None


def reached(module: str, path: str) -> Any:
    """The thing of that name on this side."""
    found: Any = sys.modules[module]
    for part in path.split("."):
        found = getattr(found, part)
    return found


def sentinel(thing: object) -> Any:
    """A plain ``object()`` goes by the name of the module global that holds it."""
    for name, module in list(sys.modules.items()):
        if name == "__main__" or not isinstance(module, ModuleType):
            continue
        for key, value in list(vars(module).items()):
            if value is thing:
                return _global, (name, key)
    raise pickle.PicklingError("an object() that no module holds is the same nowhere else")


def _global(module: str, name: str) -> Any:
    return getattr(importlib.import_module(module), name)

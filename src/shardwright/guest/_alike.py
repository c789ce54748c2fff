"""Whether two values are the same in all that a program can see of them, but for who they are."""

from __future__ import annotations

import array
import copyreg
import types
from collections import deque
from typing import Any

_BY_VALUE = (str, bytes, int, float, complex, bool, type(None), range, slice)
_MISSING = object()


def alike(one: Any, other: Any) -> bool:
    """Walks both at once. What is shared or leads back in one must do so in the other; strings and numbers are just equal.

    Types must be the very same, and dictionaries in the same order. Functions are alike by their code and what they hold.
    """
    pairs: dict[int, int] = {}
    back: dict[int, int] = {}
    alive: list[Any] = []  # what a property makes anew would else give its number to something else
    todo = [(one, other)]
    while todo:
        a, b = todo.pop()
        if a is b:
            continue
        cls = type(a)
        if cls is not type(b):
            return False
        if cls in _BY_VALUE:
            if a != b and not (a != a and b != b):
                return False
            continue
        if cls is tuple or cls is frozenset:
            if len(a) != len(b):
                return False
            if cls is frozenset:
                if a != b:
                    return False
            else:
                todo += zip(a, b, strict=True)
            continue
        known = pairs.get(id(a), _MISSING)
        if known is not _MISSING:
            if known != id(b):
                return False
            continue
        if id(b) in back:
            return False
        pairs[id(a)], back[id(b)] = id(b), id(a)
        alive += (a, b)
        more = _parts(a, b)
        if more is None:
            return False
        todo += more
    return True


def _parts(a: Any, b: Any) -> list[tuple[Any, Any]] | None:
    """What is left to compare of two objects of one class; None when they differ already."""
    found: list[tuple[Any, Any]] = []
    plain = False
    if isinstance(a, (list, tuple, deque)):
        if len(a) != len(b):
            return None
        found += zip(a, b, strict=True)
        plain = True
    elif isinstance(a, dict):
        if len(a) != len(b):
            return None
        found += zip(a, b, strict=True)
        found += zip(a.values(), b.values(), strict=True)
        plain = True
    elif isinstance(a, (set, frozenset)):
        if len(a) != len(b) or (a != b and sorted(map(repr, a)) != sorted(map(repr, b))):
            return None
        plain = True
    elif isinstance(a, (bytearray, memoryview, array.array)):
        return [] if a == b else None
    elif isinstance(a, types.FunctionType):
        if a.__code__ != b.__code__ or len(a.__closure__ or ()) != len(b.__closure__ or ()):
            return None
        pairs = zip(a.__closure__ or (), b.__closure__ or (), strict=True)
        found += [(_content(one), _content(other)) for one, other in pairs]
        found += [(a.__defaults__, b.__defaults__), (a.__kwdefaults__, b.__kwdefaults__)]
    elif isinstance(a, types.MethodType):
        return [(a.__func__, b.__func__), (a.__self__, b.__self__)]
    elif isinstance(a, types.BuiltinFunctionType) and not isinstance(a.__self__, types.ModuleType):
        return [(a.__self__, b.__self__)] if a.__qualname__ == b.__qualname__ else None
    elif isinstance(a, (type, types.ModuleType, types.BuiltinFunctionType)):
        return [] if a is b or a == b else None
    elif isinstance(a, BaseException):
        found.append((a.args, b.args))
        plain = True
    own = getattr(a, "__dict__", None)
    if isinstance(own, dict):
        others = b.__dict__
        if own.keys() != others.keys():
            return None
        found += [(value, others[name]) for name, value in own.items()]
        plain = True
    slots = copyreg._slotnames(type(a))  # type: ignore[attr-defined]
    for name in slots:
        one, other = getattr(a, name, _MISSING), getattr(b, name, _MISSING)
        if one is not other:
            found.append((one, other))
        plain = True
    if not plain and not found:
        try:
            return [] if bool(a == b) else None
        except Exception:
            return None
    return found


def _content(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        return None

"""Classes and functions of Python itself that may be passed by name on every edge: none of them reaches outside."""

from __future__ import annotations

import array
import builtins
import collections
import datetime
import decimal
import importlib
import sys
import uuid
from typing import Any

__all__ = ["builtin_named", "name_of_builtin"]

_TYPES = (
    object, bool, int, float, complex, str, bytes, bytearray, tuple, list, dict, set, frozenset, slice, range,
    memoryview, enumerate, zip, map, filter, reversed, type(None),
    collections.deque, collections.OrderedDict, collections.defaultdict, collections.Counter, array.array,
    datetime.datetime, datetime.date, datetime.time, datetime.timedelta, datetime.timezone,
    decimal.Decimal, uuid.UUID,
)  # fmt: skip
_LATE = {  # whose modules many shards never import
    "python:Fraction": "fractions",
    "python:PurePath": "pathlib",
    "python:PurePosixPath": "pathlib",
    "python:PureWindowsPath": "pathlib",
    "python:Path": "pathlib",
    "python:PosixPath": "pathlib",
}
_FUNCTIONS = (
    abs, all, any, ascii, bin, chr, divmod, format, hash, hex, len, max, min, oct, ord, pow, repr, round, sorted, sum,
)  # fmt: skip

_NAMES: dict[str, Any] = {}
for _thing in (*_TYPES, *_FUNCTIONS):
    _NAMES[f"python:{_thing.__qualname__}"] = _thing
for _thing in vars(builtins).values():
    if isinstance(_thing, type) and issubclass(_thing, BaseException):
        _NAMES[f"python:{_thing.__qualname__}"] = _thing

_BY_ID = {id(thing): name for name, thing in _NAMES.items()}


def builtin_named(name: str) -> Any:
    """What that name stands for; None where it is none of these."""
    thing = _NAMES.get(name)
    if thing is None and (module := _LATE.get(name)) is not None:
        thing = getattr(importlib.import_module(module), name.partition(":")[2])
    return thing


def name_of_builtin(thing: object) -> str | None:
    name = _BY_ID.get(id(thing))
    if name is None and isinstance(thing, type):
        late = f"python:{thing.__qualname__}"
        module = sys.modules.get(_LATE.get(late, ""))  # who has the class has its module
        if module is not None and getattr(module, thing.__qualname__, None) is thing:
            return late
    return name

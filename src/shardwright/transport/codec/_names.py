"""Classes and functions of Python itself that may be passed by name on every edge: none of them reaches outside."""

from __future__ import annotations

import array
import builtins
import collections
import datetime
import decimal
import fractions
import pathlib
import uuid
from typing import Any

__all__ = ["BUILTIN_NAMES", "name_of_builtin"]

_TYPES = (
    object, bool, int, float, complex, str, bytes, bytearray, tuple, list, dict, set, frozenset, slice, range,
    memoryview, enumerate, zip, map, filter, reversed, type(None),
    collections.deque, collections.OrderedDict, collections.defaultdict, collections.Counter, array.array,
    datetime.datetime, datetime.date, datetime.time, datetime.timedelta, datetime.timezone,
    decimal.Decimal, fractions.Fraction, uuid.UUID,
    pathlib.PurePath, pathlib.PurePosixPath, pathlib.PureWindowsPath, pathlib.Path, pathlib.PosixPath,
)  # fmt: skip
_FUNCTIONS = (
    abs, all, any, ascii, bin, chr, divmod, format, hash, hex, len, max, min, oct, ord, pow, repr, round, sorted, sum,
)  # fmt: skip

BUILTIN_NAMES: dict[str, Any] = {}
for _thing in (*_TYPES, *_FUNCTIONS):
    BUILTIN_NAMES[f"python:{_thing.__qualname__}"] = _thing
for _thing in vars(builtins).values():
    if isinstance(_thing, type) and issubclass(_thing, BaseException):
        BUILTIN_NAMES[f"python:{_thing.__qualname__}"] = _thing

_BY_ID = {id(thing): name for name, thing in BUILTIN_NAMES.items()}


def name_of_builtin(thing: object) -> str | None:
    return _BY_ID.get(id(thing))

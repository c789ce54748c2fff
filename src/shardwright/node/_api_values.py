"""Arguments and results of calls made by hand, as JSON that people can read. A view, not a codec."""

from __future__ import annotations

import base64
import collections
import dataclasses
import enum
import math
import time
from collections.abc import Iterable
from typing import Any

BYTES = "__bytes__"
_DEEPEST = 40
_CONTAINER = 16  # more than its two brackets, for it takes more memory than text does
_LOOK_EVERY = 1000  # values, at the clock


class TooMuch(Exception):
    """The JSON would be larger than it may be."""


def readable(value: Any, most: int | None = None, end_s: float | None = None) -> Any:
    """``value`` in JSON's types. Data classes are objects, bytes ``{"__bytes__": base64}``, sets and tuples lists.

    Anything else is its ``repr``. No method of a class of the application is called. Raises TooMuch when the JSON would
    have more than about ``most`` bytes, however small the value is in memory, and TimeoutError after ``end_s`` of the
    monotonic clock.
    """
    return _Reader(most, end_s).read(value, 0, frozenset())


def from_json(value: Any) -> Any:
    """An argument as the caller meant it: ``{"__bytes__": base64}`` is bytes, everything else itself.

    Raises ValueError for a marker that holds no base64.
    """
    if isinstance(value, list):
        return [from_json(item) for item in value]
    if isinstance(value, dict):
        if value.keys() == {BYTES} and isinstance(value[BYTES], str):
            return base64.b64decode(value[BYTES], validate=True)
        return {key: from_json(item) for key, item in value.items()}
    return value


class _Reader:
    def __init__(self, most: int | None, end_s: float | None) -> None:
        self._left = most
        self._end_s = end_s
        self._until_look = _LOOK_EVERY

    def charge(self, size: int) -> None:
        if self._left is not None:
            self._left -= size
            if self._left < 0:
                raise TooMuch
        self._until_look -= 1
        if not self._until_look:
            self._until_look = _LOOK_EVERY
            if self._end_s is not None and time.monotonic() > self._end_s:
                raise TimeoutError

    def read(self, value: Any, depth: int, above: frozenset[int]) -> Any:
        self.charge(2)  # two brackets, or a digit, and what is between values
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, enum.Enum):
            return self.read(value._value_, depth, above)
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, int):
            number = int.__int__(value)
            if -(2**63) <= number < 2**64:
                return number
            self.charge(number.bit_length() // 4)
            return str(number)
        if isinstance(value, float):
            real = float.__float__(value)
            return real if math.isfinite(real) else repr(real)
        if isinstance(value, (bytes, bytearray, memoryview)):
            self.charge(4 * len(memoryview(value)) // 3)
            return {BYTES: base64.b64encode(memoryview(value)).decode("ascii")}
        if depth > _DEEPEST or id(value) in above:
            return "..."
        self.charge(_CONTAINER - 2)
        inside = above | {id(value)}
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            held = {f.name: _attribute(value, f.name) for f in dataclasses.fields(value)}
            return {self.text(name): self.read(item, depth + 1, inside) for name, item in held.items()}
        if isinstance(value, tuple) and isinstance(names := getattr(type(value), "_fields", None), tuple):
            pairs = zip(names, tuple.__iter__(value), strict=False)
            return {self.text(name): self.read(item, depth + 1, inside) for name, item in pairs}
        if isinstance(value, dict):
            return {self.key(key): self.read(item, depth + 1, inside) for key, item in dict.items(value)}
        items = _items_of(value)
        if items is not None:
            return [self.read(item, depth + 1, inside) for item in items]
        return self.text(_shown(value))

    def text(self, value: str) -> str:
        self.charge(str.__len__(value))
        return str.encode(value, "utf-8", "backslashreplace").decode()  # lone surrogates are not JSON

    def key(self, key: Any) -> str:
        if isinstance(key, enum.Enum):
            key = key._value_
        return self.text(key if isinstance(key, str) else _shown(key))


_ITEMS: dict[type, Any] = {kind: kind.__iter__ for kind in (list, tuple, collections.deque, set, frozenset)}


def _items_of(value: Any) -> Iterable[Any] | None:
    """Those of a sequence or, in the order of how they show, of a set; whatever its class's own methods say."""
    for kind, iterate in _ITEMS.items():
        if isinstance(value, kind):
            return sorted(iterate(value), key=_shown) if kind in (set, frozenset) else iterate(value)
    return None


def _attribute(value: object, name: str) -> Any:
    try:
        return object.__getattribute__(value, name)
    except Exception:
        return None


def _shown(value: Any) -> str:
    """Its ``repr``; just its class where that is code of the application."""
    try:
        return repr(value)
    except Exception:
        return f"<{type(value).__module__}.{type(value).__qualname__}>"

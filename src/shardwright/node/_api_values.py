"""Arguments and results of calls made by hand, as JSON that people can read. A view, not a codec."""

from __future__ import annotations

import base64
import dataclasses
import enum
import math
from collections.abc import Mapping, Set
from typing import Any

BYTES = "__bytes__"
_DEEPEST = 40


def readable(value: Any) -> Any:
    """``value`` in JSON's types. Data classes are objects, bytes ``{"__bytes__": base64}``, sets and tuples lists.

    Anything else is its ``repr``.
    """
    return _readable(value, 0, frozenset())


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


def _readable(value: Any, depth: int, above: frozenset[int]) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, enum.Enum):
        return _readable(value.value, depth, above)
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()  # lone surrogates are not JSON
    if isinstance(value, int):
        return int(value) if -(2**63) <= value < 2**64 else str(int(value))
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else repr(float(value))
    if isinstance(value, (bytes, bytearray, memoryview)):
        return {BYTES: base64.b64encode(value).decode("ascii")}
    if depth > _DEEPEST or id(value) in above:
        return "..."
    inside = above | {id(value)}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = dataclasses.fields(value)
        return {f.name: _readable(getattr(value, f.name, None), depth + 1, inside) for f in fields}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return {name: _readable(item, depth + 1, inside) for name, item in zip(value._fields, value, strict=False)}
    if isinstance(value, Mapping):
        return {_key(key): _readable(item, depth + 1, inside) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_readable(item, depth + 1, inside) for item in value]
    if isinstance(value, Set):
        return [_readable(item, depth + 1, inside) for item in sorted(value, key=repr)]
    return repr(value)


def _key(key: Any) -> str:
    if isinstance(key, enum.Enum):
        key = key.value
    return key.encode("utf-8", "backslashreplace").decode() if isinstance(key, str) else str(key)

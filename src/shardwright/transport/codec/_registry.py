"""Types that cross as parts: library types that both sides have, taken apart and rebuilt by known functions.

A registered value is treated as immutable: a change to it is not carried back.
"""

from __future__ import annotations

import datetime
import re
import uuid
from collections.abc import Callable
from decimal import Decimal
from typing import Any, TypeVar

from msgspec import Struct

__all__ = ["Registered", "register"]

T = TypeVar("T")


class Registered(Struct, frozen=True):
    """How a type crosses: ``to_parts`` returns a tuple of values that cross, ``from_parts`` takes them as arguments."""

    cls: type
    name: str
    to_parts: Callable[[Any], tuple[Any, ...]]
    from_parts: Callable[..., Any]


BY_CLASS: dict[type, Registered] = {}
BY_NAME: dict[str, Registered] = {}


def register(cls: type[T], name: str, to_parts: Callable[[T], tuple[Any, ...]], from_parts: Callable[..., T]) -> None:
    """Let instances of exactly ``cls`` cross, on this side, under ``name`` (the same on both sides).

    ``from_parts`` is called with whatever a peer sent: it must check its arguments, must not run what they name, and
    refuses by raising any exception. Codecs made before do not learn of it if they met the class already. Raises
    ValueError when the class or the name is taken.
    """
    _bring_rest()
    if cls in BY_CLASS or name in BY_NAME:
        raise ValueError(f"{cls!r} or the name {name!r} is registered already")
    add(cls, name, to_parts, from_parts)


def add(cls: type[T], name: str, to_parts: Callable[[T], tuple[Any, ...]], from_parts: Callable[..., T]) -> None:
    BY_CLASS[cls] = BY_NAME[name] = Registered(cls, name, to_parts, from_parts)


def of_class(cls: type) -> Registered | None:
    """How instances of exactly that class cross, if they do."""
    found = BY_CLASS.get(cls)
    if found is None and str(cls.__module__).partition(".")[0] in _REST:
        _bring_rest()
        found = BY_CLASS.get(cls)
    return found


def of_name(name: str) -> Registered | None:
    """What a peer calls by that name, if anything."""
    found = BY_NAME.get(name)
    if found is None and name.partition(".")[0] in _REST_NAMES:  # no other name that a peer sends has an import done
        _bring_rest()
        found = BY_NAME.get(name)
    return found


_REST = frozenset({"fractions", "ipaddress", "pathlib", "zoneinfo"})
_REST_NAMES = frozenset({"fraction", "ip", "path", "zoneinfo"})


def _bring_rest() -> None:
    """The types whose modules cost a guest's start a tenth: who has such a value has the module."""
    from shardwright.transport.codec import _registry_rest

    del _registry_rest


def _ints(*values: object) -> None:
    for value in values:
        if type(value) is not int:
            raise TypeError(f"{value!r} is no integer")


def _tzinfo(value: Any) -> None:
    if value is not None and type(value) is not datetime.timezone:
        known = of_class(type(value))
        if known is None or known.name != "zoneinfo":
            raise TypeError("an unknown kind of time zone")


def _datetime_parts(v: datetime.datetime) -> tuple[Any, ...]:
    return (v.year, v.month, v.day, v.hour, v.minute, v.second, v.microsecond, v.fold, v.tzinfo)


def _datetime(*parts: Any) -> datetime.datetime:
    year, month, day, hour, minute, second, microsecond, fold, tzinfo = parts
    _ints(*parts[:8])
    _tzinfo(tzinfo)
    return datetime.datetime(year, month, day, hour, minute, second, microsecond, tzinfo, fold=fold)


def _date(year: int, month: int, day: int) -> datetime.date:
    _ints(year, month, day)
    return datetime.date(year, month, day)


def _time_parts(v: datetime.time) -> tuple[Any, ...]:
    return (v.hour, v.minute, v.second, v.microsecond, v.fold, v.tzinfo)


def _time(hour: int, minute: int, second: int, microsecond: int, fold: int, tzinfo: Any) -> datetime.time:
    _ints(hour, minute, second, microsecond, fold)
    _tzinfo(tzinfo)
    return datetime.time(hour, minute, second, microsecond, tzinfo, fold=fold)


def _timedelta(days: int, seconds: int, microseconds: int) -> datetime.timedelta:
    _ints(days, seconds, microseconds)
    return datetime.timedelta(days, seconds, microseconds)


def _timezone(offset: datetime.timedelta, *name: str) -> datetime.timezone:
    return datetime.timezone(offset, *name)


def _timezone_parts(v: Any) -> tuple[Any, ...]:
    return tuple(v.__getinitargs__())


_DECIMAL = re.compile(r"-?(?:\d+(?:\.\d*)?|\.\d+)(?:E[+-]?\d{1,20})?|-?Infinity|-?s?NaN\d*", re.ASCII)


def _decimal(text: str) -> Decimal:
    if not _DECIMAL.fullmatch(text):
        raise ValueError("no decimal number")
    return Decimal(text)


def _uuid(value: int, is_safe: Any) -> uuid.UUID:
    _ints(value)
    return uuid.UUID(int=value, is_safe=uuid.SafeUUID(is_safe))


_PATTERN_BYTES = 16 * 1024
_FLAGS = re.ASCII | re.IGNORECASE | re.LOCALE | re.MULTILINE | re.DOTALL | re.VERBOSE | re.UNICODE


def _pattern_parts(v: re.Pattern[Any]) -> tuple[Any, ...]:
    if len(v.pattern) > _PATTERN_BYTES:
        raise ValueError(f"a pattern of more than {_PATTERN_BYTES} characters")
    return (v.pattern, v.flags & int(_FLAGS))


def _pattern(pattern: str | bytes, flags: int) -> re.Pattern[Any]:
    _ints(flags)
    if type(pattern) not in (str, bytes) or len(pattern) > _PATTERN_BYTES or flags & ~int(_FLAGS):
        raise ValueError("no pattern")
    return re.compile(pattern, flags)


add(datetime.datetime, "datetime", _datetime_parts, _datetime)
add(datetime.date, "date", lambda v: (v.year, v.month, v.day), _date)
add(datetime.time, "time", _time_parts, _time)
add(datetime.timedelta, "timedelta", lambda v: (v.days, v.seconds, v.microseconds), _timedelta)
add(datetime.timezone, "timezone", _timezone_parts, _timezone)
add(Decimal, "decimal", lambda v: (str(v),), _decimal)
add(uuid.UUID, "uuid", lambda v: (v.int, v.is_safe.value), _uuid)
add(re.Pattern, "pattern", _pattern_parts, _pattern)

"""The registered types of modules that many shards never import; ``_registry`` imports this when one is met."""

from __future__ import annotations

import contextlib
import fractions
import ipaddress
import pathlib
import zoneinfo
from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar

from shardwright.transport.codec._registry import _ints, add

T = TypeVar("T")


@cache
def _zones() -> frozenset[str]:
    return frozenset(zoneinfo.available_timezones())


def _zone_parts(v: zoneinfo.ZoneInfo) -> tuple[Any, ...]:
    if v.key is None:
        raise ValueError("a time zone read from a file, without a key")
    return (v.key,)


def _zone(key: str) -> zoneinfo.ZoneInfo:
    if key not in _zones():  # a name never becomes a path
        raise ValueError(f"unknown time zone {key!r}")
    return zoneinfo.ZoneInfo(key)


def _fraction(numerator: int, denominator: int) -> fractions.Fraction:
    _ints(numerator, denominator)
    if denominator <= 0:
        raise ValueError("a denominator that is not positive")
    # Not by the constructor: reducing two hostile integers of megabytes would take hours.
    value = fractions.Fraction.__new__(fractions.Fraction)
    value._numerator = numerator  # type: ignore[attr-defined]
    value._denominator = denominator  # type: ignore[attr-defined]
    return value


def _path_maker(cls: type[T]) -> Callable[[str], T]:
    def make(text: str) -> T:
        if type(text) is not str:
            raise TypeError("a path that is no string")
        return cls(text)  # type: ignore[call-arg]

    return make


def _address_maker(cls: type[T]) -> Callable[[str], T]:
    def make(text: str) -> T:
        if type(text) is not str or len(text) > 128:
            raise ValueError("no address")
        return cls(text)  # type: ignore[call-arg]

    return make


# Where the application has a module of that name, which it may, ours is not to be had: then its classes are as any others.
with contextlib.suppress(AttributeError):
    add(zoneinfo.ZoneInfo, "zoneinfo", _zone_parts, _zone)
with contextlib.suppress(AttributeError):
    add(fractions.Fraction, "fraction", lambda v: (v.numerator, v.denominator), _fraction)
with contextlib.suppress(AttributeError):
    for _kind in (
        ipaddress.IPv4Address, ipaddress.IPv6Address, ipaddress.IPv4Network, ipaddress.IPv6Network,
        ipaddress.IPv4Interface, ipaddress.IPv6Interface,
    ):  # fmt: skip
        add(_kind, f"ip.{_kind.__name__}", lambda v: (str(v),), _address_maker(_kind))
with contextlib.suppress(AttributeError):
    for _cls in (pathlib.PurePosixPath, pathlib.PureWindowsPath, type(pathlib.Path())):
        add(_cls, f"path.{_cls.__name__}", lambda v: (str(v),), _path_maker(_cls))

"""Shapes: what a value of the manifest may be. Each reads a value, and describes itself as JSON Schema.

Reading never raises: a value that does not fit is reported at its place and becomes ``BAD``, so that one pass finds
every problem. The layout of the manifest (``_layout``) is written in these shapes, once, for both uses.
"""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date, time
from typing import Any, Final, Literal

from msgspec import Struct
from msgspec.structs import replace

from shardwright.manifest._document import VARIABLE, Document, Filled
from shardwright.manifest._places import KeyPath
from shardwright.manifest._report import Problem, Report, nearest, one_of
from shardwright.model.units import QuantityKind

Schema = dict[str, Any]
_VARIABLE_SCHEMA: Final[Schema] = {"type": "string", "pattern": VARIABLE}


class _Bad:
    def __repr__(self) -> str:
        return "BAD"


BAD: Final = _Bad()


class At(Struct, frozen=True):
    """The key being read, and where to report what is wrong with it."""

    document: Document
    report: Report
    path: KeyPath = ()

    def child(self, key: str | int) -> At:
        return replace(self, path=(*self.path, key))

    def wrong(self, what: str, expected: str = "", near: str = "") -> _Bad:
        self.report.add(Problem(self.document.place(self.path), self.path, what, expected, near))
        return BAD

    @property
    def already_wrong(self) -> bool:
        return self.report.faulty(self.path)


def show(value: object) -> str:
    """A value as a message may quote it: short, on one line, and without what the environment filled in."""
    if isinstance(value, Filled):
        value = value.template
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, list):
        return "an array"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        text = '"' + repr(value)[1:-1].replace('"', '\\"').replace("\\'", "'") + '"'
    elif isinstance(value, (date, time)):
        text = value.isoformat()
    elif isinstance(value, int) and abs(value) >= 2**64:
        return "an integer of more than 64 bits"
    else:
        text = repr(value)
    return text if len(text) <= 60 else f"{text[:56]}...{text[-1]}"


class Shape(ABC):
    """What one value may be."""

    @abstractmethod
    def read(self, value: object, at: At) -> Any:
        """The typed value; or BAD, with the problem reported."""

    @abstractmethod
    def schema(self) -> Schema:
        """The JSON Schema of the values that ``read`` takes, as far as one can say it there."""


@dataclass(frozen=True, slots=True)
class Text(Shape):
    """A string that matches ``pattern``. ``convert`` makes the typed value, or raises ValueError with the reason."""

    expected: str = "a string that is not empty"
    pattern: str = r"^[^\x00]+$"
    convert: Callable[[str], Any] = str
    valid: tuple[str, ...] = ()  # names to suggest
    near: Callable[[str], str] | None = None

    def read(self, value: object, at: At) -> Any:
        if at.already_wrong:
            return BAD
        if not isinstance(value, str):
            return at.wrong(f"{show(value)} is not a string", self.expected)
        reason = ""
        if _encodable(value) and re.search(self.pattern.removesuffix("$") + r"\Z", value):
            try:
                return self.convert(str(value))
            except ValueError as error:
                reason = f": {error}"
        near = ""
        if not isinstance(value, Filled):
            near = self.near(value) if self.near is not None else nearest(value, self.valid)
        return at.wrong(f"{show(value)} does not fit{reason}", self.expected, near if self._fits(near) else "")

    def _fits(self, value: str) -> bool:
        """Whether a value could stand here; of some kinds only the beginning is told."""
        if self.near is None or not re.search(self.pattern.removesuffix("$") + r"\Z", value):
            return bool(value)
        try:
            self.convert(value)
        except ValueError:
            return False
        return True

    def schema(self) -> Schema:
        pattern = {"type": "string", "pattern": self.pattern}
        if re.search(self.pattern, "${NAME}"):
            return pattern
        return {"anyOf": [pattern, _VARIABLE_SCHEMA]}


def _encodable(text: str) -> bool:
    """Not so for bytes of the environment that are not UTF-8."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def quantity(kind: QuantityKind, parse: Callable[[str], float], *, positive: bool = False) -> Text:
    """An amount with its unit, as a number of base units."""

    def convert(text: str) -> float:
        amount = parse(text)
        if positive and amount <= 0:
            raise ValueError("it must be more than nothing")
        return amount

    return Text(kind.expected, kind.pattern, convert, near=kind.nearest)


@dataclass(frozen=True, slots=True)
class Choice(Shape):
    """One of a few names. ``convert`` makes the typed value of it."""

    names: tuple[str, ...]
    convert: Callable[[str], Any] = str

    def read(self, value: object, at: At) -> Any:
        if at.already_wrong:
            return BAD
        if isinstance(value, str) and value in self.names:
            return self.convert(str(value))
        near = nearest(value, self.names) if isinstance(value, str) and not isinstance(value, Filled) else ""
        return at.wrong(f"{show(value)} is none of the choices", one_of(self.names), near)

    def schema(self) -> Schema:
        return {"anyOf": [{"enum": list(self.names)}, _VARIABLE_SCHEMA]}


@dataclass(frozen=True, slots=True)
class Flag(Shape):
    def read(self, value: object, at: At) -> Any:
        if at.already_wrong:
            return BAD
        if isinstance(value, Filled) and value in ("true", "false"):
            return value == "true"
        return value if isinstance(value, bool) else at.wrong(f"{show(value)} is not a boolean", "true or false")

    def schema(self) -> Schema:
        return {"anyOf": [{"type": "boolean"}, _VARIABLE_SCHEMA]}


@dataclass(frozen=True, slots=True)
class Number(Shape):
    """A number within bounds: whole, or any finite one. ``above`` excludes the lower bound itself."""

    low: float
    high: float
    kind: Literal["integer", "number"] = "number"
    above: bool = False

    @property
    def _noun(self) -> str:
        return "a whole number" if self.kind == "integer" else "a number"

    @property
    def expected(self) -> str:
        bounds = f"above {self.low:.15g} and at most" if self.above else f"from {self.low:.15g} to"
        return f"{self._noun} {bounds} {self.high:.15g}"

    def read(self, value: object, at: At) -> Any:
        if at.already_wrong:
            return BAD
        number: object = value
        if isinstance(value, Filled):
            try:
                number = int(value) if self.kind == "integer" else float(value)
            except ValueError:
                return at.wrong(f"{show(value)} is not filled with a number", self.expected)
        if isinstance(number, bool) or not isinstance(number, (int,) if self.kind == "integer" else (int, float)):
            return at.wrong(f"{show(value)} is not {self._noun}", self.expected)
        if isinstance(number, float) and not math.isfinite(number):
            return at.wrong(f"{show(value)} is not finite", self.expected)
        if number < self.low or number > self.high or (self.above and number == self.low):
            return at.wrong(f"{show(value)} is out of range", self.expected)
        return number if self.kind == "integer" else float(number)

    def schema(self) -> Schema:
        low = "exclusiveMinimum" if self.above else "minimum"
        return {"anyOf": [{"type": self.kind, low: self.low, "maximum": self.high}, _VARIABLE_SCHEMA]}


@dataclass(frozen=True, slots=True)
class ListOf(Shape):
    """An array; reads as a tuple of the elements that fit."""

    item: Shape
    expected: str = "an array of strings"

    def read(self, value: object, at: At) -> Any:
        if not isinstance(value, list):
            return at.wrong(f"{show(value)} is not an array", self.expected)
        items = [self.item.read(inner, at.child(index)) for index, inner in enumerate(value)]
        if isinstance(self.item, Table):  # an empty table in place of a bad one keeps the others' indices true
            return tuple({} if item is BAD else item for item in items)
        return tuple(item for item in items if item is not BAD)

    def schema(self) -> Schema:
        return {"type": "array", "items": self.item.schema()}


class Key(Struct, frozen=True):
    """One key of a table: its shape, what it is for (shown by editors), and its default (shown too)."""

    shape: Shape
    about: str
    required: bool = False
    default: object = None
    examples: tuple[object, ...] = ()


@dataclass(frozen=True, slots=True)
class Table(Shape):
    """A table of known keys; reads as a dict of those that were given and fit."""

    keys: Mapping[str, Key]

    def read(self, value: object, at: At) -> Any:
        if not isinstance(value, dict):
            return at.wrong(f"{show(value)} is not a table", f"a table with {one_of(sorted(self.keys))}")
        result = {}
        for name, inner in value.items():
            if name not in self.keys:
                at.child(name).wrong("unknown key", one_of(sorted(self.keys)), nearest(name, self.keys))
                continue
            typed = self.keys[name].shape.read(inner, at.child(name))
            if typed is not BAD:
                result[name] = typed
        for name, key in self.keys.items():
            if key.required and name not in value:
                at.child(name).wrong("missing", getattr(key.shape, "expected", "a table"))
        return result

    def schema(self) -> Schema:
        properties = {}
        for name, key in self.keys.items():
            schema = {"description": key.about, **key.shape.schema()}
            if key.default is not None:
                schema["default"] = key.default
            if key.examples:
                schema["examples"] = list(key.examples)
            properties[name] = schema
        required = [name for name, key in self.keys.items() if key.required]
        schema = {"type": "object", "additionalProperties": False, "properties": properties}
        return schema | {"required": required} if required else schema


@dataclass(frozen=True, slots=True)
class Named(Shape):
    """A table whose keys are the author's own names, all values of one shape; reads as a dict.

    A value that does not fit reads as BAD, for its name may still be referred to.
    """

    item: Shape
    expected: str
    pattern: str

    def read(self, value: object, at: At) -> Any:
        if not isinstance(value, dict):
            return at.wrong(f"{show(value)} is not a table", f"a table of {self.expected}")
        result = {}
        for name, inner in value.items():
            result[name] = self.item.read(inner, at.child(name))
            if not re.search(self.pattern.removesuffix("$") + r"\Z", name):
                at.child(name).wrong("not a name that fits here", self.expected)
        return result

    def schema(self) -> Schema:
        return {
            "type": "object",
            "propertyNames": {"pattern": self.pattern},
            "additionalProperties": self.item.schema(),
        }

"""One call as the analysis sees it, and what the parts of its semantics share."""

from __future__ import annotations

import ast
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from msgspec import Struct, field

from shardwright.sharding.callgraph._analysis import Analysis, CallSite
from shardwright.sharding.callgraph._code import Class, Function, Scope
from shardwright.sharding.callgraph._graph import How
from shardwright.sharding.callgraph._values import (
    BoxValue,
    Slot,
    Value,
)

if TYPE_CHECKING:
    from shardwright.sharding.callgraph._outside import Outside


class Call(Struct, eq=False):
    """One call: ``arguments`` with whether they are starred, ``keywords`` with None for ``**``."""

    site: CallSite
    callee: Slot
    arguments: list[tuple[Slot, bool]]
    keywords: list[tuple[str | None, Slot]]
    result: Slot
    decorates: bool = False
    node: ast.Call | None = None
    scope: Scope | None = None
    through: bool = False  # not from the frame of the site, but from a decorator's
    depth: int = 0  # calls that partials and models make in each other
    made: dict[object, Value] = field(default_factory=dict)  # containers and the like that this call makes

    def box(self, kind: str, key: object = "") -> BoxValue:
        value = self.made.get((kind, key))
        if value is None:
            value = self.made[kind, key] = BoxValue(kind)
        assert isinstance(value, BoxValue)
        return value

    def slot(self, place: int) -> Slot | None:
        """The slot of a positional argument before any starred one."""
        if place < len(self.arguments) and not any(starred for _, starred in self.arguments[: place + 1]):
            return self.arguments[place][0]
        return None

    def keyword(self, name: str) -> Slot | None:
        return next((slot for key, slot in self.keywords if key == name), None)


class Semantics(ABC):
    """What all parts of the semantics share, and what they ask of each other.

    Every method may be called again for values that arrive later, and twice for the same.
    """

    def __init__(self, analysis: Analysis) -> None:
        self.analysis = analysis
        self.solver = analysis.solver
        self.models: Outside
        self.loads: list[tuple[Slot, str, Slot, CallSite]] = []
        self.writes: dict[tuple[Function, Value, str], int] = {}  # attributes written from outside of ``self``: line

    def candidate(self, site: CallSite, function: Function, how: How) -> None:
        site.add(function, how)

    @abstractmethod
    def returned(self, function: Function, result: Slot) -> None:
        """What calling the function gives flows to ``result``."""

    @abstractmethod
    def iterate(self, source: Slot, item: Slot, site: CallSite) -> None:
        """``item`` holds what iterating over ``source`` gives."""

    @abstractmethod
    def merged(self, source: Slot, box: BoxValue) -> None:
        """``{**source}``"""

    @abstractmethod
    def invoke_class(
        self, class_: Class, name: str, receiver: Value, call: Call, how: How | None = None, keep: bool = True
    ) -> None:
        """Calls a method that the interpreter looks up in the class."""

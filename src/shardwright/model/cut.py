"""Cuts inside components, as they were decided: plain data that travels with the plan."""

from __future__ import annotations

from msgspec import Struct

from shardwright.model.ids import ComponentName, MethodId


class LoopCall(Struct, frozen=True):
    """A call of a cut function in the body of a loop: the place of its expression in the source."""

    function: str
    line: int
    column: int


class Loop(Struct, frozen=True):
    """A loop whose calls may begin before their turn: ``line`` and ``column`` of the loop or comprehension."""

    module: str
    line: int
    column: int
    calls: tuple[LoopCall, ...]


class CutFunction(Struct, frozen=True):
    """A function or method whose calls run in another shard, as entry point ``method_id`` of it."""

    module: str
    qualname: str
    line: int
    method_id: MethodId

    @property
    def id(self) -> str:
        return f"{self.module}:{self.qualname}"


class Cut(Struct, frozen=True):
    """Functions of ``component`` that run in shards of their own, of the definition ``part``.

    ``calls``, ``moved_s`` (what they take uncut), ``cost_s`` (of crossing) and ``gain_s`` (by running at once, cost taken
    off) are of the profiled run, and ``predicted_s`` is what that run would take cut so. ``priority`` is 1 for the greatest
    gain. ``loops`` run ahead, ``window`` calls at once.
    """

    component: ComponentName
    part: ComponentName
    functions: tuple[CutFunction, ...]
    loops: tuple[Loop, ...]
    shards: int
    window: int
    calls: int
    moved_s: float
    size_bytes: int
    cost_s: float
    gain_s: float
    priority: int
    reason: str
    predicted_s: float = 0.0
    gains_s: tuple[float, ...] = ()  # of each function: what the run would take longer without it

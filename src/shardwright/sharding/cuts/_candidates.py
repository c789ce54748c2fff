"""Functions that may be cut: what was measured of them, and who called them."""

from __future__ import annotations

from msgspec import Struct

from shardwright.model.cut import Loop
from shardwright.model.profile import Measured, MeasuredEdge, Profile
from shardwright.sharding.cuts._alone import Alone


class Candidate(Struct):
    measured: Measured
    ahead_calls: int
    loops: list[tuple[str, Loop]]
    cost_s: float = 0.0
    gain_s: float = 0.0
    goes_along: bool = False  # other cut functions make all of its calls


class Callers:
    """Who called whom, as runs showed it."""

    def __init__(self, alone: Alone, profile: Profile) -> None:
        self._alone = alone
        self._to: dict[str, list[MeasuredEdge]] = {}
        for edge in profile.edges:
            if edge.calls:
                self._to.setdefault(edge.callee, []).append(edge)

    def to(self, name: str) -> list[MeasuredEdge]:
        return self._to.get(name, [])

    def all_within(self, made: Candidate, over: Candidate) -> bool:
        """Whether all calls of one function are made within calls of the other."""
        name, edges = made.measured.function, self.to(made.measured.function)
        if over is made or not edges:
            return False
        inside = self._alone.reach(over.measured.function)
        if name not in inside or any(edge.caller not in inside for edge in edges):
            return False
        return sum(edge.calls for edge in edges) >= made.measured.calls


def candidate(item: Measured, loops: list[tuple[str, Loop]], callers: Callers) -> Candidate:
    holders = {holder for holder, _ in loops}
    calls = sum(edge.calls for edge in callers.to(item.function) if edge.caller in holders)
    return Candidate(item, min(calls, item.calls), loops)

"""Who is let in: a bounded number of requests per component, and none that would not be answered in time.

How long a request will wait is estimated from how fast the component has been answering lately: while it is busy, the time
between two answers is what each waiting request adds, whatever number of shards works on them. Pure book-keeping; time comes
in as an argument.
"""

from __future__ import annotations

import math

from msgspec import Struct

from shardwright.gateway._problems import Problem

__all__ = ["Admission", "Gate"]

_SMOOTHING = 0.1  # of the running mean
_SHORTEST_S, _LONGEST_S = 1, 60  # of Retry-After


class Gate(Struct):
    """What is known of one component."""

    inside: int = 0
    interval_s: float = 0.0  # between two answers while busy
    answered_s: float = 0.0  # when the last answer came, or the first request entered after a silence
    shed: int = 0

    def wait_s(self) -> float:
        """How long one more request would take, as far as the answers of late tell."""
        return (self.inside + 1) * self.interval_s

    def left(self, now_s: float, *, answered: bool) -> None:
        """A request is over; ``answered`` by the component, and not given up."""
        self.inside -= 1
        if answered:
            took_s = max(0.0, now_s - self.answered_s)
            if self.interval_s:
                self.interval_s += _SMOOTHING * (took_s - self.interval_s)
            else:
                self.interval_s = took_s
            self.answered_s = now_s


class Admission:
    """The gates of all components. ``queue``: how many requests of one may run and wait at once."""

    def __init__(self, queue: int) -> None:
        self._queue = queue
        self.gates: dict[str, Gate] = {}

    def __repr__(self) -> str:
        return f"<Admission: {sum(gate.inside for gate in self.gates.values())} inside>"

    def enter(self, component: str, now_s: float, deadline_s: float) -> Gate:
        """Let a request in; call ``left`` of the gate once. Raises Problem(503) when full, or when ``deadline_s`` (inf: none)
        would pass before its answer."""
        gate = self.gates.get(component)
        if gate is None:
            gate = self.gates[component] = Gate()
        inside = gate.inside
        if inside >= self._queue:
            gate.shed += 1
            raise _refused("Too much is waiting already.", gate.wait_s())
        if not inside:  # an idle component is always tried, or one slow answer would shut the gate for good
            gate.answered_s = now_s
        elif now_s + (inside + 1) * gate.interval_s > deadline_s:
            gate.shed += 1
            raise _refused("It could not be answered in time.", gate.wait_s())
        gate.inside = inside + 1
        return gate


def _refused(detail: str, wait_s: float) -> Problem:
    seconds = min(max(math.ceil(wait_s), _SHORTEST_S), _LONGEST_S)
    return Problem(503, detail, ((b"retry-after", b"%d" % seconds),))

"""Moves between the cores of one node: while cores are short, those of lower priority leave some to the highest. Pure.

The highest tier are shards that state a waiting time (``latency_slo``) and are of the highest priority there is, with others
below who state none. A core that those may not use is the only thing that keeps their waiting time: weights share a core
fairly, but who wakes up waits for a slice of somebody else's first. It costs what the tier leaves unused of its cores, so it
is done only while demand comes near to what there is, and for a while after. The tier itself may run anywhere, and so may
whoever states a waiting time: calls of the tier often wait for such shards, and each of them would have a part of the cores
for all that it does.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from msgspec import Struct

from shardwright.model.ids import ComponentName, ShardId


class PinParams(Struct, frozen=True):
    """Shares of all cores that are asked for: from ``begin`` on cores are left to the tier, until ``rest_s`` below ``end``."""

    begin: float = 0.7
    end: float = 0.5
    rest_s: float = 30.0

    def __post_init__(self) -> None:
        if not (0 < self.end <= self.begin and self.rest_s >= 0):
            raise ValueError(f"0 < end <= begin and rest_s not negative; got {self}")


class PinRow(Struct, frozen=True):
    """One shard in one round. ``demand`` in cores, with what it was kept from; NaN where nobody measured.

    ``guarantee`` is what manifest or people say, without what is lent: others give that back before anybody waits.
    """

    shard: ShardId
    component: ComponentName
    priority: float
    waits: bool  # whether it states a waiting time
    demand: float
    guarantee: float


class PinStep(Struct, frozen=True):
    """Where a shard may run from now on, of the cores of the node."""

    shard: ShardId
    component: ComponentName
    cores: tuple[int, ...]
    reason: str
    inputs: tuple[tuple[str, str | int | float], ...]


class PinRounds:
    """Which shards leave cores alone, round by round. A shard of which nothing was said may run anywhere."""

    def __init__(self, params: PinParams | None = None) -> None:
        self._params = params or PinParams()
        self._kept = 0  # cores for the tier alone
        self._short_s = float("-inf")
        self._said: dict[ShardId, tuple[int, ...]] = {}
        self._before: dict[ShardId, tuple[int, ...]] = {}  # what was said before the last round

    def __repr__(self) -> str:
        return f"<PinRounds, {self._kept} cores are kept for the highest tier>"

    @property
    def pinned(self) -> bool:
        """Whether anybody is told to leave cores alone."""
        return bool(self._said)

    def decide(self, rows: Sequence[PinRow], cores: Sequence[int], now: float) -> tuple[PinStep, ...]:
        """What changes. ``cores`` are those of the node, of which the first are kept: in an order in which neighbours share
        what processors share. Never all are kept, and never more than leaves the others what they are guaranteed.
        """
        demands = [row.demand for row in rows if math.isfinite(row.demand) and row.demand > 0]
        share = sum(demands) / max(len(cores), 1)
        if share >= (self._params.end if self._kept else self._params.begin):
            self._short_s = now
        top = _highest(rows)
        kept = 0
        if top and now - self._short_s <= self._params.rest_s:
            kept = max(_wanted(rows, top, len(cores)), min(self._kept, _most(rows, top, len(cores))))
        self._kept = kept
        everywhere, left = tuple(sorted(cores)), tuple(sorted(cores[kept:]))
        highest = max((row.priority for row in rows), default=0.0)
        steps, said = [], {}
        for row in rows:
            where = everywhere
            reason = "it may use all cores again"
            if kept and _leaves(row, highest):
                where = said[row.shard] = left
                reason = f"it leaves {kept} of {len(cores)} cores to the highest priority while cores are short"
            if where == self._said.get(row.shard, everywhere):
                continue
            inputs: list[tuple[str, str | int | float]] = [
                ("cores", ",".join(map(str, where))),
                ("asked_share", round(share, 4)),
                ("priority", row.priority),
                ("highest", highest),
            ]
            steps.append(PinStep(row.shard, row.component, where, reason, tuple(inputs)))
        self._before, self._said = self._said, said
        return tuple(steps)

    def failed(self, step: PinStep) -> None:
        """A step of the last round was not carried out: the shard is where it was before, and it is decided again."""
        if step.shard in self._before:
            self._said[step.shard] = self._before[step.shard]
        else:
            self._said.pop(step.shard, None)


def _leaves(row: PinRow, highest: float) -> bool:
    """Whether it is one of those that leave cores alone."""
    return row.priority < highest and not row.waits


def _highest(rows: Sequence[PinRow]) -> frozenset[ShardId]:
    """The tier, if there is somebody to leave it a core."""
    highest = max((row.priority for row in rows), default=0.0)
    if not any(_leaves(row, highest) for row in rows):
        return frozenset()
    return frozenset(row.shard for row in rows if row.priority == highest and row.waits)


def _wanted(rows: Sequence[PinRow], top: frozenset[ShardId], cores: int) -> int:
    """Whole cores for what the tier is guaranteed, or takes."""
    asked = 0.0
    for row in rows:
        if row.shard in top:
            asked += max(row.guarantee, row.demand if math.isfinite(row.demand) and row.demand > 0 else 0.0)
    return min(max(math.ceil(asked - 1e-9), 1), _most(rows, top, cores))


def _most(rows: Sequence[PinRow], top: frozenset[ShardId], cores: int) -> int:
    """So many at most: others keep what they are guaranteed, and one core at least."""
    highest = max(row.priority for row in rows if row.shard in top)
    below = sum(row.guarantee for row in rows if _leaves(row, highest))
    return max(0, cores - max(math.ceil(below - 1e-9), 1))

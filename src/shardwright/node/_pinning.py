"""Shards moved between the cores of this machine: every thread of theirs, as the controller decided."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING

from shardwright.controller import PinRounds, PinRow, PinStep

if TYPE_CHECKING:
    from shardwright.composition import ShardRecord
    from shardwright.monitoring import Observer
    from shardwright.node._core import Core

_TURNS = 4  # a thread that began meanwhile took after the one that made it


class Pinning:
    """Use from the node's event loop alone."""

    def __init__(self, core: Core, observer: Observer) -> None:
        self.rounds = PinRounds()
        self._core = core
        self._observer = observer
        self._cores = tuple(sorted(os.sched_getaffinity(0)))
        self._told = False

    def __repr__(self) -> str:
        return f"<Pinning {self.rounds}>"

    def tick(self, records: Iterable[ShardRecord], now: float) -> None:
        """Decide, and do it."""
        if len(self._cores) < 2:
            return
        core = self._core
        ports, rows = core.ports(), []
        for record in records:
            component = core.components.get(record.component)
            if record.stopping or record.id not in ports or component is None:
                continue
            seen = self._observer.last(record.id)
            rows.append(
                PinRow(
                    record.id, record.component, float(component.usage.priority),
                    component.usage.latency_slo_s is not None, float("nan") if seen is None else seen.demand,
                    record.limits.guarantee.cpu or 0.0,
                )
            )  # fmt: skip
        if not any(row.waits for row in rows) and not self.rounds.pinned:
            return
        for step in self.rounds.decide(rows, self._cores, now):
            self._one(step, ports[step.shard].pid)

    def _one(self, step: PinStep, pid: int) -> None:
        try:
            pin(pid, step.cores)
        except OSError as error:
            self.rounds.failed(step)
            if not self._told:  # whoever may not do it once may not do it at all
                self._told = True
                self._core.record(
                    "failure", f"it was not moved between cores: {error.strerror}", shard=step.shard,
                    component=step.component, inputs=step.inputs,
                )  # fmt: skip
            return
        self._core.record("move", step.reason, shard=step.shard, component=step.component, inputs=step.inputs)


def pin(pid: int, cores: Iterable[int]) -> None:
    """Let that process run on these cores alone: all its threads, and those that they make. Raises OSError."""
    wanted = set(cores)
    for _ in range(_TURNS):
        changed = False
        for task in os.listdir(f"/proc/{pid}/task"):
            try:
                if os.sched_getaffinity(int(task)) != wanted:
                    os.sched_setaffinity(int(task), wanted)
                    changed = True
            except ProcessLookupError:
                continue  # that thread has ended
        if not changed:
            return

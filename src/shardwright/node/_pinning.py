"""Shards moved between the cores of this machine: everybody in their boxes, as the controller decided."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from shardwright import sandbox
from shardwright.controller import PinRounds, PinRow, PinStep
from shardwright.errors import SandboxError
from shardwright.node._topology import read_topology

if TYPE_CHECKING:
    from shardwright.composition import ShardRecord
    from shardwright.model.ids import ShardId
    from shardwright.model.limits import Limits
    from shardwright.monitoring import Observer
    from shardwright.node._core import Core


class Pinning:
    """Use from the node's event loop alone. ``base``: what a shard is guaranteed without what was lent to it since."""

    def __init__(
        self, core: Core, observer: Observer, base: Callable[[ShardRecord], Limits] = lambda record: record.limits
    ) -> None:
        self.rounds = PinRounds()
        self._base = base
        self._core = core
        self._observer = observer
        # siblings, and those of one cache and bank, side by side: what is left to a tier is whole cores near each other
        cpus = sorted(read_topology().cpus, key=lambda cpu: (cpu.bank, cpu.cache, cpu.core, cpu.number))
        self._cores = tuple(cpu.number for cpu in cpus)
        self._told = False
        self._held: set[ShardId] = set()

    def __repr__(self) -> str:
        return f"<Pinning {self.rounds}>"

    def hold(self, shard: ShardId) -> bool:
        """From now on that shard is where people put it, and no round moves it; whether that is new."""
        new = shard not in self._held
        self._held.add(shard)
        return new

    def forget(self, shard: ShardId) -> None:
        """It is not held by people: it has ended, or could not be put where they said."""
        self._held.discard(shard)

    def concerned(self) -> bool:
        """Whether there can be anything to do: somebody states a waiting time, and there are cores to leave alone."""
        return len(self._cores) > 1 and (
            self.rounds.pinned or any(c.usage.latency_slo_s is not None for c in self._core.components.values())
        )

    def tick(self, records: Iterable[ShardRecord], now: float) -> None:
        """Decide, and do it."""
        if not self.concerned():
            return
        core = self._core
        ports, rows = core.ports(), []
        for record in records:
            component = core.components.get(record.component)
            if record.stopping or record.id not in ports or component is None or record.id in self._held:
                continue
            if ports[record.id].pid == os.getpid():
                continue  # it runs in the node's own process, whose box is everybody's
            seen = self._observer.last(record.id)
            rows.append(
                PinRow(
                    record.id, record.component, float(component.usage.priority),
                    component.usage.latency_slo_s is not None, float("nan") if seen is None else seen.demand,
                    self._base(record).guarantee.cpu or 0.0,
                )
            )  # fmt: skip
        for step in self.rounds.decide(rows, self._cores, now):
            self._one(step, ports[step.shard].pid)

    def _one(self, step: PinStep, pid: int) -> None:
        try:
            found = sandbox.pin(pid, step.cores)
        except SandboxError as error:
            self.rounds.failed(step)
            if not self._told:  # whoever may not do it once may not do it at all
                self._told = True
                self._core.record(
                    "failure", f"it was not moved between cores: {error.message}", shard=step.shard,
                    component=step.component, inputs=step.inputs,
                )  # fmt: skip
            return
        if not found:  # it has just ended
            self.rounds.failed(step)
            return
        self._core.record("move", step.reason, shard=step.shard, component=step.component, inputs=step.inputs)

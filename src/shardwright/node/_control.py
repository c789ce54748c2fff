"""The controller's loop in a running node: look, decide, act, once a tick.

Decisions are pure (``controller``); this performs them. It never takes the node down: what fails in a round is written
to the journal, and the next round is taken with what is known then.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from shardwright.composition import Refused, ShardStatus
from shardwright.controller import ComponentRow, ScaleRounds
from shardwright.errors import ShardwrightError
from shardwright.model.ids import ShardId
from shardwright.model.scope import ScopeKind, StateKind
from shardwright.model.shard import GATEWAY_COMPONENT, MAIN_COMPONENT
from shardwright.monitoring import BUSY, Histories, Observed, Observer, Stalls, keep_json, kept_json, pressure
from shardwright.node import _arrays
from shardwright.node._limiting import Limiting
from shardwright.node._pinning import Pinning
from shardwright.node._retire import DRAIN_S, take_out, tell_callers

if TYPE_CHECKING:
    from shardwright.composition import ShardRecord
    from shardwright.contracts.clock import Clock
    from shardwright.model.ids import ComponentName
    from shardwright.model.limits import Resources, Usage
    from shardwright.model.manifest import Component
    from shardwright.node._core import Core
    from shardwright.node._recording import Recording

ASKED = 64  # shards a round that are asked for their counts, in turn
ANSWER_S = 0.05
SHORT = 0.01  # of the time something waits for CPU: from there on it is looked at who does
SAVE_S = 300.0
SAID_S = 60.0  # the same trouble is told once within that
NEAR = 0.5  # of its guarantee: who takes more is asked what waits in it
# Where somebody states a waiting time it is looked sooner when CPU becomes short: a second is long for who waits.
GLANCE_S = 0.1
SUDDEN, CALM = 0.3, 0.1  # shares of a glance in which something waits for CPU
CALM_GLANCES = 5  # that it was calm before
AGAIN_S = 0.25  # after the first look at it: what was before it is then no part of what is seen
SOON_S = 10.0  # between two such looks: what looking costs grows by a fifth at most
_HISTORIES = "histories.json"
_POOL = "pool.json"
_MIB = 2.0**20


class Control:
    """One node's loop. Use from the node's event loop alone. ``tick_s`` 0: nothing is decided but by people."""

    def __init__(
        self, core: Core, total: Resources, state: Path, clock: Clock, tick_s: float, recording: Recording | None = None
    ) -> None:
        self.observer = Observer()
        self.histories = Histories()
        self.limiting = Limiting(core, total, self.observer, self.histories)
        self.pinning = Pinning(core, self.observer, self.limiting.base)
        self.scale = ScaleRounds()
        self.retire_at_client: Callable[[ShardId, bool], None] = lambda shard, lost: None
        self.ticks = 0
        if recording is not None:
            self.limiting.on_done = lambda step, now: recording.done(now, step)
        self._core = core
        self._file = state / _HISTORIES
        self._clock = clock
        self._tick_s = tick_s
        self._recording = recording
        self._task: asyncio.Task[None] | None = None
        self._rooms: asyncio.Task[None] | None = None
        self._leaving: set[ShardId] = set()
        self._asked_last = 0
        self._said: dict[str, float] = {}
        self._pressure: dict[str, float] = {}
        self._saved_s = clock.monotonic_s()
        self._stalls = Stalls()
        self._calm_glances = 0
        self._sudden_s = float("-inf")

    def __repr__(self) -> str:
        return f"<Control, {self.ticks} ticks>"

    # -- life --------------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Begin; with the histories of earlier runs where there are any."""
        if self._tick_s <= 0:
            return
        self.histories.load(self._file)
        with contextlib.suppress(OSError, ValueError):  # there is none, or one that cannot be read
            self._core.shards.pool.remember(kept_json(self._file.with_name(_POOL)))
        self._task = asyncio.get_running_loop().create_task(self._run(), name="controller")

    async def close(self) -> None:
        """Decide nothing any more, and keep what was learnt. Idempotent."""
        for task in (self._task, self._rooms):
            if task is not None:
                task.cancel()
                await asyncio.wait({task})
        if self._task is not None:
            self._save()
        self._task = None
        self._stalls.close()
        if self._recording is not None:
            self._recording.close()

    async def _run(self) -> None:
        while True:
            sudden = await self._pause()
            for again_s in (AGAIN_S, None) if sudden else (None,):
                try:
                    await self.tick()
                except Exception as defect:  # a round that fails is lost, and no more than that
                    self._say(f"a round of the controller failed: {defect!r}")
                if again_s is not None:
                    await asyncio.sleep(again_s)

    async def _pause(self) -> bool:
        """Until the next round is due; or, and then True, until CPU has suddenly become short."""
        end_s = self._clock.monotonic_s() + self._tick_s
        if not self.pinning.concerned():
            await asyncio.sleep(self._tick_s)
            return False
        while (left_s := end_s - self._clock.monotonic_s()) > 0:
            await asyncio.sleep(min(left_s, GLANCE_S))
            now = self._clock.monotonic_s()
            share = self._stalls.share(now)
            if share >= SUDDEN and self._calm_glances >= CALM_GLANCES and now - self._sudden_s >= SOON_S:
                self._sudden_s, self._calm_glances = now, 0
                return True
            self._calm_glances = self._calm_glances + 1 if share < CALM else 0
        return False

    # -- a round -----------------------------------------------------------------------------------------------

    async def tick(self) -> None:
        """Look at everything once, and do what follows."""
        records = self._core.records()
        looked = await self._look(records)
        now = self._clock.monotonic_s()
        self._remember(records, looked)
        self._scale(records, now)
        self.pinning.tick(records, now)
        self.ticks += 1
        if now - self._saved_s >= SAVE_S:
            self._saved_s = now
            self._save()
        if self._recording is None and self.limiting.calm(records):
            return
        rows, capacity = self.limiting.rows(records, now)
        if not self.limiting.rounds.calm(rows) and not _arrays.loaded():
            await _arrays.load()
        steps = self.limiting.decide(rows, capacity, now)
        if self._recording is not None:
            self._recording.limits(now, rows, capacity, steps, self._pressure)
        if steps:
            await self.limiting.perform(steps, now)

    async def _look(self, records: Iterable[ShardRecord]) -> dict[ShardId, Observed]:
        core = self._core
        ports = core.ports()
        shards = [record.id for record in records if record.id in ports and not record.stopping]
        self.observer.keep(shards)
        self._pressure = pressure()
        asking = asyncio.ensure_future(core.numbers.ask(self._to_ask(records), ANSWER_S))
        try:
            usages = await core.launcher.usages(shards) if core.launcher is not None else {}
        except ShardwrightError as error:
            self._say(f"the controller sees nothing: {error}")
            return {}
        finally:
            await asyncio.wait({asking})
        began_s = {record.id: record.created_s for record in records}
        waits: dict[ShardId, int] = {}
        if self._pressure.get("cpu", 1.0) >= SHORT:
            waits = {shard: ports[shard].pid for shard in self._busiest(usages) if shard in ports}
        return self.observer.look(self._clock.monotonic_s(), usages, began_s, waits, core.numbers.monitor.told)

    def _busiest(self, usages: Mapping[str, Usage | None]) -> list[ShardId]:
        """Those that took most at the last look, or are new."""
        taken = [(1e9 if (seen := self.observer.last(ShardId(s))) is None else seen.demand, ShardId(s)) for s in usages]
        return [shard for demand, shard in sorted(taken, reverse=True)[:ASKED] if demand >= BUSY]

    def _to_ask(self, records: Iterable[ShardRecord]) -> list[ShardId]:
        """Who is to tell how many calls run and wait in it: instances that may become more or fewer, and who is near
        its guarantee. So an idle node asks nobody.
        """
        varied = {component.name for component in self._varied()}
        wanted: list[ShardId] = []
        for record in records:
            seen = self.observer.last(record.id)
            near = max(BUSY, NEAR * (record.limits.guarantee.cpu or 0.0))
            if record.component in varied or (seen is not None and seen.demand > near):
                wanted.append(record.id)
        if len(wanted) <= ASKED:
            return wanted
        first = self._asked_last % len(wanted)
        self._asked_last = first + ASKED
        return (wanted[first:] + wanted[:first])[:ASKED]

    def _remember(self, records: Iterable[ShardRecord], looked: dict[ShardId, Observed]) -> None:
        wall_s = self._clock.wall_s()
        memory: dict[str, int] = {}
        for record in records:
            seen = looked.get(record.id)
            if seen is None:
                continue
            if seen.demand >= BUSY:
                self.histories.observe(f"{record.component}.cpu", seen.demand, wall_s)
            memory[record.component] = max(memory.get(record.component, 0), seen.memory_bytes)
        for component, amount in memory.items():
            self.histories.observe(f"{component}.memory", amount / _MIB, wall_s)

    # -- instances ---------------------------------------------------------------------------------------------

    def _varied(self) -> list[Component]:
        """The components of which there may be more or fewer instances."""
        core = self._core
        return [
            core.components[definition.component]
            for definition in core.plan.definitions
            if definition.scope.kind is ScopeKind.SHARED
            and definition.component not in (MAIN_COMPONENT, GATEWAY_COMPONENT)
            and definition.state is StateKind.NONE
            and core.components[definition.component].scale.max > core.components[definition.component].scale.min
        ]

    def _scale(self, records: Iterable[ShardRecord], now: float) -> None:
        for component in self._varied():
            mine = [
                r for r in records if r.component == component.name and not r.stopping and r.id not in self._leaving
            ]
            row = self._component_row(component, mine)
            decision, load = self.scale.decide(component, row, now)
            if self._recording is not None:
                self._recording.scale(now, component, row, decision, self.scale.params)
            inputs = (
                ("concurrency", row.concurrency), ("stable", load.stable), ("panic", load.panic),
                ("arrivals_s", row.arrivals_s), ("instances", row.instances), ("wanted", decision.instances),
            )  # fmt: skip
            if decision.instances > len(mine):
                self._more(component.name, decision.instances - len(mine), decision.reason, inputs, now)
            elif decision.instances < len(mine):
                ready = [r for r in mine if r.status is ShardStatus.READY]
                ready.sort(key=lambda r: (len(r.sessions), -r.created_s, r.id))
                for record in ready[: len(mine) - decision.instances]:
                    self._leaving.add(record.id)
                    self._core.record(
                        "scale", f"one fewer: {decision.reason}", component=component.name, shard=record.id,
                        inputs=inputs,
                    )  # fmt: skip
                    self._core.spawn(self._leave(record))

    def _component_row(self, component: Component, mine: list[ShardRecord]) -> ComponentRow:
        concurrency, arrivals_s, busy, told = 0.0, 0.0, 0.0, False
        for record in mine:
            seen = self.observer.last(record.id)
            if seen is None:
                continue
            if math.isfinite(seen.concurrency):
                told = True
                if seen.concurrency == 0 and seen.arrivals_s == 0:
                    continue  # what it takes is its own housekeeping
                concurrency += seen.concurrency
            # between two looks calls come and go: what it takes may say more than how many run just then
            concurrency += max(0.0, seen.demand - (seen.concurrency if math.isfinite(seen.concurrency) else 0.0))
            arrivals_s += seen.arrivals_s if math.isfinite(seen.arrivals_s) else 0.0
            busy += seen.demand
        return ComponentRow(
            component.name, len(mine), concurrency if told or not mine else math.nan, arrivals_s,
            busy / arrivals_s if arrivals_s > 0 else 0.0, 0, self._fits(component, len(mine)),
        )  # fmt: skip

    def _fits(self, component: Component, instances: int) -> int:
        left, each = self._core.shards.composer.left(), component.limits.guarantee
        room = float(component.scale.max)
        if left.cpu is not None and each.cpu:
            room = min(room, left.cpu // each.cpu)
        if left.memory_bytes is not None and each.memory_bytes:
            room = min(room, left.memory_bytes // each.memory_bytes)
        return instances + int(room)

    def _more(
        self, component: ComponentName, count: int, reason: str, inputs: tuple[tuple[str, object], ...], now: float
    ) -> None:
        core = self._core
        core.record("scale", f"{count} more: {reason}", component=component, inputs=inputs)
        for _ in range(count):
            decision = core.shards.composer.launch(component, now, reason)
            if isinstance(decision, Refused):
                core.record("refuse", decision.reason, component=component, inputs=decision.inputs)
                return
            core.shards.begin(decision)

    async def take_away(self, record: ShardRecord) -> None:
        """End one instance of a component without state, without losing a call, whatever was decided. For measurements."""
        self._leaving.add(record.id)
        await self._leave(record)

    async def _leave(self, record: ShardRecord) -> None:
        """One instance less, without losing a call."""
        core = self._core
        try:
            await take_out(core, record.id)
            tell_callers(core, record.component, record.id, self.retire_at_client)
            await core.shards.drain_shard(record.id, DRAIN_S)
        finally:
            self._leaving.discard(record.id)

    # -- what happens meanwhile --------------------------------------------------------------------------------

    def lacks_room(self) -> None:
        """A request waits, or a launch was refused, for want of room."""
        if self._task is None or (self._rooms is not None and not self._rooms.done()):
            return
        self._rooms = self._core.spawn(self.limiting.make_room(self._clock.monotonic_s()))

    def ended(self, shard: ShardId, component: str, out_of_memory: bool) -> None:
        """A shard is gone."""
        self.observer.forget(shard)
        self.limiting.forget(shard)
        self.pinning.forget(shard)
        if out_of_memory:
            self.limiting.killed_for_memory(component, self._clock.monotonic_s())

    def _save(self) -> None:
        with contextlib.suppress(OSError):  # what was learnt is a help, and no more
            self.histories.save(self._file)
            if learnt := self._core.shards.pool.learnt():
                keep_json(self._file.with_name(_POOL), learnt)

    def _say(self, trouble: str) -> None:
        now = self._clock.monotonic_s()
        if now - self._said.get(trouble, float("-inf")) >= SAID_S:
            if len(self._said) > 64:
                self._said.clear()
            self._said[trouble] = now
            self._core.record("failure", trouble)

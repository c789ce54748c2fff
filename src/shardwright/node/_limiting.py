"""Guarantees of running shards moved by the controller's word: promised before they grow, given back after they shrank."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from shardwright.controller import GIB, LimitRounds, LimitStep, ShardRow
from shardwright.errors import ShardwrightError
from shardwright.model.limits import Limits, Resources
from shardwright.monitoring import Histories, Observer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from shardwright.composition import ShardRecord
    from shardwright.model.ids import ShardId
    from shardwright.node._core import Core

UNLIMITED = 1e9  # cores, or GiB, where nothing states how much there is
YOUNG_S = 30.0  # for so long what shards of its component usually take says what a busy shard is about to need
USUAL = 0.9
HEADROOM = 0.25  # the largest share of the node that is kept free for shards to come
CALM_AFTER_LACK_S = 5.0  # after somebody had to wait for room nobody is raised for so long
RETRY_S, LONGEST_RETRY_S = 5.0, 300.0  # after an actuation that failed, and most
_READS_BACK = 0.02


class Limiting:
    """The limits of one node's shards. Use from its loop alone; ``bounds`` are what people set while it runs."""

    def __init__(self, core: Core, total: Resources, observer: Observer, histories: Histories) -> None:
        self.rounds = LimitRounds()
        self.bounds: dict[ShardId, Limits] = {}
        self.enforced: frozenset[str] = frozenset(("cpu", "memory"))  # what this machine can hold shards to
        self.on_done: Callable[[LimitStep, float], None] = lambda step, now: None
        self._core = core
        self._total = (
            UNLIMITED if total.cpu is None else total.cpu,
            UNLIMITED if total.memory_bytes is None else total.memory_bytes / GIB,
        )
        self._observer = observer
        self._histories = histories
        self._failures: dict[ShardId, tuple[int, float]] = {}  # how often in a row, and when to try again
        self._ooms: dict[str, float] = {}  # by component
        self._lacked_s = float("-inf")

    def __repr__(self) -> str:
        return f"<Limiting {self.rounds}>"

    # -- what is known -----------------------------------------------------------------------------------------

    def base(self, record: ShardRecord) -> Limits:
        """What manifest or people say of it, without what was lent to it since."""
        found = self.bounds.get(record.id)
        if found is None:
            of = (d.limits for d in self._core.plan.definitions if d.component == record.component)
            found = next(of, record.limits)
        return found

    def calm(self, records: Iterable[ShardRecord]) -> bool:
        """Whether nothing can be to do: everybody has what the manifest says, and takes no more than that."""
        if self._ooms or self.bounds:
            return False
        fixed = {definition.component: definition.limits for definition in self._core.plan.definitions}
        for record in records:
            if record.limits is not fixed.get(record.component):
                return False
            seen, given = self._observer.last(record.id), record.limits.guarantee
            if seen is None:
                continue
            if given.cpu is not None and seen.demand > given.cpu:
                return False
            if given.memory_bytes is not None and seen.memory_bytes > given.memory_bytes:
                return False
        return True

    def rows(self, records: Iterable[ShardRecord], now: float) -> tuple[list[ShardRow], tuple[float, float]]:
        """The shards whose limits may be moved, and what they may be guaranteed together."""
        rows: list[ShardRow] = []
        others = [0.0, 0.0]
        plan, ports = self._core.plan, self._core.ports()
        fixed = {definition.component: definition.limits for definition in plan.definitions}
        for record in records:
            given = _pair(record.limits.guarantee)
            bounds = self.bounds.get(record.id) or fixed.get(record.component) or record.limits
            if record.stopping or record.id not in ports or self._failing(record.id, now):
                others[0] += given[0]
                others[1] += given[1]
                continue
            rows.append(self._row(record, bounds, now))
        headroom = self._headroom()
        # what the manifest guarantees stands, headroom or not
        floors = (sum(row.floor[0] for row in rows), sum(row.floor[1] for row in rows))
        return rows, (
            max(floors[0] * (1 + 1e-9), self._total[0] - others[0] - headroom[0]),
            max(floors[1] * (1 + 1e-9), self._total[1] - others[1] - headroom[1]),
        )

    def _row(self, record: ShardRecord, bounds: Limits, now: float) -> ShardRow:
        floor, given = _pair(bounds.guarantee), _pair(record.limits.guarantee)
        stated = (
            bounds.guarantee.cpu is not None and "cpu" in self.enforced,
            bounds.guarantee.memory_bytes is not None and "memory" in self.enforced,
        )
        most = (
            self._total[0] if bounds.ceiling.cpu is None else bounds.ceiling.cpu,
            self._total[1] if bounds.ceiling.memory_bytes is None else bounds.ceiling.memory_bytes / GIB,
        )
        # what the manifest does not guarantee is not begun with either
        ceiling = (
            max(most[0], floor[0]) if stated[0] else 0.0,
            max(most[1], floor[1]) if stated[1] else 0.0,
        )
        given = (given[0] if stated[0] else 0.0, given[1] if stated[1] else 0.0)
        floor = (floor[0] if stated[0] else 0.0, floor[1] if stated[1] else 0.0)
        seen = self._observer.last(record.id)
        nan = float("nan")
        forecast = (nan, nan)
        if seen is not None and record.held and now - record.created_s < YOUNG_S and seen.demand > floor[0]:
            forecast = (self._histories.quantile(f"{record.component}.cpu", USUAL), nan)
        component = self._core.components.get(record.component)
        return ShardRow(
            shard=record.id,
            component=record.component,
            priority=50.0 if component is None else float(component.usage.priority),
            usage=(nan, nan) if seen is None else (seen.cpu, seen.memory_bytes / GIB),
            lacked=(0.0, 0.0) if seen is None else (seen.lacked, 0.0),
            measured_s=float("-inf") if seen is None else seen.measured_s,
            forecast=forecast,
            floor=floor,
            ceiling=ceiling,
            guarantee=given,
            oom_s=self._ooms.get(record.component, float("-inf")),
        )

    def _headroom(self) -> tuple[float, float]:
        """What one more session would need, so that it need not wait until something was given back."""
        cpu = memory = 0.0
        for definition in self._core.plan.definitions:
            pair = _pair(definition.limits.guarantee)
            cpu, memory = cpu + pair[0], memory + pair[1]
        return min(cpu, HEADROOM * self._total[0]), min(memory, HEADROOM * self._total[1])

    def killed_for_memory(self, component: str, now: float) -> None:
        self._ooms[component] = now

    def forget(self, shard: ShardId) -> None:
        self.bounds.pop(shard, None)
        self._failures.pop(shard, None)

    # -- steps -------------------------------------------------------------------------------------------------

    def decide(self, rows: list[ShardRow], capacity: tuple[float, float], now: float) -> tuple[LimitStep, ...]:
        return () if self.rounds.calm(rows) else self.rounds.decide(rows, capacity, now)

    async def perform(self, steps: Iterable[LimitStep], now: float) -> int:
        """Carry them out, in their order; how many were. A raise for which there is no room (something did not sink as it
        should have, or was launched meanwhile) is left for the next round.
        """
        done = 0
        for step in steps:
            if step.rises and (self._core.shards.composer.queued() or now - self._lacked_s < CALM_AFTER_LACK_S):
                continue
            async with self._core.resizing:
                if await self._one(step, now):
                    self.rounds.done(step, now)
                    self.on_done(step, now)
                    done += 1
        return done

    async def make_room(self, now: float) -> None:
        """Somebody waits: what was raised goes back to what the manifest guarantees, the least important first."""
        self._lacked_s = now
        core = self._core
        rows, _ = self.rows(core.records(), now)
        for row in sorted(rows, key=lambda row: (row.priority, row.shard)):
            if not core.shards.composer.queued():
                return
            cpu = row.floor[0] if row.guarantee[0] > row.floor[0] + 1e-9 else None
            memory = int(row.floor[1] * GIB) if row.guarantee[1] > row.floor[1] + 1e-9 else None
            if cpu is None and memory is None:
                continue
            inputs = (("queued", len(core.shards.composer.queued())), ("priority", row.priority))
            reason = "it gives back what was lent to it: others wait for room"
            step = LimitStep(row.shard, row.component, cpu, memory, False, reason, inputs)
            async with core.resizing:
                if await self._one(step, now):
                    core.shards.freed()

    async def _one(self, step: LimitStep, now: float) -> bool:
        core, shard = self._core, step.shard
        composer, launcher = core.shards.composer, core.launcher
        record = composer.shard(shard)
        if record is None or record.stopping or shard not in core.ports() or launcher is None:
            return False
        before = record.limits
        changes: dict[str, float | int] = {}
        if step.cpu is not None:
            changes["cpu"] = step.cpu
        if step.memory_bytes is not None:
            changes["memory_bytes"] = step.memory_bytes
        after = Limits(replace(before.guarantee, **changes), before.ceiling)
        if step.rises:
            try:
                composer.resize({shard: after})
            except ValueError:
                return False
        try:
            read = await launcher.resize(shard, Limits(guarantee=Resources(**changes)))  # type: ignore[arg-type]
            if wrong := _unlike(changes, read.guarantee):
                raise ShardwrightError(f"{wrong} after it was changed")
        except ShardwrightError as error:
            # what is in force now nobody knows for sure: the greater promise stays booked while it fails
            if step.rises and not isinstance(error, TimeoutError):
                composer.resize({shard: before})
            count = self._failures.get(shard, (0, 0.0))[0] + 1
            self._failures[shard] = (count, now + min(LONGEST_RETRY_S, RETRY_S * 2 ** min(count - 1, 16)))
            if count == 1:
                core.record(
                    "failure", f"its limits were not changed: {error}", shard=shard, component=step.component,
                    inputs=step.inputs,
                )  # fmt: skip
            return False
        self._failures.pop(shard, None)
        composer.resize({shard: after})
        core.record("resize", step.reason, shard=shard, component=step.component, inputs=step.inputs)
        return True

    def _failing(self, shard: ShardId, now: float) -> bool:
        failure = self._failures.get(shard)
        return failure is not None and now < failure[1]


def _pair(amounts: Resources) -> tuple[float, float]:
    return (amounts.cpu or 0.0, (amounts.memory_bytes or 0) / GIB)


def _unlike(wanted: dict[str, float | int], read: Resources) -> str:
    """What reads back otherwise than it was written; empty when all does."""
    for name, amount in wanted.items():
        found = getattr(read, name)
        least = 3e-3 if name == "cpu" else 4096.0  # the kernel knows no less
        if found is None or abs(found - amount) > max(least, _READS_BACK * amount):
            return f"the guarantee of {name} reads back as {found}, not {amount:g}"
    return ""

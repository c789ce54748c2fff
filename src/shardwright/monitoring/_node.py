"""The node's own numbers: what it decides, what its shards say of themselves, and how things stand now."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping

from msgspec import Struct, field

from shardwright.errors import ShardwrightError
from shardwright.model.ids import ComponentName, ShardId
from shardwright.model.limits import Limits, Resources, Usage
from shardwright.monitoring._catalogue import RESOURCES
from shardwright.monitoring._families import Family, families
from shardwright.telemetry import Metrics

STATUSES = ("starting", "ready", "draining")
CAUSES = ("stopped", "exit", "signal", "out_of_memory", "unknown")
RESULTS = ("granted", "refused", "lost", "cancelled")
SOURCES = ("warm", "starting", "cold")
MOST = 2**53  # what a shard says may be a lie: no number beyond what a float holds exactly


class CallCounts(Struct, frozen=True):
    """What a shard says of its calls since it began: its own word, believed for its component alone."""

    received: int = 0
    made: int = 0
    refused: Mapping[str, int] = field(default_factory=dict)  # by code
    failed: Mapping[str, int] = field(default_factory=dict)
    running: int = 0
    queued: int = 0
    cpu_s: float = 0.0


class ShardNumbers(Struct, frozen=True):
    """One shard now. ``free`` when it serves nobody; ``usage`` None when nobody can tell."""

    id: ShardId
    component: ComponentName
    status: str
    free: bool
    limits: Limits
    usage: Usage | None = None


class NodeNumbers(Struct, frozen=True):
    """The node now. ``keeper_up`` None where there is no keeper."""

    shards: tuple[ShardNumbers, ...]
    sessions: int
    queued: int
    ready: bool
    keeper_up: bool | None
    capacity: Resources
    reserved: Resources


class NodeMonitor:
    """Counts what happens in a node; ``families`` adds how things stand. Use from the node's loop."""

    def __init__(self, app: str, version: str, components: Iterable[ComponentName], started_s: float) -> None:
        self.metrics = metrics = Metrics()
        self._components = tuple(components)
        self._heard: dict[ShardId, CallCounts] = {}
        self._component_of: dict[ShardId, ComponentName] = {}  # of those that were heard
        self._used: dict[ShardId, Usage] = {}
        metrics.set("shardwright_node_info", 1, app=app, version=version, python=platform.python_version())
        metrics.set("shardwright_node_start_time_seconds", started_s)
        for component in self._components:  # from the start, so that a rate sees the first one
            for name in ("launches", "start_failures", "calls_received", "calls_made"):
                metrics.count(f"shardwright_{name}", 0, component=component)
            for cause in CAUSES:
                metrics.count("shardwright_exits", 0, component=component, cause=cause)
            for source in SOURCES:
                metrics.count("shardwright_leases", 0, component=component, source=source)
        for result in RESULTS:
            metrics.count("shardwright_compositions", 0, result=result)

    @property
    def told(self) -> Mapping[ShardId, CallCounts]:
        """What shards told last."""
        return self._heard

    def __repr__(self) -> str:
        return f"<NodeMonitor of {len(self._components)} components, {len(self._heard)} shards heard>"

    # -- what happens ------------------------------------------------------------------------------------------

    def recorded(self, kind: str, component: str, inputs: Mapping[str, object]) -> None:
        """An entry of the journal."""
        metrics = self.metrics
        metrics.count("shardwright_decisions", kind=kind)
        if not component:
            return
        match kind:
            case "launch":
                metrics.count("shardwright_launches", component=component)
            case "ready":
                start_s = inputs.get("start_s")
                if isinstance(start_s, float):
                    metrics.observe("shardwright_start_duration_seconds", start_s, component=component)
            case "failure":
                metrics.count("shardwright_start_failures", component=component)
            case "ended" | "loss":
                cause = str(inputs.get("cause"))
                metrics.count("shardwright_exits", component=component, cause=cause if cause in CAUSES else "unknown")

    def composed(self, result: str, took_s: float) -> None:
        """A request for shards was answered: one of RESULTS."""
        self.metrics.count("shardwright_compositions", result=result)
        self.metrics.observe("shardwright_composition_duration_seconds", took_s, result=result)

    def leased(self, component: str, source: str) -> None:
        """A shard was leased: one of SOURCES."""
        self.metrics.count("shardwright_leases", component=component, source=source)

    # -- what shards say, and what is seen of them -------------------------------------------------------------

    def heard(self, shard: ShardId, component: ComponentName, counts: CallCounts) -> None:
        """A shard told its counts; what is more than it told before is added to its component's."""
        before = self._heard.get(shard, CallCounts())
        now = CallCounts(
            received=_grown(before.received, counts.received),
            made=_grown(before.made, counts.made),
            refused=_grown_codes(before.refused, counts.refused),
            failed=_grown_codes(before.failed, counts.failed),
            running=max(0, min(counts.running, MOST)),
            queued=max(0, min(counts.queued, MOST)),
            cpu_s=counts.cpu_s,
        )
        self._heard[shard] = now
        self._component_of[shard] = component
        metrics = self.metrics
        metrics.count("shardwright_calls_received", now.received - before.received, component=component)
        metrics.count("shardwright_calls_made", now.made - before.made, component=component)
        for code, count in now.refused.items():
            more = count - before.refused.get(code, 0)
            metrics.count("shardwright_calls_refused", more, component=component, code=code)
        for code, count in now.failed.items():
            more = count - before.failed.get(code, 0)
            metrics.count("shardwright_calls_failed", more, component=component, code=code)

    def _seen(self, shard: ShardId, component: ComponentName, usage: Usage) -> None:
        before = self._used.get(shard)
        cpu_s, throttled_s = (before.cpu_s, before.throttled_s) if before is not None else (0.0, 0.0)
        self._used[shard] = usage
        self.metrics.count("shardwright_cpu_usage_seconds", max(0.0, usage.cpu_s - cpu_s), component=component)
        self.metrics.count(
            "shardwright_cpu_throttled_seconds", max(0.0, usage.throttled_s - throttled_s), component=component
        )

    def forget(self, shard: ShardId, most_cpu_s: float) -> None:
        """It has ended. CPU time after the last look is its own last word, but it cannot have had more than that."""
        heard, used = self._heard.pop(shard, None), self._used.pop(shard, None)
        component = self._component_of.pop(shard, None)
        if component is not None and heard is not None:
            more = min(heard.cpu_s, most_cpu_s) - (used.cpu_s if used is not None else 0.0)
            if more > 0:  # also False for what is no number
                self.metrics.count("shardwright_cpu_usage_seconds", more, component=component)

    # -- how things stand --------------------------------------------------------------------------------------

    def families(self, node: NodeNumbers) -> tuple[Family, ...]:
        """Everything, as it is now."""
        now = Metrics()
        now.set("shardwright_node_ready", int(node.ready))
        if node.keeper_up is not None:
            now.set("shardwright_keeper_up", int(node.keeper_up))
        now.set("shardwright_sessions", node.sessions)
        now.set("shardwright_composition_queue_length", node.queued)
        self._amounts(now, "node_{}_capacity_{}", node.capacity)
        self._amounts(now, "node_{}_reserved_{}", node.reserved)
        for component in self._components:
            mine = [shard for shard in node.shards if shard.component == component]
            self._component(now, component, mine)
        return families(self.metrics, now)

    def _component(self, now: Metrics, component: ComponentName, shards: list[ShardNumbers]) -> None:
        for status in STATUSES:
            count = sum(shard.status == status for shard in shards)
            now.set("shardwright_shards", count, component=component, status=status)
        free = sum(shard.free and shard.status == "ready" for shard in shards)
        now.set("shardwright_pool_shards", free, component=component)
        guarantee, ceiling = Resources(), Resources()
        for shard in shards:
            guarantee, ceiling = guarantee.plus(shard.limits.guarantee), ceiling.plus(shard.limits.ceiling)
        self._amounts(now, "{}_guaranteed_{}", guarantee, component=component)
        self._amounts(now, "{}_ceiling_{}", ceiling, component=component)
        seen = [(shard, shard.usage) for shard in shards if shard.usage is not None]
        for shard, usage in seen:
            self._seen(shard.id, component, usage)
        if seen:
            now.set("shardwright_memory_usage_bytes", sum(u.memory_bytes for _, u in seen), component=component)
            now.set("shardwright_threads", sum(u.threads for _, u in seen), component=component)
        heard = [self._heard[shard.id] for shard in shards if shard.id in self._heard]
        now.set("shardwright_calls_running", sum(counts.running for counts in heard), component=component)
        now.set("shardwright_calls_queued", sum(counts.queued for counts in heard), component=component)

    @staticmethod
    def _amounts(now: Metrics, form: str, amounts: Resources, **labels: str) -> None:
        for attribute, name, unit in RESOURCES:
            amount = getattr(amounts, attribute)
            if amount is not None:
                now.set(f"shardwright_{form.format(name, unit)}", amount, **labels)


def _grown(before: int, now: int) -> int:
    return max(before, min(now, MOST))


def _grown_codes(before: Mapping[str, int], now: Mapping[str, int]) -> dict[str, int]:
    known = codes()
    found = dict(before)
    others = before.get("other", 0)
    for code, count in now.items():
        if code in known:
            found[code] = _grown(before.get(code, 0), count)
        else:
            others = max(others, min(count, MOST))
    if others:
        found["other"] = others
    return found


def codes() -> frozenset[str]:
    """The codes of all errors of ours that are known in this process."""
    found: set[str] = set()
    todo: list[type[ShardwrightError]] = [ShardwrightError]
    while todo:
        cls = todo.pop()
        found.add(cls.code)
        todo.extend(cls.__subclasses__())
    return frozenset(found)

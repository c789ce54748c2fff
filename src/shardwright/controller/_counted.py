"""The WarmPool by counted needs: spares are there for as long as they are likely to be worth it, within ``warm``.

The rule of ``_rates`` and ``_spares`` for one running node: an arrival needs the k-th spare if k - 1 others came within a
start time; how often such needs come at the present rate, and after silence, says for how long the k-th spare is worth keeping,
and whether it is worth a start. What is idle beyond the spares came back from use (where ``reuse`` permits that), and is kept
by how soon so many were needed again. Never fewer than ``KeepMinimum`` keeps. Pure; numpy is imported with a component's
second arrival.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec import Struct, field

from shardwright.controller._pool import ComponentPool, Evict, KeepMinimum, PoolAction, PoolState, Refill, backoff_s
from shardwright.model.ids import ComponentName
from shardwright.model.limits import Limits
from shardwright.model.manifest import Component, Cost
from shardwright.model.scope import ScopeKind
from shardwright.placement import Capacity

if TYPE_CHECKING:
    from shardwright.contracts.forecast import FloatArray
    from shardwright.controller._rates import Rates

MOST = 12  # spares; as ``_spares.MOST_SPARES``, which needs numpy
UNSTATED_BYTES = 32 * 2**20  # of a shard whose memory nobody states or measured
MEMORY = 50.0  # needs, after which an old gap counts a third
DOUBT = 0.1
START_S, HIDDEN_CPU_S = 0.02, 0.005  # until a start was measured
LOOK_S = 0.05  # a look ahead takes half a millisecond: so often at most
_DEAREST_S = 1e7
_SMOOTH = 0.2
_HOUR_S = 3600.0
_NEVER = float("-inf")


class PoolCost(Struct, frozen=True):
    """What the pool of one component came to so far, in the money of ``[policy.cost]``.

    ``warm``, ``starting`` and ``cold`` count leases by what they met; ``hidden`` the starts that nobody waited for. ``spent``
    is the price of idle memory and of hidden starts, ``saved`` that of the cold starts which warm leases would have been.
    """

    component: ComponentName
    free: int
    wanted: int
    warm: int
    starting: int
    cold: int
    hidden: int
    idle_s: float
    cold_price_s: float
    hidden_price_s: float
    start_s: float
    spent: float
    saved: float


class _Counted(Struct):
    """One component."""

    arrivals: list[float] = field(default_factory=list)  # the latest
    met: dict[str, int] = field(default_factory=lambda: dict.fromkeys(("warm", "starting", "cold"), 0))
    hidden: int = 0
    idle_s: float = 0.0
    looked_s: float | None = None
    free: int = 0
    wanted: int = 0
    start_s: float = START_S
    hidden_cpu_s: float = HIDDEN_CPU_S
    at_once: int = 0
    arrived_s: float = _NEVER
    worth_s: list[float] = field(default_factory=lambda: [0.0] * MOST)  # from the last arrival on
    pays: list[bool] = field(default_factory=lambda: [False] * MOST)
    rates: Rates | None = None
    judged_s: float = _NEVER
    returned_s: float = _NEVER
    rises: FloatArray | None = None
    surplus_s: list[float] = field(default_factory=list)
    probe_level: list[int] = field(default_factory=lambda: [-1] * MOST)
    probe_from: list[float] = field(default_factory=lambda: [0.0] * MOST)


class CountedNeeds:
    """A ``PoolPolicy``. Tell it of every lease, every return and every start; prices are those of ``[policy.cost]``."""

    def __init__(self, cost: Cost, minimum: KeepMinimum | None = None) -> None:
        self._cost = cost
        self._minimum = minimum or KeepMinimum()
        self._counted: dict[ComponentName, _Counted] = {}
        self._bytes: dict[ComponentName, float] = {}
        self._kept: dict[str, dict[str, list[float]]] = {}

    def __repr__(self) -> str:
        return f"<CountedNeeds of {len(self._counted)} components>"

    # -- what happens ------------------------------------------------------------------------------------------

    def leased(self, component: Component, limits: Limits, source: str, now: float) -> None:
        """An arrival, that met a ``warm`` shard, a ``starting`` one, or none (``cold``)."""
        counted = self._of(component.name, limits)
        counted.met[source] = counted.met.get(source, 0) + 1
        others = sum(at > now - counted.start_s for at in counted.arrivals)
        if counted.arrivals:
            self._learn(component.name, counted, others, now)
        counted.arrivals = [*counted.arrivals[-(MOST - 2) :], now]
        counted.arrived_s = now
        counted.at_once += 1
        self._probe(component.name, counted, now)

    def returned(self, component: Component, limits: Limits, now: float) -> None:
        """A session, key or request let go of a shard."""
        counted = self._of(component.name, limits)
        counted.at_once = max(0, counted.at_once - 1)
        counted.returned_s = now
        for place in range(MOST):
            if counted.probe_level[place] < 0:
                counted.probe_level[place], counted.probe_from[place] = counted.at_once, now

    def started(self, component: Component, limits: Limits, took_s: float) -> None:
        """A start that took so long, from the decision until it could serve."""
        counted = self._of(component.name, limits)
        if 0 < took_s < 3600:
            # while others compete for the cores it takes longer than it costs: the quicker ones tell the price
            counted.start_s += _SMOOTH * (took_s - counted.start_s)
            rate = _SMOOTH if took_s < counted.hidden_cpu_s else _SMOOTH / 10
            counted.hidden_cpu_s += rate * (took_s - counted.hidden_cpu_s)

    # -- decisions ---------------------------------------------------------------------------------------------

    def decide(self, state: PoolState, now: float) -> tuple[PoolAction, ...]:
        """Evictions first, then what the minimum asks for, then spares that are worth their start."""
        base = self._minimum.decide(state, now)
        evictions = [action for action in base if isinstance(action, Evict)]
        refills = [action for action in base if isinstance(action, Refill)]
        room = Capacity(state.left)
        asked: dict[ComponentName, int] = {}
        for action in refills:
            asked[action.component] = asked.get(action.component, 0) + action.count
        number = 0
        for pool in state.pools:
            for _ in range(asked.get(pool.component.name, 0)):
                number += 1
                if room.fits(pool.limits):
                    room.reserve(_planned(pool, number), pool.limits)
        gone = {action.shard for action in evictions}
        for pool in sorted(state.pools, key=lambda p: (-p.component.usage.priority, p.component.name)):
            if pool.scope is ScopeKind.SHARED:
                continue
            counted = self._counted.get(pool.component.name)
            self._spent(pool, now)
            if counted is None:
                continue
            counted.wanted = self._wanted(pool, counted, now)
            evictions += [e for e in self._surplus(pool, counted, now) if e.shard not in gone]
            lack = counted.wanted - len(pool.free) - asked.get(pool.component.name, 0)
            most = pool.component.usage.max_instances
            if most is not None:
                lack = min(lack, most - pool.exist - asked.get(pool.component.name, 0))
            if lack <= 0 or state.queued or now < pool.failed_s + backoff_s(pool.failed_starts):
                continue
            count = 0
            while count < lack and room.fits(pool.limits):
                number += 1
                count += 1
                room.reserve(_planned(pool, number), pool.limits)
            if count:
                counted.hidden += count
                reason = f"{counted.wanted} spares are worth their price now, {len(pool.free)} are free"
                refills.append(Refill(pool.component.name, count, reason, self._inputs(pool, counted, now)))
        return (*evictions, *refills)

    def next_s(self, state: PoolState, now: float) -> float | None:
        """The next retry of the minimum, or when the next spare stops being worth its memory."""
        times = [at for at in (self._minimum.next_s(state, now),) if at is not None]
        for pool in state.pools:
            counted = self._counted.get(pool.component.name)
            if counted is not None and pool.free:
                times += [at for worth in counted.worth_s if now < (at := counted.arrived_s + worth) < float("inf")]
        return min(times, default=None)

    def learnt(self) -> dict[str, dict[str, list[float]]]:
        """What is known of demand, by component, to be taken up by a later node; plain numbers."""
        kept = dict(self._kept)
        for name, counted in self._counted.items():
            if counted.rates is not None:
                kept[name] = counted.rates.snapshot(0)
        return kept

    def take_up(self, kept: object) -> None:
        """What ``learnt`` gave. What is none of that is left alone."""
        if isinstance(kept, dict):
            self._kept = {str(name): value for name, value in kept.items() if isinstance(value, dict)}

    def costs(self) -> tuple[PoolCost, ...]:
        """What every pool came to so far."""
        return tuple(self._cost_of(name, counted) for name, counted in sorted(self._counted.items()))

    # -- inside ------------------------------------------------------------------------------------------------

    def _of(self, component: ComponentName, limits: Limits) -> _Counted:
        stated = limits.guarantee.memory_bytes or limits.ceiling.memory_bytes
        self._bytes[component] = float(stated or UNSTATED_BYTES)
        return self._counted.setdefault(component, _Counted())

    def _second_price(self, component: ComponentName) -> float:
        """Of one ready shard, kept for a second."""
        return self._bytes.get(component, UNSTATED_BYTES) / 2**30 * self._cost.gib_hour / _HOUR_S

    def _prices_s(self, component: ComponentName, counted: _Counted) -> tuple[float, float]:
        """What a cold and a hidden start are worth, in idle-seconds."""
        # memory that costs nothing is worth keeping for a long time, not for ever
        second = max(self._second_price(component), self._cost.cold_start / _DEAREST_S, 1e-18)
        cold = self._cost.cold_start / second
        hidden = min(counted.hidden_cpu_s * self._cost.cpu_hour / _HOUR_S / second, _DEAREST_S)
        return cold, hidden + counted.start_s

    def _learn(self, component: ComponentName, counted: _Counted, others: int, now: float) -> None:
        import numpy as np

        from shardwright.controller._rates import RateParams, Rates
        from shardwright.controller._spares import MOST_SPARES, bucket

        row = np.zeros(1, dtype=np.int64)
        if counted.rates is None:
            counted.rates = Rates([RateParams()], np.array([counted.start_s]), MOST_SPARES)
            counted.rates.restore(0, self._kept.get(component, {}))
            counted.rates.arrived(row, np.array(counted.arrivals[:1]), row)
            counted.rises = np.zeros((MOST_SPARES, int(bucket(np.array([np.inf]))[0]) + 1))
        cold, hidden = self._prices_s(component, counted)
        counted.rates.starts_take(counted.start_s)
        counted.rates.arrived(row, np.array([now]), np.array([others]))
        if now - counted.judged_s < LOOK_S:
            return  # it would hardly come out otherwise
        counted.judged_s = now
        worth, pays = counted.rates.ahead(row, np.array([cold]), np.array([hidden]))
        counted.worth_s = worth[0].tolist()
        counted.pays = [bool(each) and cold > hidden for each in pays[0]]

    def _probe(self, component: ComponentName, counted: _Counted, now: float) -> None:
        """How long it took from the end of a session until more run at once than then."""
        if counted.rises is None:
            return
        import numpy as np

        from shardwright.controller._spares import bucket, worth_keeping

        _, hidden = self._prices_s(component, counted)
        for place in range(MOST):
            level, since = counted.probe_level[place], counted.probe_from[place]
            if level < 0:
                continue
            risen = level + place + 1 <= counted.at_once
            if not risen and now - since <= 100 * hidden + 100:
                continue
            counted.rises[place] *= 1 - 1 / MEMORY
            counted.rises[place, int(bucket(np.array([now - since if risen else np.inf]))[0])] += 1
            counted.probe_level[place] = -1
            kept, _ = worth_keeping(
                counted.rises[place : place + 1], np.array([hidden]), np.zeros(1), np.array([DOUBT])
            )
            if not counted.surplus_s:
                counted.surplus_s = [hidden] * MOST
            counted.surplus_s[place] = float(kept[0])

    def _wanted(self, pool: ComponentPool, counted: _Counted, now: float) -> int:
        spares = 0
        while spares < MOST and counted.pays[spares] and counted.arrived_s + counted.worth_s[spares] > now:
            spares += 1
        return max(min(spares, pool.component.warm.max), pool.component.warm.min)

    def _surplus(self, pool: ComponentPool, counted: _Counted, now: float) -> list[Evict]:
        """Free shards whose time is over; the most recently used go last."""
        ranked = sorted(pool.free, key=lambda shard: (not shard.ready, -shard.idle_since_s, shard.id))
        _, hidden = self._prices_s(pool.component.name, counted)
        found = []
        for position, shard in enumerate(ranked, 1):
            if position <= max(counted.wanted, pool.component.warm.min) or not shard.ready:
                continue
            spare = min(position, MOST) - 1
            until = counted.arrived_s + counted.worth_s[spare]
            place = min(position - counted.wanted, MOST) - 1
            kept = counted.surplus_s[place] if counted.surplus_s else hidden
            if now < max(until, max(shard.idle_since_s, counted.returned_s) + kept):
                continue
            reason = f"it is worth its memory no longer: {counted.wanted} spares are wanted, {len(ranked)} are free"
            found.append(Evict(shard.id, pool.component.name, reason, self._inputs(pool, counted, now)))
        return found

    def _inputs(self, pool: ComponentPool, counted: _Counted, now: float) -> tuple[tuple[str, str | int | float], ...]:
        cold, hidden = self._prices_s(pool.component.name, counted)
        last = counted.arrived_s
        return (
            ("free", len(pool.free)),
            ("exist", pool.exist),
            ("wanted", counted.wanted),
            ("since_last_s", round(now - last, 3) if last > _NEVER else "never"),
            ("worth_s", ", ".join(f"{worth:.4g}" for worth in counted.worth_s[: counted.wanted + 1])),
            ("cold_price_s", round(cold, 2)),
            ("hidden_price_s", round(hidden, 2)),
            ("start_s", round(counted.start_s, 5)),
        )

    def _spent(self, pool: ComponentPool, now: float) -> None:
        """Count how long how many were free since the last look."""
        counted = self._counted.get(pool.component.name)
        if counted is None and (pool.free or pool.component.warm.min):
            counted = self._of(pool.component.name, pool.limits)
        if counted is not None:
            if counted.looked_s is not None:
                counted.idle_s += counted.free * max(0.0, now - counted.looked_s)
            counted.looked_s, counted.free = now, len(pool.free)

    def _cost_of(self, name: ComponentName, counted: _Counted) -> PoolCost:
        cold, hidden = self._prices_s(name, counted)
        second = self._second_price(name)
        spent = counted.idle_s * second + counted.hidden * hidden * second
        met = counted.met
        return PoolCost(
            name, counted.free, counted.wanted, met["warm"], met["starting"], met["cold"], counted.hidden,
            round(counted.idle_s, 3), round(cold, 3), round(hidden, 3), round(counted.start_s, 6), spent,
            met["warm"] * self._cost.cold_start,
        )  # fmt: skip


def _planned(pool: ComponentPool, number: int) -> Any:
    return f"{pool.component.name}-counted-{number}"

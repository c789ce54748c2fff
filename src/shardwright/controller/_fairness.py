"""Who gets how much of what is scarce: weighted max-min, over one resource or two, for all nodes at once.

Everything is exact (no search for a level): shards are sorted by the level at which they are satisfied, and sums of prefixes
tell where a node's capacity ends. O(n log n), vectorised; ``group`` says on which node each shard is, 0 .. groups - 1.

Max-min fairness after Bertsekas and Gallager; over several resources dominant resource fairness (Ghodsi et al., NSDI 2011).
"""

from __future__ import annotations

import numpy as np

from shardwright.contracts.forecast import FloatArray, IntArray


def fair_levels(demand: FloatArray, weight: FloatArray, group: IntArray, capacity: FloatArray) -> FloatArray:
    """The level of each group: shard i gets min(demand, level * weight). Infinite where all demand fits.

    ``demand`` not negative, ``weight`` positive, one ``capacity`` a group.
    """
    groups = capacity.size
    level = np.full(groups, np.inf)
    if not demand.size:
        return level
    total = np.bincount(group, weights=demand, minlength=groups)
    short = total > capacity
    if not short.any():
        return level
    inside = np.flatnonzero(short[group])
    satisfied_at = demand[inside] / weight[inside]
    order = inside[np.lexsort((satisfied_at, group[inside]))]
    at, members = demand[order] / weight[order], group[order]
    first = np.concatenate(([True], members[1:] != members[:-1]))
    starts = np.flatnonzero(first)
    # at the level of each shard: those before it have all that they ask, those from it on share by weight
    before = _running(demand[order], starts) - demand[order]
    weights_left = _from_here(weight[order], starts)
    taken = before + at * weights_left
    ends = taken >= capacity[members]  # the first such shard ends its group's capacity
    place = np.where(ends, np.arange(order.size), order.size)
    which = np.minimum.reduceat(place, starts)
    which = np.where(which < order.size, which, np.concatenate((starts[1:], [order.size])) - 1)
    level[members[starts]] = np.maximum(capacity[members[starts]] - before[which], 0.0) / weights_left[which]
    return level


def max_min(demand: FloatArray, weight: FloatArray, group: IntArray, capacity: FloatArray) -> FloatArray:
    """What each shard gets of one resource. Sums never exceed ``capacity``, nobody gets more than it asks."""
    given = np.minimum(demand, fair_levels(demand, weight, group, capacity)[group] * weight)
    return _within(given, group, capacity)


def dominant_shares(demand: FloatArray, weight: FloatArray, group: IntArray, capacity: FloatArray) -> FloatArray:
    """Dominant resource fairness: what each shard gets of every resource, shape of ``demand`` (shards, resources).

    Each gets the same share x of all that it asks, so that x times its dominant share (of the resource of which it asks the
    largest part of the node) grows equally by weight; when a resource is used up, those that need it stand still, and the
    others grow on. ``capacity`` has shape (groups, resources).
    """
    safe = np.maximum(capacity, 1e-12)
    dominant = np.maximum((demand / safe[group]).max(axis=1), 1e-15)
    speed = weight / dominant  # of x as the level rises
    share = np.zeros(dominant.size)
    left = capacity.astype(np.float64).copy()
    growing = demand.max(axis=1) > 0
    share[~growing] = 1.0
    begun = np.zeros(capacity.shape[0])  # the level that each group has reached
    for _ in range(demand.shape[1] + 1):
        live = np.flatnonzero(growing)
        if not live.size:
            break
        step = np.full(capacity.shape[0], np.inf)
        bound = np.full(capacity.shape[0], -1)
        rest = 1.0 - share[live]
        for resource in range(demand.shape[1]):
            asked = demand[live, resource]
            uses = asked > 0
            level = fair_levels(
                (asked * rest)[uses], (asked * speed[live])[uses], group[live][uses], np.maximum(left[:, resource], 0.0)
            )
            sooner = level < step
            step, bound = np.where(sooner, level, step), np.where(sooner, resource, bound)
        grown = np.minimum(rest, step[group[live]] * speed[live])
        share[live] += grown
        for resource in range(demand.shape[1]):
            used = np.bincount(group[live], weights=grown * demand[live, resource], minlength=capacity.shape[0])
            left[:, resource] -= used
        begun += np.where(np.isfinite(step), step, 0.0)
        stuck = (bound[group] >= 0) & (demand[np.arange(demand.shape[0]), np.maximum(bound[group], 0)] > 0)
        growing &= (share < 1 - 1e-12) & ~stuck
    given = np.minimum(share, 1.0)[:, None] * demand
    columns = [_within(given[:, r], group, capacity[:, r]) for r in range(demand.shape[1])]
    return np.stack(columns, axis=1)


def _within(given: FloatArray, group: IntArray, capacity: FloatArray) -> FloatArray:
    """Rounding must not give more than there is."""
    total = np.bincount(group, weights=given, minlength=capacity.size)
    scale = np.where(total > capacity, np.maximum(capacity, 0.0) / np.maximum(total, 1e-300) * (1 - 1e-9), 1.0)
    result: FloatArray = given * scale[group]
    return result


def _running(values: FloatArray, starts: IntArray) -> FloatArray:
    """Sums from the begin of each segment up to and with each value."""
    sums = np.cumsum(values)
    lengths = np.diff(np.concatenate((starts, [values.size])))
    inside: FloatArray = sums - np.repeat(np.concatenate(([0.0], sums))[starts], lengths)
    return inside


def _from_here(values: FloatArray, starts: IntArray) -> FloatArray:
    """Sums from each value to the end of its segment."""
    lengths = np.diff(np.concatenate((starts, [values.size])))
    whole = np.repeat(np.add.reduceat(values, starts), lengths)
    return np.maximum(whole - _running(values, starts) + values, 1e-300)

"""How many ready shards a component is worth, and for how long: for any number of components at once.

Everything is counted in idle-seconds, the price of one ready shard kept for a second: ``cold_s`` is what a request that
waits for a start costs, ``hidden_s`` what a start costs that nobody waits for.

An arrival *needs* the k-th spare if k - 1 others came within the time that a start takes: those took the other spares, and
none of them is back yet. For each k the gaps between such needs are counted in a histogram that fades with each. From it
follows for how long after its last need the k-th spare is worth keeping, at the least past cost, and whether it is worth
a start at all. So bursts, steady demand and rare use need no models of their own.

What is idle beyond the spares came back from use, and dropping it can cost a hidden start later. How long it takes from the end
of a session until j more run at once than then is counted likewise, by one *probe* for each j at a time; the j-th surplus shard
is kept as long as that makes it cheaper than a hidden start. One unlucky gap is always assumed, so that nobody is kept for
long on the word of a few.
"""

from __future__ import annotations

import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from shardwright.contracts.forecast import BoolArray, FloatArray, IntArray
from shardwright.controller._budget import KeepAlive
from shardwright.controller._rates import RateParams

MOST_SPARES = 12
_SHORTEST_S, _PER_DECADE, _DECADES = 0.1, 6, 7
EDGES_S = _SHORTEST_S * 10 ** (np.arange(_PER_DECADE * _DECADES + 1) / _PER_DECADE)
_MIDDLES_S = np.concatenate(([EDGES_S[0] / 2], np.sqrt(EDGES_S[1:] * EDGES_S[:-1]), [EDGES_S[-1] * 2]))
_CHOICES_S = np.concatenate(([0.0], EDGES_S))  # how long to keep: not at all, or until the end of a bucket


class SpareParams(Struct, frozen=True):
    """What decides about spares of one component.

    ``memory`` is the number of needs after which an old gap counts a third. ``surplus_s`` is how long what is no spare may
    stay idle; None: as probes say; where prewarming does not pay, ``cold_s`` (ski rental). ``spares`` is the most that are
    kept.
    """

    cold_s: float = 600.0
    hidden_s: float = 15.0
    start_s: float = 0.5
    memory: float = 50.0
    surplus_s: float | None = None
    spares: int = MOST_SPARES
    doubt: float = 0.1  # how many endless gaps are assumed in each histogram
    trust: float = 0.0  # until so many gaps are in its histogram, the present arrival rate may keep a spare as well
    rate_s: float = 900.0  # the time constant of that rate
    rates: RateParams | None = None  # decide by a filter over rates instead of by histograms of gaps
    within: KeepAlive | None = None

    def __post_init__(self) -> None:
        if not (self.cold_s >= 0 and self.hidden_s >= 0 and self.start_s >= 0 and self.memory >= 1):
            raise ValueError(f"prices and times are not negative, memory is at least 1; got {self}")

    @property
    def prewarms(self) -> bool:
        """Prewarming is off where a hidden start costs no less than a visible one."""
        return self.cold_s > self.hidden_s and self.spares > 0

    def without_prewarming(self, keep_s: float) -> SpareParams:
        """A plain keep-alive of that many seconds."""
        return replace(self, spares=0, surplus_s=keep_s)


def needs(latest_s: FloatArray, now: FloatArray, start_s: FloatArray) -> BoolArray:
    """Which spares an arrival at ``now`` needs, shape (components, ``MOST_SPARES``).

    The first, and one more for every other arrival within the start time before it. ``latest_s`` are the latest
    ``MOST_SPARES`` - 1 arrivals before it, in any order.
    """
    before = (now[:, None] - latest_s < start_s[:, None]).sum(axis=1)
    needed: BoolArray = np.arange(MOST_SPARES)[None, :] <= before[:, None]
    return needed


def bucket(gaps_s: FloatArray) -> IntArray:
    """In which bucket of a histogram these gaps fall."""
    return np.searchsorted(EDGES_S, gaps_s)


def worth_keeping(
    histograms: FloatArray, cold_s: FloatArray, hidden_s: FloatArray, doubt: FloatArray
) -> tuple[FloatArray, BoolArray]:
    """For how long after its last need each spare is kept, and whether it is worth a start.

    ``histograms`` of gaps between needs, one row a spare, as of ``bucket``; the prices of each row, and how many endless gaps
    are assumed beside those counted. A spare of which nothing is known is not worth a start; how long to keep it is then
    ``cold_s``: ski rental.
    """
    counted = histograms.sum(axis=1)
    total = counted + doubt
    below = np.concatenate((np.zeros((total.size, 1)), np.cumsum(histograms, axis=1)[:, :-1]), axis=1)
    short = np.concatenate((np.zeros((total.size, 1)), np.cumsum(histograms * _MIDDLES_S, axis=1)[:, :-1]), axis=1)
    cost = short + (total[:, None] - below) * (_CHOICES_S[None, :] + cold_s[:, None])
    best = np.argmin(cost, axis=1)
    least = cost[np.arange(total.size), best]
    unknown = counted <= 0
    return np.where(unknown, cold_s, _CHOICES_S[best]), ~unknown & (least + hidden_s * total < cold_s * total)


def steady(
    share: FloatArray, rate: FloatArray, fades_s: FloatArray, cold_s: FloatArray, hidden_s: FloatArray
) -> tuple[FloatArray, BoolArray]:
    """For how long after an arrival each spare is worth keeping, and whether it is worth a start, by the arrival rate.

    ``share`` of all arrivals that need each spare, one row a component; ``rate`` of arrivals a second, which fades with the
    time constant ``fades_s`` while nothing arrives.
    """
    often = share * rate[:, None]
    pays = often * cold_s[:, None] >= 1
    keep = np.where(pays, fades_s[:, None] * np.log(np.where(pays, often * cold_s[:, None], 1.0)), 0.0)
    return keep, often * (cold_s - hidden_s)[:, None] >= 1


def drop_at(
    position: IntArray,
    idle_since: FloatArray,
    spares: IntArray,
    spare_until: FloatArray,
    surplus_s: FloatArray,
) -> FloatArray:
    """When the idle shard at ``position`` (1: the one used last) is to be dropped, if nothing happens before.

    The first ``spares`` when the need for them ends (``spare_until``, one row a component), or later as a surplus; those
    beyond once idle for the ``surplus_s`` of their place among the surplus.
    """
    rows, deepest = np.arange(position.size), spare_until.shape[1]
    spare = np.where(position <= deepest, spare_until[rows, np.minimum(position, deepest) - 1], -np.inf)
    place = np.maximum(position - spares, 1)
    keep = np.where(place <= deepest, surplus_s[rows, np.minimum(place, deepest) - 1], surplus_s[:, -1])
    result: FloatArray = np.maximum(spare, idle_since + keep)
    return result

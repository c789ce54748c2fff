"""Keep-alive policies in closed form: who is used last is used first, so each level of concurrency has gaps of its own.

With most-recently-used-first, the n-th shard of a component is busy exactly while n sessions run at once. Its idle gaps
are those of the demand, whatever is kept: a keep-alive of T loses the gaps longer than T. Clairvoyants choose for each gap.
"""

from __future__ import annotations

import numpy as np
from msgspec import Struct

from shardwright.contracts.forecast import BoolArray, FloatArray
from shardwright.simulation._demand import Sessions


class Outcome(Struct, frozen=True):
    """What a policy came to, in the scored part: counts, and idle-seconds (starting and draining included)."""

    visible: float
    hidden: float
    starts: float
    idle_s: float

    def cost(self, cold_s: float, hidden_s: float) -> float:
        """In idle-seconds."""
        return self.idle_s + cold_s * self.visible + hidden_s * self.hidden


class LevelGaps(Struct, frozen=True):
    """Idle gaps of every level: begin and length; ``used`` says whether a session ended the gap (else the trace did).

    ``first`` counts the scored sessions that were the first of their level, cold under any policy without prewarming.
    """

    begin_s: FloatArray
    length_s: FloatArray
    used: BoolArray
    first_at_s: FloatArray
    score_from_s: float
    end_s: float

    @property
    def ends_scored(self) -> BoolArray:
        return self.used & (self.begin_s + self.length_s >= self.score_from_s)


def level_gaps(sessions: Sessions) -> LevelGaps:
    level = np.where(sessions.begins, sessions.at_once, sessions.at_once + 1)
    order = np.lexsort((np.arange(level.size), level))
    levels, times, begins = level[order], sessions.events_s[order], sessions.begins[order]
    same = np.concatenate((levels[1:] == levels[:-1], [False])) if levels.size else np.zeros(0, dtype=bool)
    ends = ~begins
    following = np.concatenate((times[1:], [sessions.length_s])) if times.size else np.zeros(0)
    until = np.where(same, following, sessions.length_s)
    fresh = begins & np.concatenate(([True], levels[1:] != levels[:-1])) if levels.size else begins
    return LevelGaps(
        times[ends], (until - times)[ends], same[ends], times[fresh], sessions.score_from_s, sessions.length_s
    )


def keep_alive(gaps: LevelGaps, keep_s: float | FloatArray, start_s: float) -> Outcome:
    """A keep-alive of ``keep_s``, for all gaps or one for each."""
    kept = np.minimum(gaps.length_s, keep_s)
    idle = _scored(gaps.begin_s, gaps.begin_s + kept, gaps)
    colds = int((gaps.ends_scored & (gaps.length_s > keep_s)).sum()) + _first(gaps)
    return Outcome(colds, 0, colds, idle + colds * start_s)


def clairvoyant(gaps: LevelGaps, cold_s: float, start_s: float) -> Outcome:
    """Never prewarms: keeps over a gap if that is cheaper than a cold start, else drops at once."""
    worth = gaps.used & (gaps.length_s <= cold_s + start_s)
    return keep_alive(gaps, np.where(worth, gaps.length_s, 0.0), start_s)


def prewarming_clairvoyant(gaps: LevelGaps, cold_s: float, hidden_s: float, start_s: float) -> Outcome:
    """Starts just in time where that is cheaper than keeping; nobody ever waits unless that is cheaper still."""
    cheapest = min(cold_s, hidden_s) + start_s
    keep = gaps.used & (gaps.length_s <= cheapest)
    idle = _scored(gaps.begin_s, gaps.begin_s + np.where(keep, gaps.length_s, 0.0), gaps)
    starts = int((gaps.ends_scored & ~keep).sum()) + _first(gaps)
    hides = hidden_s < cold_s
    return Outcome(0 if hides else starts, starts if hides else 0, starts, idle + starts * start_s)


def _first(gaps: LevelGaps) -> int:
    return int((gaps.first_at_s >= gaps.score_from_s).sum())


def _scored(begin_s: FloatArray, end_s: FloatArray, gaps: LevelGaps) -> float:
    return float(np.clip(np.minimum(end_s, gaps.end_s) - np.maximum(begin_s, gaps.score_from_s), 0.0, None).sum())

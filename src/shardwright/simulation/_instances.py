"""The warm pool's decisions over demand of many components at once, in virtual time, event by event.

A lane is one component under one setting. All lanes advance together by the number of their events, not by time: event
number e of each. So the very functions by which a node decides are called with thousands of rows at a time.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from msgspec import Struct

from shardwright.contracts.forecast import BoolArray, FloatArray, IntArray
from shardwright.controller import (
    MOST_SPARES,
    RateParams,
    Rates,
    SpareParams,
    bucket,
    drop_at,
    needs,
    steady,
    worth_keeping,
)
from shardwright.simulation._demand import Sessions
from shardwright.simulation._levels import Outcome

_DEPTH = 128  # idle shards of one lane, at most; a power of two
_STARTING = 16


class Lane(Struct, frozen=True):
    """``told``: the policy is told the true rate instead of estimating it. ``until_s`` ends the replay early.

    ``beside``: what the settings of a budget came to over the same demand (``marks``), shape (settings, marks, 3).
    """

    sessions: Sessions
    params: SpareParams
    told: bool = False
    score_from_s: float = 0.0
    until_s: float = np.inf
    beside: FloatArray | None = None
    usual: FloatArray | None = None


def replay(lanes: Sequence[Lane]) -> list[Outcome]:
    """The outcome of every lane, in their order. Raises ValueError for one within a budget, without its settings."""
    if any(lane.params.within is not None and lane.beside is None for lane in lanes):
        raise ValueError("a lane within a budget needs what its settings came to (replay_within)")
    return [outcome for outcome, _ in _run(lanes, 0)]


def marks(lanes: Sequence[Lane], every: int) -> list[FloatArray]:
    """Visible colds, starts and idle-seconds of every lane since its beginning, after each ``every`` arrivals."""
    return [mark for _, mark in _run(lanes, every)]


def _run(lanes: Sequence[Lane], every: int) -> list[tuple[Outcome, FloatArray]]:
    order = sorted(range(len(lanes)), key=lambda n: -_events(lanes[n]))
    results: dict[int, tuple[Outcome, FloatArray]] = {}
    for begin in range(0, len(order), 4096):
        batch = order[begin : begin + 4096]
        results.update(zip(batch, _Replay([lanes[n] for n in batch], every).run(), strict=True))
    return [results[n] for n in range(len(lanes))]


def _events(lane: Lane) -> int:
    return int(np.searchsorted(lane.sessions.events_s, min(lane.until_s, lane.sessions.length_s)))


class _Replay:
    def __init__(self, lanes: Sequence[Lane], every: int = 0) -> None:
        count = len(lanes)
        self.lanes = lanes
        self.counts = np.array([_events(lane) for lane in lanes])
        self.end = np.array([min(lane.until_s, lane.sessions.length_s) for lane in lanes])
        self.score_from = np.array([lane.score_from_s for lane in lanes])
        unique = {id(lane.sessions): lane.sessions for lane in lanes}
        row_of = {key: row for row, key in enumerate(unique)}
        longest = int(self.counts.max(initial=0))
        self.times = np.full((longest, len(unique)), np.inf)  # one column a demand: a step reads one row
        self.begins = np.zeros((longest, len(unique)), dtype=bool)
        for key, sessions in unique.items():
            size = min(longest, sessions.events_s.size)
            self.times[:size, row_of[key]] = sessions.events_s[:size]
            self.begins[:size, row_of[key]] = sessions.begins[:size]
        self.row = np.array([row_of[id(lane.sessions)] for lane in lanes])
        params = [lane.params for lane in lanes]
        self.cold, self.hide = np.array([p.cold_s for p in params]), np.array([p.hidden_s for p in params])
        self.most = np.array([min(p.spares, MOST_SPARES) if p.prewarms else 0 for p in params])
        self.bounded = np.array([lane.beside is not None for lane in lanes], dtype=bool)
        self.period: dict[int, tuple[float, FloatArray, FloatArray]] = {}  # when and where the budgets of a lane began
        self.every = every
        self.marks = np.zeros((count, longest // every + 1 if every else 0, 3))
        self.idled, self.started, self.met = (np.zeros(count) for _ in range(3))  # since the beginning, scored or not
        self.doubt = np.array([p.doubt for p in params])
        self.memory = np.array([p.memory for p in params])
        self.start_s = np.array([p.start_s for p in params])
        self.told = np.array([lane.told for lane in lanes])
        self.gaps = np.zeros((count, MOST_SPARES, bucket(np.array([np.inf]))[0] + 1))
        self.needed_at = np.full((count, MOST_SPARES), -np.inf)
        self.worth_s = np.zeros((count, MOST_SPARES))
        self.worth_s[:, 0] = np.where(self.most > 0, self.cold, 0.0)
        fixed = np.array([np.nan if p.surplus_s is None else p.surplus_s for p in params])
        self.learns = np.isnan(fixed) & (self.most > 0) & ~self.bounded
        otherwise = np.where(np.isnan(fixed), np.where(self.most > 0, self.hide, self.cold), fixed)
        self.surplus_s = np.repeat(otherwise[:, None], MOST_SPARES, axis=1)
        for place, lane in enumerate(lanes):
            budget = lane.params.within
            if budget is not None and lane.usual is not None:
                nothing = np.zeros(2)
                begin = budget.settings()[budget.choose(lane.usual * 0, nothing, nothing, nothing, lane.usual)]
                self.cold[place], self.surplus_s[place] = begin.cold_s, begin.surplus_s
        self.probe_from = np.zeros((count, MOST_SPARES))
        self.probe_level = np.full((count, MOST_SPARES), -1)
        self.rises = np.zeros_like(self.gaps)
        self.at_once = np.zeros(count, dtype=np.int64)
        self.wanted = np.zeros(count, dtype=np.int64)
        self.until = np.full((count, MOST_SPARES), -np.inf)  # how long each spare is worth keeping
        self.rate = np.zeros(count)
        self.rate_s = np.array([p.rate_s for p in params])
        self.share = np.zeros((count, MOST_SPARES))
        self.last_at = np.full(count, -np.inf)
        self.trust = np.array([p.trust for p in params])
        self.starting_pays = np.zeros((count, MOST_SPARES), dtype=bool)
        self.latest = np.full((count, MOST_SPARES - 1), -np.inf)
        self.arrivals = np.zeros(count, dtype=np.int64)
        self.since = np.zeros((count, _DEPTH))
        self.top = np.zeros(count, dtype=np.int64)
        self.bottom = np.zeros(count, dtype=np.int64)
        self.ready_at = np.full((count, _STARTING), np.inf)
        self.first_starting = np.zeros(count, dtype=np.int64)
        self.after_starting = np.zeros(count, dtype=np.int64)
        self._prepare_truth()
        filters = [lane.params.rates if not lane.told else None for lane in lanes]
        self.filtered = np.array([each is not None for each in filters])
        # lanes over the same demand share a filter, and those of the same prices what it says
        keys = [
            (id(lane.sessions), each or RateParams(), lane.params.start_s)
            for lane, each in zip(lanes, filters, strict=True)
        ]
        rows = {key: row for row, key in enumerate(dict.fromkeys(keys))}
        self.filter_row = np.array([rows[key] for key in keys])
        self.rates = Rates([key[1] for key in rows], np.array([key[2] for key in rows]), MOST_SPARES)
        asks = [
            (rows[k], c, h, n * b)
            for n, (k, c, h, b) in enumerate(zip(keys, self.cold, self.hide, self.bounded, strict=True), 1)
        ]
        numbers = {key: number for number, key in enumerate(dict.fromkeys(asks))}
        self.asks = np.array([numbers[key] for key in asks])
        self.changed_at = np.zeros(count)
        self.ended_at = np.full(count, -np.inf)
        self.visible, self.hidden, self.starts, self.idle = (np.zeros(count) for _ in range(4))

    def _prepare_truth(self) -> None:
        """For lanes that are told the rate: in each of its steps, until when each spare pays, and whether a start does.

        How large a share of arrivals needs each spare is that of the whole trace; needs are taken to be memoryless.
        """
        told = np.flatnonzero(self.told)
        self.truth_of = np.full(self.told.size, -1)
        self.truth_of[told] = np.arange(told.size)
        steps = max((self.lanes[n].sessions.rate.size for n in told.tolist()), default=0)
        self.truth_step = np.array([lane.sessions.step_s for lane in self.lanes])
        self.truth_until = np.full((told.size, steps, MOST_SPARES), -np.inf)
        self.truth_starts = np.zeros((told.size, steps, MOST_SPARES), dtype=bool)
        for place, number in enumerate(told.tolist()):
            sessions = self.lanes[number].sessions
            at = sessions.events_s[sessions.begins]
            before = np.arange(at.size) - np.searchsorted(at, at - self.start_s[number], side="right")
            shares = np.array([(before >= others).mean() if at.size else 0.0 for others in range(MOST_SPARES)])
            rates = sessions.rate[:, None] * shares[None, :]
            pays = (rates * self.cold[number] >= 1) & (np.arange(MOST_SPARES) < self.most[number])
            edges = np.arange(sessions.rate.size) * sessions.step_s
            stops = np.minimum.accumulate(np.where(pays, np.inf, edges[:, None])[::-1], axis=0)[::-1]
            self.truth_until[place, : rates.shape[0]] = np.where(pays, stops, -np.inf)
            worth = self.cold[number] - self.hide[number] - self.start_s[number]
            self.truth_starts[place, : rates.shape[0]] = pays & (rates * worth >= 1)

    def run(self) -> list[tuple[Outcome, FloatArray]]:
        active = self.counts.size
        for event in range(self.times.shape[0]):
            while active and self.counts[active - 1] <= event:
                active -= 1
            if not active:
                break
            live = slice(0, active)
            now = self.times[event, self.row[live]]
            self.idled[live] += (self.top[live] - self.bottom[live]) * (now - self.changed_at[live])
            self._advance(np.arange(active), now)
            begins = self.begins[event, self.row[live]]
            self._ends(np.flatnonzero(~begins), now)
            self._arrives(np.flatnonzero(begins), now)
            self.changed_at[live] = now
        lanes = np.arange(self.counts.size)
        self._advance(lanes, self.end)
        self._close(lanes)
        outcomes = (
            Outcome(*(float(value) for value in values))
            for values in zip(self.visible, self.hidden, self.starts, self.idle, strict=True)
        )
        return list(zip(outcomes, self.marks, strict=True))

    def _advance(self, lanes: IntArray, now: FloatArray) -> None:
        """Let everything happen that was due before ``now`` (one time a lane, indexed by lane)."""
        while lanes.size:  # what has started is ready
            first = self.first_starting[lanes]
            at = self.ready_at[lanes, first % _STARTING]
            done = (first < self.after_starting[lanes]) & (at <= now[lanes])
            if not done.any():
                break
            lanes = lanes[done]
            self.since[lanes, self.top[lanes] % _DEPTH] = at[done]
            self.idled[lanes] += now[lanes] - at[done]
            self.top[lanes] += 1
            self.first_starting[lanes] += 1
            self.changed_at[lanes] = at[done]
        lanes = np.arange(now.size)
        lanes = lanes[self.top[: now.size] > self.bottom[: now.size]]
        while lanes.size:  # what was idle for too long is gone, the longest idle first
            bottom = self.bottom[lanes]
            since = self.since[lanes, bottom % _DEPTH]
            # nobody is dropped before what made it surplus
            gone_at = np.maximum(self._drop_at(lanes, self.top[lanes] - bottom, since), self.changed_at[lanes])
            gone = gone_at <= now[lanes]
            if not gone.any():
                break
            lanes, since, gone_at = lanes[gone], since[gone], gone_at[gone]
            self._count_idle(lanes, since, gone_at)
            self.idled[lanes] -= now[lanes] - gone_at
            self.bottom[lanes] += 1
            lanes = lanes[self.top[lanes] > self.bottom[lanes]]

    def _drop_at(self, lanes: IntArray, position: IntArray, since: FloatArray) -> FloatArray:
        since = np.where(self.learns[lanes], np.maximum(since, self.ended_at[lanes]), since)
        return drop_at(position, since, self.wanted[lanes], self.until[lanes], self.surplus_s[lanes])

    def _ends(self, lanes: IntArray, now: FloatArray) -> None:
        self.since[lanes, self.top[lanes] % _DEPTH] = now[lanes]
        self.ended_at[lanes] = now[lanes]
        self.top[lanes] += 1
        self.at_once[lanes] -= 1
        lanes = lanes[self.learns[lanes]]
        lane, place = np.nonzero(self.probe_level[lanes] < 0)
        lane = lanes[lane]
        self.probe_level[lane, place] = self.at_once[lane]
        self.probe_from[lane, place] = now[lane]

    def _arrives(self, lanes: IntArray, now: FloatArray) -> None:
        if not lanes.size:
            return
        at = now[lanes]
        needed = needs(self.latest[lanes], at, self.start_s[lanes])
        self.latest[lanes, self.arrivals[lanes] % (MOST_SPARES - 1)] = at
        self.arrivals[lanes] += 1
        self.at_once[lanes] += 1
        self._learn(lanes, needed, now)
        self._mark(lanes, now)
        scored = at >= self.score_from[lanes]
        warm = self.top[lanes] > self.bottom[lanes]
        served = lanes[warm]
        self.top[served] -= 1
        self._count_idle(served, self.since[served, self.top[served] % _DEPTH], now[served])
        late = self.first_starting[lanes] < self.after_starting[lanes]
        self.visible[lanes[~warm]] += scored[~warm]
        self.met[lanes[~warm]] += 1
        self.first_starting[lanes[~warm & late]] += 1  # it waits for the next that is ready, whose start was counted
        cold = lanes[~warm & ~late]
        self.starts[cold] += scored[~warm & ~late]
        self.started[cold] += 1
        self.idled[cold] += self.start_s[cold]
        self.idle[cold] += self.start_s[cold] * scored[~warm & ~late]
        pays = self._values(lanes, at)
        wanted = np.where(pays.all(axis=1), MOST_SPARES, np.argmin(pays, axis=1))
        self.wanted[lanes] = wanted
        while lanes.size:
            there = self.top[lanes] - self.bottom[lanes] + self.after_starting[lanes] - self.first_starting[lanes]
            lacks = there < wanted
            lanes, wanted, scored = lanes[lacks], wanted[lacks], scored[lacks]
            if not lanes.size:
                break
            self.ready_at[lanes, self.after_starting[lanes] % _STARTING] = now[lanes] + self.start_s[lanes]
            self.after_starting[lanes] += 1
            self.started[lanes] += 1
            self.idled[lanes] += self.start_s[lanes]
            self.hidden[lanes] += scored
            self.starts[lanes] += scored
            self.idle[lanes] += self.start_s[lanes] * scored

    def _values(self, lanes: IntArray, at: FloatArray) -> BoolArray:
        """Until when each spare is worth keeping, and whether it is worth a start now."""
        until, pays = self.needed_at[lanes] + self.worth_s[lanes], self.starting_pays[lanes]
        keep, also = steady(
            self.share[lanes],
            self.rate[lanes],
            self.rate_s[lanes],
            self.cold[lanes],
            self.hide[lanes] + self.start_s[lanes],
        )
        # told lanes know the rate; others believe their histograms once these have seen enough
        learning = (self.gaps[lanes].sum(axis=2) < self.trust[lanes][:, None]) & ~self.told[lanes][:, None]
        learning &= np.arange(MOST_SPARES)[None, :] < self.most[lanes][:, None]
        self.until[lanes] = np.where(learning, np.maximum(until, at[:, None] + keep), until)
        result: BoolArray = (pays | (also & learning)) & (self.until[lanes] > at[:, None])
        which = np.flatnonzero(self.filtered[lanes])
        if which.size:
            mine = lanes[which]
            _, first, back = np.unique(self.asks[mine], return_index=True, return_inverse=True)
            asking = mine[first]
            ahead, starts = self.rates.ahead(
                self.filter_row[asking], self.cold[asking], self.hide[asking] + self.start_s[asking]
            )
            ahead, starts = ahead[back], starts[back]
            allowed = np.arange(MOST_SPARES)[None, :] < self.most[mine][:, None]
            self.until[mine] = np.where(allowed, at[which][:, None] + ahead, -np.inf)
            result[which] = starts & allowed
        return result

    def _mark(self, lanes: IntArray, now: FloatArray) -> None:
        """After so many arrivals: what it came to so far, or by which setting it is gone on."""
        if self.every:
            lanes = lanes[self.arrivals[lanes] % self.every == 0]
            so_far = np.stack((self.met[lanes], self.started[lanes], self.idled[lanes]), axis=1)
            self.marks[lanes, self.arrivals[lanes] // self.every - 1] = so_far
            return
        for lane in lanes[self.bounded[lanes]].tolist():
            budget, beside, usual = self.lanes[lane].params.within, self.lanes[lane].beside, self.lanes[lane].usual
            if budget is None or beside is None or usual is None or self.arrivals[lane] % budget.every:
                continue
            mark = int(self.arrivals[lane]) // budget.every - 1
            own = np.array([self.started[lane], self.idled[lane]])
            would = beside[0, mark, 1:]
            if lane not in self.period or now[lane] >= self.score_from[lane] > self.period[lane][0]:
                self.period[lane] = float(now[lane]), own, would
            _, began_own, began_would = self.period[lane]
            before = mark - budget.recent // budget.every
            recent = beside[:, mark] - (beside[:, before] if before >= 0 else 0.0)
            which = budget.choose(recent, recent[0, 1:], would - began_would, own - began_own, usual)
            chosen = budget.settings()[which]
            self.cold[lane], self.surplus_s[lane] = chosen.cold_s, chosen.surplus_s

    def _learn(self, lanes: IntArray, needed: BoolArray, now: FloatArray) -> None:
        others = needed.sum(axis=1) - 1
        needed &= np.arange(MOST_SPARES)[None, :] < self.most[lanes][:, None]
        followed = lanes[self.filtered[lanes]]
        if followed.size:
            rows, first = np.unique(self.filter_row[followed], return_index=True)
            self.rates.arrived(rows, now[followed][first], others[self.filtered[lanes]][first])
        quiet = now[lanes] - self.last_at[lanes]
        memory = self.rate_s[lanes]
        self.rate[lanes] = self.rate[lanes] * np.exp(-np.where(np.isfinite(quiet), quiet, 0.0) / memory) + 1 / memory
        self.last_at[lanes] = now[lanes]
        shares = np.maximum(1 / self.arrivals[lanes], 1 / 500)[:, None]
        self.share[lanes] += shares * (needed - self.share[lanes])
        told = lanes[self.told[lanes]]
        if told.size:
            truth = self.truth_of[told]
            step = np.minimum((now[told] / self.truth_step[told]).astype(np.int64), self.truth_until.shape[1] - 1)
            self.needed_at[told] = 0.0
            self.worth_s[told] = self.truth_until[truth, step]
            self.starting_pays[told] = self.truth_starts[truth, step]
            needed[self.told[lanes]] = False
        place, spare = np.nonzero(needed)
        lane = lanes[place]
        gap = now[lane] - self.needed_at[lane, spare]
        self.needed_at[lane, spare] = now[lane]
        again = np.isfinite(gap)
        lane, spare, gap = lane[again], spare[again], gap[again]
        self.gaps[lane, spare] *= (1 - 1 / self.memory[lane])[:, None]
        self.gaps[lane, spare, bucket(gap)] += 1
        self.worth_s[lane, spare], self.starting_pays[lane, spare] = worth_keeping(
            self.gaps[lane, spare], self.cold[lane], self.hide[lane] + self.start_s[lane], self.doubt[lane]
        )
        lanes = lanes[self.learns[lanes]]
        level, begun = self.probe_level[lanes], self.probe_from[lanes]
        risen = level + np.arange(1, MOST_SPARES + 1) <= self.at_once[lanes][:, None]
        over = (level >= 0) & (risen | (now[lanes][:, None] - begun > 100 * self.hide[lanes][:, None] + 100))
        place, rise = np.nonzero(over)
        lane = lanes[place]
        self.rises[lane, rise] *= (1 - 1 / self.memory[lane])[:, None]
        took = np.where(risen[place, rise], now[lane] - begun[place, rise], np.inf)
        self.rises[lane, rise, bucket(took)] += 1
        self.probe_level[lane, rise] = -1
        nothing = np.zeros(lane.size)
        price = self.hide[lane] + self.start_s[lane]
        self.surplus_s[lane, rise] = worth_keeping(self.rises[lane, rise], price, nothing, self.doubt[lane])[0]

    def _count_idle(self, lanes: IntArray, begin: FloatArray, end: FloatArray) -> None:
        self.idle[lanes] += np.maximum(
            np.minimum(end, self.end[lanes]) - np.maximum(begin, self.score_from[lanes]), 0.0
        )

    def _close(self, lanes: IntArray) -> None:
        while lanes.size:
            lanes = lanes[self.top[lanes] > self.bottom[lanes]]
            self._count_idle(lanes, self.since[lanes, self.bottom[lanes] % _DEPTH], self.end[lanes])
            self.bottom[lanes] += 1

"""The warm pool within a budget, in virtual time: the settings that it chooses from, and then the pool that follows them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from msgspec.structs import replace

from shardwright.contracts.forecast import FloatArray
from shardwright.simulation._instances import Lane, marks, replay
from shardwright.simulation._levels import Outcome

_KNOWN = 5  # starts of the keep-alive, from which on a component tells what is usual


def replay_within(lanes: Sequence[Lane]) -> list[Outcome]:
    """Lanes within a budget (``SpareParams.within``): first the settings that it chooses from, then they themselves."""
    followed: list[Lane] = []
    places = []
    for lane in lanes:
        budget = lane.params.within
        if budget is None:
            raise ValueError(f"no budget is stated: {lane.params}")
        places.append((len(followed), budget))
        for setting in budget.settings():
            params = replace(lane.params, cold_s=setting.cold_s, surplus_s=setting.surplus_s, within=None)
            followed.append(replace(lane, params=params, score_from_s=0.0))
    found = marks(followed, places[0][1].every) if places else []
    beside = [np.stack(found[first : first + len(budget.settings())]) for first, budget in places]
    usual = _usual(lanes, beside, places[0][1].every) if places else np.zeros(0)
    return replay([replace(lane, beside=mine, usual=usual) for lane, mine in zip(lanes, beside, strict=True)])


def _usual(lanes: Sequence[Lane], beside: Sequence[FloatArray], every: int) -> FloatArray:
    """What settings come to in the middle of all components, over the keep-alive's, before anything is scored."""
    shares = []
    for lane, marked in zip(lanes, beside, strict=True):
        sessions = lane.sessions
        before = int((sessions.events_s[sessions.begins] < lane.score_from_s).sum()) // every - 1
        if before >= 0 and marked[0, before, 1] >= _KNOWN:
            so_far = marked[:, before]
            shares.append(so_far / np.maximum(so_far[0], 1e-9))
    if not shares:
        return np.ones((beside[0].shape[0], 3))
    result: FloatArray = np.median(np.stack(shares), axis=0)
    return result

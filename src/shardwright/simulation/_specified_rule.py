"""The specified rule about limits, as written: raise to the prediction, lower to the usage, more for higher priority.

It is the baseline that the node's own decisions must beat. Read literally: each container is looked at alone and in order,
``availableResources`` is what the policies say (the whole node), usage is what the container got to use, and a container of
a higher priority than the one before gets a tenth more each time.
"""

from __future__ import annotations

import numpy as np
from msgspec.structs import replace

from shardwright.contracts.forecast import FloatArray
from shardwright.controller import CPU, LimitState
from shardwright.simulation._plant import Controller


def specified_rule(window: int = 10) -> Controller:
    """A controller for ``run_plant``; the limits are its guarantees."""
    history: list[FloatArray] = []

    def controller(state: LimitState, capacity: FloatArray, now: float) -> LimitState:
        history.append(state.usage[:, CPU].copy())
        predicted = np.mean(history[-window:], axis=0)
        available = float(capacity[0, CPU])
        limits = state.guarantee.copy()
        current = -np.inf
        for shard in range(state.count):
            if predicted[shard] > limits[shard, CPU]:
                limits[shard, CPU] = min(predicted[shard] * 1.2, available)
            if state.usage[shard, CPU] < limits[shard, CPU] * 0.5:
                limits[shard, CPU] = min(max(state.usage[shard, CPU], 0.01), available)
            if state.priority[shard] > current:
                limits[shard, CPU] = min(limits[shard, CPU] * 1.1, available)
                current = state.priority[shard]
        return replace(state, guarantee=limits)

    return controller

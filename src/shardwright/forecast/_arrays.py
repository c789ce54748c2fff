"""What all forecasters share: measured values made honest, states copied and taken up."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from shardwright.contracts.forecast import FloatArray


def measured(values: FloatArray, series: int) -> FloatArray:
    """A copy of ``values`` in which whatever nobody can have measured (negative, infinite) is NaN."""
    given = np.array(values, dtype=np.float64)
    if given.shape != (series,):
        raise ValueError(f"expected {series} values, one a series, got an array of shape {given.shape}")
    given[~np.isfinite(given) | (given < 0)] = np.nan
    return given


def copied(**arrays: Any) -> dict[str, FloatArray]:
    return {name: np.array(array, dtype=np.float64) for name, array in arrays.items()}


def taken_up(snapshot: Mapping[str, FloatArray], **arrays: FloatArray) -> dict[str, FloatArray]:
    """Copies of what ``snapshot`` holds under the names of ``arrays``, of their shapes and types.

    Raises ValueError when a name is missing or a shape differs.
    """
    result = {}
    for name, array in arrays.items():
        if name not in snapshot or np.shape(snapshot[name]) != array.shape:
            there = np.shape(snapshot[name]) if name in snapshot else "nothing"
            raise ValueError(f"the snapshot does not fit: {name} has shape {array.shape} here, {there} there")
        result[name] = np.array(snapshot[name]).astype(array.dtype)
    return result

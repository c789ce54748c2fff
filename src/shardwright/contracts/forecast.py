"""The seam of forecasting: what predicts series of demand, all series of a node at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from msgspec import Struct

if TYPE_CHECKING:  # who merely names these types must not pay for importing numpy
    import numpy as np
    from numpy.typing import NDArray

    FloatArray: TypeAlias = NDArray[np.float64]
    IntArray: TypeAlias = NDArray[np.int64]
    BoolArray: TypeAlias = NDArray[np.bool_]
else:
    FloatArray = IntArray = BoolArray = Any


class Forecast(Struct, frozen=True):
    """What is expected of every series: three arrays of shape (series, steps).

    ``low`` <= ``middle`` <= ``high``; a value lies between low and high with about ``confidence``. NaN in all three says
    "no data": nothing is known of that series, which is something else than a forecast of 0. No value is infinite.
    """

    low: FloatArray
    middle: FloatArray
    high: FloatArray
    confidence: float


class Forecaster(Protocol):
    """Predicts a fixed number of series that advance together, one value a tick. ``check_forecaster`` tests one.

    Values are amounts, never negative. A forecaster has no clock and no randomness: equal updates lead to equal forecasts.
    """

    @property
    def series(self) -> int:
        """How many series; fixed at construction."""
        ...

    def update(self, values: FloatArray) -> None:
        """The values of one tick, shape (series,). NaN: nobody measured; that series merely grows older.

        Raises ValueError on another shape. Negative and infinite values count as NaN: they were not measured either.
        """
        ...

    def predict(self, steps: int) -> Forecast:
        """The next ``steps`` ticks (at least 1) of every series. Changes nothing."""
        ...

    def snapshot(self) -> Mapping[str, FloatArray]:
        """All that it has learnt, as copies of arrays, so that histories outlive a restart."""
        ...

    def restore(self, snapshot: Mapping[str, FloatArray]) -> None:
        """Take up what ``snapshot`` gave of a forecaster with equal parameters. Raises ValueError if it does not fit."""
        ...


ForecasterFactory: TypeAlias = Callable[[int], Forecaster]  # of a number of series

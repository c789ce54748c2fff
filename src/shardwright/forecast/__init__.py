"""What comes next, from what was: pure, vectorised over all series, always with an interval. Needs numpy.

``Selected`` chooses per series among ``HoltWinters``, ``SeasonalNaive`` and ``HistogramForecaster`` by rolling backtest;
others plug in by the contract ``Forecaster``. ``IdleGaps`` knows how long series stay unused.
"""

from shardwright.forecast._gaps import IdleGaps, thinned
from shardwright.forecast._histogram import DecayingHistogram, HistogramForecaster
from shardwright.forecast._seasonal import HoltWinters, SeasonalNaive
from shardwright.forecast._seasonality import find_periods
from shardwright.forecast._select import Selected, usual_candidates

__all__ = [
    "DecayingHistogram",
    "HistogramForecaster",
    "HoltWinters",
    "IdleGaps",
    "SeasonalNaive",
    "Selected",
    "find_periods",
    "thinned",
    "usual_candidates",
]

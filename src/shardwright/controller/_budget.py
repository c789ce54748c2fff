"""A pool within a budget: no more idleness and no more starts than a plain keep-alive would come to, times a factor.

Which prices spend such a budget best differs from component to component, and hindsight knows. So a few settings (what a cold
start is worth, and for how long a surplus stays) are followed beside the real pool over the same demand, and the keep-alive
with them, which is one of the settings. Believed is whoever met the fewest visible colds lately, of those that took no more
than what is left of both budgets: overspent budgets lead to sparer settings, and saved ones to better ones. What is used
of a budget is counted from when its period began.
"""

from __future__ import annotations

import numpy as np
from msgspec import Struct

from shardwright.contracts.forecast import FloatArray


class Setting(Struct, frozen=True):
    """``cold_s``: what a cold start is reckoned with, in idle-seconds; 0: no spares. ``surplus_s``: how long others stay."""

    cold_s: float
    surplus_s: float


class KeepAlive(Struct, frozen=True):
    """No more than ``idle`` times the idleness of a keep-alive of ``keep_s``, and ``starts`` times its starts.

    ``recent`` arrivals are what settings are judged by, anew after each ``every``, and what is usual among all components
    as if that were ``prior`` starts of the keep-alive. ``aim`` is the part of both budgets that is aimed at; a setting that
    would take more is counted ``stern`` times what it is over. What was overspent is to be saved again within ``soon`` of
    what settings are judged by.
    """

    keep_s: float = 600.0
    starts: float = 3.0
    idle: float = 1.0
    aim: float = 0.87
    recent: int = 1000
    every: int = 10
    prior: float = 60.0
    stern: float = 3.0
    soon: float = 0.25

    def __post_init__(self) -> None:
        if not (self.keep_s > 0 and self.starts > 0 and self.idle > 0 and 0 < self.aim <= 1):
            raise ValueError(f"budgets are positive, and what is aimed at is a part of them; got {self}")
        if not 1 <= self.every <= self.recent:
            raise ValueError(f"1 <= every <= recent; got {self}")

    def settings(self) -> tuple[Setting, ...]:
        """Those that are followed; the first is the keep-alive itself."""
        return (
            Setting(0.0, self.keep_s),
            *(Setting(cold_s, share * self.keep_s) for cold_s in COLDS_S for share in SHARES),
        )

    def choose(
        self, recent: FloatArray, would: FloatArray, period: FloatArray, used: FloatArray, usual: FloatArray
    ) -> int:
        """Which setting to go by now.

        ``recent`` are visible colds, starts and idle-seconds of each setting lately, shape (settings, 3); ``would`` starts and
        idle-seconds of the keep-alive in the same time, ``period`` since the period began; ``used`` our own since then.
        ``usual`` are the shares of the keep-alive's that are usual among all components, shape of ``recent``: they count as
        much as ``prior`` of its starts.
        """
        each = (would[1] + self.prior * self.keep_s) / (would[0] + self.prior)  # idleness that goes with a start
        more = self.prior * np.array([1.0, 1.0, each])
        met = recent + usual * more
        again = would + more[1:]
        # what was overspent is to be saved, and what was saved may be spent, before a part of as much has happened again
        budgets = self.aim * np.array([self.starts, self.idle])
        left = budgets * again + (budgets * period - used) / self.soon
        over = np.maximum(met[:, 1:] / np.maximum(left, 1e-9) - 1.0, 0.0)
        return int(np.argmin(met[:, 0] / again[0] + self.stern * over.sum(axis=1)))


COLDS_S = (300.0, 1000.0, 3000.0)
SHARES = (0.35, 0.42, 0.5, 0.6, 0.75)  # of the time that the keep-alive keeps

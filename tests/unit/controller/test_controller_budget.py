"""Which setting is gone by within a budget: the one that saves most of those that fit what is left."""

from __future__ import annotations

import numpy as np
import pytest

from shardwright.controller import KeepAlive

BUDGET = KeepAlive()
COUNT = len(BUDGET.settings())
WOULD = np.array([40.0, 30_000.0])  # starts and idle-seconds of the keep-alive lately
NOTHING = np.zeros(2)


def shares(**which: tuple[float, float, float]) -> np.ndarray:
    """Of the keep-alive's visible colds, starts and idleness; settings that are not named are no better than it."""
    found = np.ones((COUNT, 3))
    for name, share in which.items():
        found[int(name.removeprefix("s"))] = share
    return found


def choose(
    recent: np.ndarray, period: np.ndarray = NOTHING, used: np.ndarray = NOTHING, usual: np.ndarray | None = None
) -> int:
    amounts = recent * np.array([WOULD[0], *WOULD])
    return BUDGET.choose(amounts, WOULD, period, used, recent if usual is None else usual)


def test_the_first_setting_is_the_keep_alive_itself() -> None:
    first = BUDGET.settings()[0]
    assert (first.cold_s, first.surplus_s) == (0.0, BUDGET.keep_s)
    assert choose(np.ones((COUNT, 3))) == 0


def test_of_those_within_both_budgets_the_one_that_saves_most() -> None:
    assert choose(shares(s1=(0.5, 2.0, 0.8), s2=(0.1, 2.5, 0.9), s3=(0.0, 9.0, 0.5), s4=(0.0, 1.0, 3.0))) == 2


def test_what_was_overspent_is_saved_again() -> None:
    cheap, dear = (0.4, 1.5, 0.5), (0.1, 2.5, 0.9)
    recent = shares(s1=cheap, s2=dear)
    assert choose(recent, period=WOULD, used=WOULD * (2.5, 0.9)) == 2
    assert choose(recent, period=WOULD, used=WOULD * (2.5, 1.6)) == 1, "idleness ran ahead"
    assert choose(recent, period=WOULD, used=WOULD * (3.2, 0.9)) == 1, "starts ran ahead"
    assert choose(recent, period=WOULD, used=WOULD * (5.0, 0.9)) == 0, "only the keep-alive itself starts so seldom"


def test_who_has_shown_nothing_yet_goes_by_what_is_usual() -> None:
    usual = shares(s3=(0.1, 2.0, 0.7))
    assert BUDGET.choose(np.zeros((COUNT, 3)), NOTHING, NOTHING, NOTHING, usual) == 3


@pytest.mark.parametrize("wrong", [{"keep_s": 0.0}, {"starts": -1.0}, {"aim": 1.5}, {"every": 0}, {"recent": 5}])
def test_absurd_budgets_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"budget|every"):
        KeepAlive(**wrong)  # type: ignore[arg-type]

"""Fair shares: against the definition, for many nodes at once."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from shardwright.controller import dominant_shares, lend, max_min

amounts = st.lists(st.floats(0, 20), min_size=1, max_size=12)


@settings(max_examples=60)
@given(amounts, st.integers(0, 1000), st.floats(0, 60), st.floats(0, 60))
def test_nobody_could_get_more_without_taking_from_who_has_less(
    demands: list[float], seed: int, one: float, other: float
) -> None:
    generator = np.random.default_rng(seed)
    demand = np.array(demands)
    weight = generator.uniform(0.1, 5, demand.size)
    group = generator.integers(0, 2, demand.size)
    capacity = np.array([one, other])
    given_ = max_min(demand, weight, group, capacity)
    assert (given_ <= demand + 1e-9).all()
    for node in (0, 1):
        members = group == node
        total = given_[members].sum()
        assert total <= capacity[node] * (1 + 1e-9)
        if demand[members].sum() > capacity[node]:
            assert total >= capacity[node] * (1 - 1e-6) - 1e-9, "work conserving"
            short = members & (given_ < demand - 1e-6)
            if short.any():
                level = (given_[short] / weight[short]).min()
                assert ((given_[members] / weight[members]) <= level * (1 + 1e-6) + 1e-9).all()
        else:
            assert np.allclose(given_[members], demand[members])


def test_dominant_resource_fairness_of_the_paper() -> None:
    """9 cores and 18 GiB; tasks of <1, 4> and <3, 1>: 3 and 2 tasks run (Ghodsi et al., section 4.1)."""
    demand = np.array([[1.0, 4.0], [3.0, 1.0]]) * 100
    shares = dominant_shares(demand, np.ones(2), np.zeros(2, dtype=np.int64), np.array([[9.0, 18.0]]))
    assert np.allclose(shares, [[3.0, 12.0], [6.0, 2.0]], rtol=1e-6)


def test_who_needs_nothing_of_what_is_used_up_grows_on() -> None:
    demand = np.array([[8.0, 0.0], [8.0, 0.0], [0.0, 6.0]])
    shares = dominant_shares(demand, np.ones(3), np.zeros(3, dtype=np.int64), np.array([[8.0, 8.0]]))
    assert np.allclose(shares, [[4.0, 0.0], [4.0, 0.0], [0.0, 6.0]])


@settings(max_examples=60)
@given(st.integers(0, 10_000), st.integers(1, 12))
def test_dominant_shares_fit_and_do_not_depend_on_order(seed: int, count: int) -> None:
    generator = np.random.default_rng(seed)
    demand = generator.uniform(0, 5, (count, 2)) * (generator.random((count, 2)) < 0.8)
    weight, group = generator.uniform(0.2, 3, count), generator.integers(0, 3, count)
    capacity = generator.uniform(0, 8, (3, 2))
    shares = dominant_shares(demand, weight, group, capacity)
    for node in range(3):
        assert (shares[group == node].sum(axis=0) <= capacity[node] + 1e-9).all()
    assert (shares <= demand + 1e-9).all()
    order = generator.permutation(count)
    again = dominant_shares(demand[order], weight[order], group[order], capacity)
    assert np.allclose(again, shares[order], atol=1e-7)


def test_idle_capacity_is_lent_by_weight_up_to_the_ceiling() -> None:
    got = lend(
        np.array([1.0, 6.0, 6.0]), np.array([4.0, 2.0, 2.0]), np.array([8.0, 8.0, 3.0]), np.array([1.0, 1.0, 1.0]),
        np.zeros(3, dtype=np.int64), np.array([8.0]),
    )  # fmt: skip
    assert np.allclose(got, [1.0, 4.0, 3.0])

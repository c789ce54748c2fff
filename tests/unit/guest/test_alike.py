"""Whether two values are the same in all that a program can see of them, but for who they are."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest

from shardwright.guest._alike import alike


class Viewed:
    """Holds a bound method of a dictionary, as views of graphs do."""

    def __init__(self, held: dict[str, int]) -> None:
        self.held = held
        self.items = held.items


SHARED: list[int] = []
ALIKE: list[Any] = [
    [1, "a", (2.0, None)], {"a": {1: [2]}}, {1, 2}, frozenset({"a"}), Viewed({"a": 1}), ValueError("a", 1), [SHARED, SHARED],
    float("nan"), bytearray(b"ab"),
]  # fmt: skip
OTHER: list[tuple[Any, Any]] = [
    ([1], [2]), ([1], (1,)), ({"a": 1, "b": 2}, {"b": 2, "a": 1}), ([SHARED, SHARED], [[], []]), (1, True), ({1}, {2}),
    (Viewed({"a": 1}), Viewed({"a": 2})), ([].append, [].extend), (ValueError("a"), ValueError("b")),
]  # fmt: skip


@pytest.mark.parametrize("value", ALIKE, ids=range(len(ALIKE)))
def test_a_copy_is_alike(value: Any) -> None:
    assert alike(value, copy.deepcopy(value)) and alike(value, pickle.loads(pickle.dumps(value)))


@pytest.mark.parametrize(("one", "other"), OTHER, ids=range(len(OTHER)))
def test_what_differs_is_not(one: Any, other: Any) -> None:
    assert not alike(one, other) and not alike(other, one)

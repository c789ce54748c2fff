"""What a look finds of results: those that cross one way alone are no results of a cut, nor those that are not all drawn."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from shardwright.guest import Looking
from shardwright.model.cut import CutFunction
from shardwright.model.ids import MethodId


class Pairs(dict[str, int]):
    """Written by pickle, and not read again: what it is made with is not what it is."""

    def __init__(self, pairs: list[tuple[str, int]]) -> None:
        super().__init__(pairs)

    def __reduce__(self) -> Any:
        return Pairs, ()


def makes_pairs(number: int) -> Pairs:
    return Pairs([("number", number)])


def makes_a_dict(number: int) -> dict[str, int]:
    return {"number": number}


def looked_at(looking: Looking, function: Callable[[int], Any]) -> str:
    looking._replace(CutFunction(__name__, function.__name__, 0, MethodId(0)), function)  # type: ignore[arg-type]
    assert [function(number)["number"] for number in range(4)] == [0, 1, 2, 3]
    looked = looking._looked[f"{__name__}:{function.__name__}"]
    assert looked.sampled
    return looked.veto


def test_a_result_that_cannot_be_read_again_does_not_cross() -> None:
    looking = Looking([f"{__name__}:makes_pairs", f"{__name__}:makes_a_dict"], {})
    assert "its result does not cross" in looked_at(looking, makes_pairs)
    assert "missing 1 required positional argument" in looking._looked[f"{__name__}:makes_pairs"].veto
    assert looked_at(looking, makes_a_dict) == ""


def counts_on(number: int) -> Iterator[int]:
    yield from range(number)


@pytest.mark.parametrize(("drawn", "stays"), [(1, True), (2, True), (3, False), (4, False)])
def test_a_generator_that_is_left_before_its_end_stays(drawn: int, stays: bool) -> None:
    function: Any = counts_on
    code = function.__code__
    looking = Looking([f"{__name__}:counts_on"], {})
    looking._replace(CutFunction(__name__, "counts_on", 0, MethodId(0)), function)
    try:
        found = function(3)
        assert [item for _, item in zip(range(drawn), found, strict=False)] == list(range(min(drawn, 3)))
        found.close()
    finally:
        function.__code__ = code
    looked = looking._looked[f"{__name__}:counts_on"]
    assert looked.streams and looked.shadowed == 1
    assert ("does not draw all" in looked.veto) is stays, looked.veto

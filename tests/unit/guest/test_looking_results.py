"""What a look finds of results, and what it takes: those that cross one way alone are no results of a cut, nor those that are
not all drawn; where tests decide, what is refused is let go, and what goes on for long is no longer watched."""

from __future__ import annotations

import gc
import random
import sys
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
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


@contextmanager
def looking_at(function: Any, *, lenient: bool = False) -> Iterator[Any]:
    """Looked at meanwhile, each call closely."""
    code, name = function.__code__, function.__name__
    looking = Looking([f"{__name__}:{name}"], {}, lenient=lenient)
    looking._replace(CutFunction(__name__, name, 0, MethodId(0)), function)
    try:
        yield looking._looked[f"{__name__}:{name}"]
    finally:
        function.__code__ = code


def counts_on(number: int) -> Iterator[int]:
    yield from range(number)


@pytest.mark.parametrize(("drawn", "stays"), [(1, True), (2, True), (3, False), (4, False)])
def test_a_generator_that_is_left_before_its_end_stays(drawn: int, stays: bool) -> None:
    with looking_at(counts_on) as looked:
        found: Any = counts_on(3)
        assert [item for _, item in zip(range(drawn), found, strict=False)] == list(range(min(drawn, 3)))
        found.close()
    assert looked.streams and looked.shadowed == 1
    assert ("does not draw all" in looked.veto) is stays, looked.veto


def collects(number: int) -> int:
    gc.collect()
    return number


def collects_and_asks(number: int) -> int:
    gc.collect()
    return number + int(time.perf_counter() * 0)


@pytest.mark.parametrize("function", [collects, collects_and_asks])
def test_what_is_done_when_garbage_is_collected_is_not_the_function_s(function: Any) -> None:
    heard: list[float] = []

    def collected(phase: str, told: dict[str, int]) -> None:
        heard.append(time.perf_counter())

    with looking_at(function) as looked:
        gc.callbacks.append(collected)
        try:
            assert function(3) == 3
        finally:
            gc.callbacks.remove(collected)
    assert looked.sampled and heard
    assert ("perf_counter" in looked.veto) is (function is collects_and_asks), looked.veto


def takes(number: int) -> Generator[int, int | None, int]:
    for _ in range(9):
        try:
            sent = yield number
            number = number + 1 if sent is None else sent
        except KeyError:
            number = -1
    return number


@pytest.mark.parametrize("how", ["sends to", "throws into"])
def test_a_generator_that_is_given_something_between_its_items_stays_and_is_given_it(how: str) -> None:
    with looking_at(takes) as looked:
        found = takes(3)
        given = [next(found), found.send(7) if how == "sends to" else found.throw(KeyError()), next(found)]
        assert given == ([3, 7, 8] if how == "sends to" else [3, -1, 0])
        found.close()
    assert looked.shadowed and how in looked.veto, looked.veto


def test_what_is_refused_is_let_go_where_tests_decide() -> None:
    function: Any = makes_pairs
    code = function.__code__
    for lenient in (False, True):
        with looking_at(function, lenient=lenient) as looked:
            function(1)
            assert looked.veto and function.__code__ is not code
            assert function(2) == {"number": 2}
            assert (function.__code__ is code) is lenient
            assert function(3) == {"number": 3}


def one_more(number: int) -> int:
    return number + 1


def goes_on(rounds: int) -> float:
    for number in range(rounds):
        one_more(number)
    return random.random() * 0


@pytest.mark.parametrize(
    ("rounds", "lenient", "seen"), [(60_000, True, False), (60_000, False, True), (100, True, True)]
)
def test_what_goes_on_for_long_is_watched_for_a_while(rounds: int, lenient: bool, seen: bool) -> None:
    function: Any = goes_on
    code = function.__code__
    looking = Looking([f"{__name__}:goes_on"], {}, lenient=lenient)
    looking._replace(CutFunction(__name__, "goes_on", 0, MethodId(0)), function)
    try:
        assert function(rounds) == 0.0
    finally:
        function.__code__ = code
    assert sys.getprofile() is None
    assert ("random" in looking._looked[f"{__name__}:goes_on"].veto) is seen

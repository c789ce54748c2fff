"""The code that stands in for a cut function: the same signature, and a short way home where nobody can be asked."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Generator
from types import FunctionType
from typing import Any

import pytest

from shardwright.guest._cut_code import stub_code

FACTOR = 3


def plain(a: int, b: int = 2) -> tuple[Any, ...]:
    return a, b, FACTOR


def posonly(a: int, /, b: int = 2, *, c: int = 3) -> tuple[Any, ...]:
    return a, b, c


def rest(a: int, *args: int, c: int = 3, **more: int) -> tuple[Any, ...]:
    return a, args, c, sorted(more.items())


def named(*, c: int, d: int = 4) -> tuple[Any, ...]:
    return c, d


def counts(start: int, *, stop: int = 9) -> Generator[int, int | None, str]:
    number = start
    while number < stop:
        sent = yield number
        number = number + 1 if sent is None else sent
    return f"{start} to {stop}"


CALLS: list[tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]] = [
    (plain, (1,), {}),
    (plain, (), {"b": 5, "a": 1}),
    (posonly, (1, 2), {"c": 9}),
    (posonly, (1,), {}),
    (rest, (1, 2, 3), {"c": 4, "x": 5}),
    (rest, (1,), {}),
    (named, (), {"c": 1}),
]


class Home:
    def __init__(self, original: FunctionType) -> None:
        self.away, self.stayed, self.original = False, 0, original


def stubbed(function: Callable[..., Any]) -> tuple[Callable[..., Any], Home, list[Any]]:
    """A copy with a stub in place of its code; what the stub was asked to send."""
    assert isinstance(function, FunctionType)
    made = FunctionType(function.__code__, function.__globals__, function.__name__, function.__defaults__)
    made.__kwdefaults__ = function.__kwdefaults__
    home, sent = Home(function), []

    def dispatch(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        sent.append((args, kwargs))
        return function(*args, **kwargs)

    made.__code__ = stub_code(function.__code__, dispatch, "part", home)
    return made, home, sent


@pytest.mark.parametrize(("function", "args", "kwargs"), CALLS)
def test_a_call_that_stays_is_the_functions_own_and_is_counted(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    made, home, sent = stubbed(function)
    kinds = [(item.name, item.kind, item.default) for item in inspect.signature(function).parameters.values()]
    assert [(item.name, item.kind, item.default) for item in inspect.signature(made).parameters.values()] == kinds
    assert made(*args, **kwargs) == function(*args, **kwargs)
    assert home.stayed == 1 and not sent
    home.away = True
    assert made(*args, **kwargs) == function(*args, **kwargs)
    assert home.stayed == 1 and len(sent) == 1


@pytest.mark.parametrize("function", [plain, posonly, rest, named])
def test_wrong_arguments_are_refused_as_they_were(function: Callable[..., Any]) -> None:
    made, home, sent = stubbed(function)
    for away in (False, True):
        home.away = away
        with pytest.raises(TypeError) as expected:
            function(1, 2, 3, 4, unknown=5) if function is not rest else function()
        with pytest.raises(TypeError) as found:
            made(1, 2, 3, 4, unknown=5) if function is not rest else made()
        assert str(found.value) == str(expected.value)
    assert not sent and not home.stayed


def test_the_stub_of_a_generator_function_is_one() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # from 3.13 on, code of another kind is deprecated
        made, home, sent = stubbed(counts)
    assert inspect.isgeneratorfunction(made)
    begins: list[int] = []
    for away in (False, True):
        home.away = away
        begun = made(1, stop=5)
        begins.append(home.stayed + len(sent))  # its body begins when the first item is asked for
        assert (next(begun), begun.send(3), next(begun)) == (1, 3, 4)
        with pytest.raises(StopIteration, match="1 to 5"):
            next(begun)
        thrown = made(1)
        assert next(thrown) == 1
        with pytest.raises(KeyError):
            thrown.throw(KeyError())
        made(1).close()  # never asked for anything
    assert begins == [0, 2] and (home.stayed, len(sent)) == (2, 2)

"""Generators as results between a component and what was cut out of it: run to their end there, and played back here.

What they yield, and what they end with, is the same; that they ran before they were asked shows only in what a look at the
function would have seen. A generator that yields without end is not sent, and what it yielded is lost.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from types import GeneratorType
from typing import Any

from shardwright.errors import CannotCross, ShardwrightError
from shardwright.transport.codec._kin_errors import packed, unpacked

__all__ = ["Drained", "drained"]

MOST_ITEMS = 250_000


class Drained:
    """What a generator came to."""

    __slots__ = ("error", "items", "value")

    def __init__(self, items: list[Any], value: Any, error: Any) -> None:
        self.items, self.value, self.error = items, value, error

    def __reduce__(self) -> Any:
        return _played, (self.items, self.value, self.error)


def drained(generator: GeneratorType[Any, Any, Any]) -> Drained:
    """Run it to its end. Raises CannotCross where it does not come to one, and what is not an ``Exception``."""
    items: list[Any] = []
    try:
        while len(items) < MOST_ITEMS:
            items.append(next(generator))
    except StopIteration as end:
        return Drained(items, end.value, None)
    except ShardwrightError:
        raise
    except Exception as error:
        return Drained(items, None, packed(error, set()))
    generator.close()
    raise CannotCross(
        f"a generator yielded {MOST_ITEMS} times and went on", outcome="failed", remedy="keep it where it is"
    )


def _played(items: list[Any], value: Any, error: Any) -> Iterator[Any]:
    def play() -> Generator[Any, None, Any]:
        yield from items
        if error is not None:
            raise unpacked(error)
        return value

    return play()

"""Where one thread lays what any thread may take, if nothing was compiled; ``transport/shm/_door.c`` is the same at once."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from shardwright.node._session_names import name_problem
from shardwright.transport import shm

if TYPE_CHECKING:
    from collections.abc import Callable


class PlainDoor:
    """As ``shm.Door``, which says what each of these does. Lines are of the extension: there are none here."""

    def __init__(self, names: dict[str, Any], taken: list[Any], ring: Callable[[], None]) -> None:
        self._names = names
        self._taken = taken
        self._ring = ring
        self._mutex = threading.Lock()
        self._lies: tuple[Any, Any, int] | None = None

    def __repr__(self) -> str:
        return f"<PlainDoor {'with one' if self._lies is not None else 'empty'}>"

    @property
    def waits(self) -> Any:
        lies = self._lies
        return None if lies is None else lies[0]

    def rings(self, timer: int, delay_ns: int) -> None:
        """It has another way."""

    def lay(
        self, thing: object, live: object, number: int, announced: tuple[Any, ...], watched: tuple[Any, ...]
    ) -> None:
        if self._lies is not None:
            raise ValueError("something lies there")
        self._lies = (thing, live, number)

    def withdraw(self) -> Any:
        with self._mutex:
            lies, self._lies = self._lies, None
        return None if lies is None else lies[0]

    def take(self, name: object) -> Any:
        lies = self._lies
        if lies is None or type(name) is not str or name_problem(name):
            return None
        with self._mutex:
            if self._lies is not lies or name in self._names:
                return None
            thing, live, number = lies
            live.name = name
            self._names[name] = number
            self._lies = None
            self._taken.append(thing)
            self._ring()
        return live


def make_door(names: dict[str, Any], taken: list[Any], ring: Callable[[], None]) -> shm.Door | PlainDoor:
    """``ring`` is called where the door sets no timer by itself."""
    return shm.Door(names, taken) if shm.available() else PlainDoor(names, taken, ring)

"""Dictionaries, lists and sets of the application's modules, as a test sees them.

Module state lives in a shard; what a test reads of it is a copy. Tests change such objects (``store.items.clear()``,
``monkeypatch.setitem``, ``mock.patch.dict``) and look at them again after calls, so a copy that a test holds is kept the
same as the owner's: what the test changed goes there before the next call, what the call changed comes here after it.
Just for shared components: of others there is no one value.
"""

from __future__ import annotations

import collections
import sys
import threading
from collections.abc import Callable
from typing import Any

from shardwright.errors import ShardwrightError
from shardwright.guest import refill
from shardwright.node import Bench

MIRRORED = frozenset({
    dict, list, set, bytearray, collections.deque, collections.OrderedDict, collections.defaultdict, collections.Counter,
})  # fmt: skip
_OURS = 3  # references to a mirrored object of which nobody else knows: ours, and those of looking
Name = tuple[str, str]


class _Mirror:
    __slots__ = ("ask", "content", "value")

    def __init__(self, value: Any, content: bytes, ask: Callable[[str], Any]) -> None:
        self.value = value
        self.content = content  # as the owner has it
        self.ask = ask


class Mirrors:
    """The copies that tests may hold. ``push`` before a call, ``pull`` after it."""

    def __init__(self, bench: Callable[[], Bench | None]) -> None:
        self._bench = bench
        self._mirrors: dict[Name, _Mirror] = {}
        self._busy = threading.RLock()
        self._inside = False

    def __repr__(self) -> str:
        return f"<Mirrors of {len(self._mirrors)} objects>"

    def read(self, module: str, name: str, ask: Callable[[str], Any]) -> Any:
        """The attribute: always the same object while it is mirrored."""
        self.push()
        value = ask(name)
        mirror = self._mirrors.get((module, name))
        if mirror is not None and refill(mirror.value, value):
            mirror.content = self._content(mirror.value) or b""
            return mirror.value
        self.hold(module, name, value, ask)
        return value

    def hold(self, module: str, name: str, value: object, ask: Callable[[str], Any]) -> None:
        """From now on that object stands for the attribute; it is as the owner has it."""
        self.let_go(module, name)
        bench = self._bench()
        if bench is None or type(value) not in MIRRORED or not bench.is_shared(module):
            return
        content = self._content(value)
        if content is not None:
            self._mirrors[module, name] = _Mirror(value, content, ask)

    def let_go(self, module: str, name: str) -> None:
        """The object that stood for the attribute does so no longer."""
        self._mirrors.pop((module, name), None)

    def push(self) -> None:
        """Tell owners what was changed here."""
        bench = self._bench()
        if not self._mirrors or bench is None:
            return
        with self._busy:
            if self._inside:
                return
            self._inside = True
            try:
                for (module, name), mirror in list(self._mirrors.items()):
                    content = self._content(mirror.value)
                    if content is not None and content != mirror.content:
                        bench.fill(module, name, mirror.value)
                        mirror.content = content
                    elif sys.getrefcount(mirror.value) <= _OURS - 1:
                        self._mirrors.pop((module, name), None)
            finally:
                self._inside = False

    def pull(self) -> None:
        """Learn what was changed there."""
        if not self._mirrors:
            return
        with self._busy:
            if self._inside:
                return
            self._inside = True
            try:
                for key, mirror in list(self._mirrors.items()):
                    try:
                        same = refill(mirror.value, mirror.ask(key[1]))
                    except (ShardwrightError, AttributeError):
                        same = False
                    content = self._content(mirror.value) if same else None
                    if content is None:
                        self._mirrors.pop(key, None)
                    else:
                        mirror.content = content
            finally:
                self._inside = False

    def _content(self, value: object) -> bytes | None:
        """What tells whether it has changed; None for what does not cross by copy alone."""
        bench = self._bench()
        return bench.content(value) if bench is not None else None

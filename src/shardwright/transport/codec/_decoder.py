"""One message being read: bounds, memo, and the order in which things are filled.

Every length is compared with the bytes that are left before anything of that size is made, every new object is
charged against ``max_items``, recursion is bounded by ``max_depth`` (only immutable values and hashed keys recurse),
each buffer is used exactly once. No code of a listed class runs but ``__hash__`` and ``__eq__`` of keys.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from shardwright.transport.codec import _wire as wire
from shardwright.transport.codec._classes import ClassPlan
from shardwright.transport.codec._keys import KeyCost
from shardwright.transport.codec._memo import Compare, Snapshot
from shardwright.transport.codec._paths import children
from shardwright.transport.codec._wire import violation

if TYPE_CHECKING:
    from shardwright.transport.codec._tagged import TaggedCodec

Contents = Callable[["Decoder", Any], None]
Fill = Callable[[Any, Any], None]

UNSET = object()


class Decoder:
    """One message being read."""

    __slots__ = (
        "at",
        "attribute_names",
        "base",
        "buffers",
        "classes",
        "codec",
        "depth",
        "end",
        "filled",
        "frontier",
        "hashing",
        "items",
        "key_cost",
        "later",
        "next_buffer",
        "now",
        "objects",
        "open",
        "queue",
        "raw",
        "snapshots",
    )

    def __init__(
        self,
        codec: TaggedCodec,
        payload: bytes | bytearray | memoryview,
        buffers: Sequence[bytes | memoryview],
        known: list[Any],
        snapshots: list[Snapshot] | None,
    ) -> None:
        size = len(payload) + sum(map(len, buffers)) if buffers else len(payload)
        if size > codec.limits.max_bytes:
            raise violation(f"{size} bytes; this edge permits {codec.limits.max_bytes}")
        self.codec = codec
        self.raw = payload if type(payload) is bytes else bytes(payload)  # a copy: the peer may still write
        self.at = 0
        self.end = len(self.raw)
        self.buffers = buffers
        self.next_buffer = 0
        self.objects: list[Any] = known.copy() if known else []
        self.base = len(self.objects)
        self.frontier = self.base - 1
        self.queue: list[tuple[int, Contents, Any]] = []
        self.filled: set[int] = set()
        self.open: set[int] = set()  # objects whose contents are being read because a hash needs them
        self.classes: list[str] = []
        self.attribute_names: dict[type, list[str]] = {}
        self.depth = codec.limits.max_depth
        self.items = codec.limits.max_items
        self.key_cost = KeyCost(codec.limits.max_items)
        self.snapshots = snapshots
        self.later: list[tuple[Fill, Any, Any]] | None = None
        self.hashing: dict[int, tuple[Fill, Any, Any, list[Any]]] = {}
        self.now = False

    def value(self) -> Any:
        return DISPATCH[self.raw[self.at]](self)

    def drain(self) -> None:
        queue = self.queue
        filled = self.filled
        done = 0
        while done < len(queue):
            number, contents, thing = queue[done]
            done += 1
            if number >= self.base:
                self.frontier = number
                if number in filled:
                    continue
            contents(self, thing)
        if self.at != self.end:
            raise violation(f"{self.end - self.at} bytes left over")
        if self.next_buffer != len(self.buffers):
            raise violation(f"{len(self.buffers) - self.next_buffer} buffers left over")

    def peek(self) -> int:
        """The next byte, which stays."""
        return self.raw[self.at]

    def skip(self) -> None:
        """Past a byte that was looked at."""
        self.at += 1

    def values(self) -> list[Any]:
        """A count and so many values."""
        n = self.count()
        raw = self.raw
        return [DISPATCH[raw[self.at]](self) for _ in range(n)]

    def elements(self) -> list[Any]:
        """The same, one level deeper."""
        n = self.count()
        self.depth -= 1
        if self.depth < 0:
            raise violation(f"nested more than {self.codec.limits.max_depth} deep")
        raw = self.raw
        values = []
        for _ in range(n):  # no comprehension: in 3.11 it is a frame more per level
            values.append(DISPATCH[raw[self.at]](self))
        self.depth += 1
        return values

    def pairs(self) -> tuple[list[Any], list[Any]]:
        """A count, and so many keys, each with its value."""
        n = self.count(2)
        raw = self.raw
        keys = []
        values = []
        for _ in range(n):
            keys.append(DISPATCH[raw[self.at]](self))
            values.append(DISPATCH[raw[self.at]](self))
        return keys, values

    def contents(self, contents: Contents, thing: Any) -> None:
        """The contents of the builtin type that an object derives from."""
        contents(self, thing)

    def left(self) -> int:
        """Bytes that were not read yet, in the payload and in buffers."""
        return self.end - self.at + sum(map(len, self.buffers[self.next_buffer :]))

    def known(self, number: int) -> Any:
        """The object of that number, which must have been met."""
        return self.objects[number]

    def remember(self, thing: Any) -> int:
        """The next number is that object's."""
        self.objects.append(thing)
        return len(self.objects) - 1

    def enqueue(self, number: int, contents: Contents, thing: Any) -> None:
        """The contents of an object that has its number already come when it is their turn."""
        self.queue.append((number, contents, thing))

    def contents_now(self, number: int, contents: Contents, thing: Any) -> None:
        """They come at once, because a hash needs them."""
        self.filled.add(number)
        self.open.add(id(thing))
        self.enter(wire.NOW_LEVELS)
        before, self.now = self.now, True
        contents(self, thing)
        self.now = before
        self.open.discard(id(thing))
        self.depth += wire.NOW_LEVELS

    def leave(self, levels: int = 1) -> None:
        self.depth += levels

    def number(self) -> int:
        at = self.at
        n = self.raw[at]
        if n < wire.NUMBER_1_BYTE:
            self.at = at + 1
            return n
        stop = at + 2 + n - wire.NUMBER_1_BYTE
        if n == 0xFF or stop > self.end:
            raise violation("a number is cut short")
        self.at = stop
        return int.from_bytes(self.raw[at + 1 : stop], "little")

    def count(self, weight: int = 1) -> int:
        """A count of things that take at least a byte each, charged."""
        n = self.number()
        if n > self.end - self.at:
            raise violation(f"{n} elements announced, {self.end - self.at} bytes left")
        self.charge(n * weight)
        return n

    def charge(self, items: int) -> None:
        self.items -= items
        if self.items < 0:
            raise violation(f"more than {self.codec.limits.max_items} items")

    def take(self, size: int) -> bytes:
        at = self.at
        stop = at + size
        if stop > self.end:
            raise violation(f"{size} bytes announced, {self.end - at} left")
        self.at = stop
        return self.raw[at:stop]

    def text(self) -> str:
        return self.take(self.number()).decode("utf-8", "surrogatepass")

    def buffer(self) -> bytes | memoryview:
        n = self.next_buffer
        if n >= len(self.buffers):
            raise violation("a buffer is missing")
        self.next_buffer = n + 1
        return self.buffers[n]

    def own_raw(self) -> bytes | memoryview:
        """What ``raw_contents`` wrote."""
        if self.raw[self.at] == 0xFF:
            self.at += 1
            return self.buffer()
        return self.take(self.number())

    def class_name(self) -> str:
        n = self.number()
        classes = self.classes
        if n == len(classes):
            classes.append(self.text())
        elif n > len(classes):
            raise violation(f"class number {n} of {len(classes)}")
        return classes[n]

    def enter(self, levels: int = 1) -> None:
        self.depth -= levels
        if self.depth < 0:
            raise violation(f"nested more than {self.codec.limits.max_depth} deep")

    def shell(self, thing: Any, contents: Contents, weight: int) -> Any:
        self.items -= weight
        if self.items < 0:
            raise violation(f"more than {self.codec.limits.max_items} items")
        objects = self.objects
        self.queue.append((len(objects), contents, thing))
        objects.append(thing)
        return thing

    def fill(self, fill: Fill, thing: Any, held: Any, unchanged: Compare) -> None:
        """Put the contents into the object; in a reply that changes something, when all of it has been read."""
        if self.later is None or self.now:
            fill(thing, held)
        else:
            self.later.append((fill, thing, held))
        if self.snapshots is not None:
            self.snapshots.append((thing, held, unchanged))

    def fill_hashed(self, fill: Fill, thing: Any, held: Any, keys: list[Any], unchanged: Compare) -> None:
        """The same for what hashes its keys: these must be complete first."""
        fill_hashed(self, fill, thing, held, keys, unchanged)

    def is_open(self, thing: object) -> bool:
        """Whether its contents are being read because a hash needs them."""
        return id(thing) in self.open


def class_plan(d: Decoder, name: str) -> ClassPlan:
    """The plan of a class that a message names."""
    try:
        return d.codec.classes.plan_named(name)
    except Exception as error:
        raise violation(f"class {name!r}: {error}") from None


def fill_hashed(d: Decoder, fill: Fill, thing: Any, held: Any, keys: list[Any], unchanged: Compare) -> None:
    d.key_cost.weigh(keys)
    if _at_once(d, keys):
        d.key_cost.spend(keys, isinstance(thing, set))
        fill(thing, held)
    else:
        d.hashing[id(thing)] = (fill, thing, held, keys)
    if d.snapshots is not None:
        d.snapshots.append((thing, held, unchanged))


def _at_once(d: Decoder, keys: list[Any]) -> bool:
    """Whether these keys are complete already, and may be hashed."""
    if d.now:
        return not any(_leads_to_open(d, key) for key in keys)
    return d.later is None and all(map(_plain, keys))


def settle(d: Decoder) -> None:
    """Everything has been read: fill what had to wait."""
    if d.later is not None:
        for fill, thing, held in d.later:
            fill(thing, held)
    waiting = d.hashing
    looks = _MOST_LOOKS
    while waiting:
        # The keys of one may lead to another that waits: that one first. Where they lead back, any order will do.
        stack: list[tuple[int, bool]] = [(next(iter(waiting)), False)]
        chosen: dict[int, Any] = {}
        while stack:
            number, ready = stack.pop()
            if ready:
                fill, thing, held, keys = chosen[number]
                d.key_cost.spend(keys, isinstance(thing, set))
                fill(thing, held)
                continue
            entry = waiting.pop(number, None)
            if entry is None:
                continue
            chosen[number] = entry
            keys = entry[3]
            frontier = list(keys) if len(chosen) == 1 else [*keys, *_values(entry[2])]
            stack.append((number, True))
            seen = set()
            while frontier and looks:
                looks -= 1
                held = frontier.pop()
                if type(held) in wire.ATOMS or id(held) in seen:
                    continue
                seen.add(id(held))
                if id(held) in waiting:
                    stack.append((id(held), False))
                else:
                    frontier.extend(child for _, child in children(held))


_MOST_LOOKS = 1_000_000  # for the right order; beyond, things are filled in the order of their numbers


def _plain(key: Any) -> bool:
    return type(key) in wire.ATOMS or (type(key) is tuple and all(map(_plain, key)))


def _leads_to_open(d: Decoder, key: Any) -> bool:
    return d.is_open(key) or (type(key) is tuple and any(_leads_to_open(d, inner) for inner in key))


def _values(held: Any) -> Any:
    """The values of what ``_pairs`` read, also inside a default dict's contents; none for a set."""
    if type(held) is tuple:
        return held[1] if type(held[1]) is list else held[1][1]
    return ()


def _unknown(d: Decoder) -> Any:
    raise violation(f"unknown tag {d.peek():#04x}")


DISPATCH: list[Callable[[Decoder], Any]] = [_unknown] * 256  # by tag; ``_tagged_decode`` fills it

"""One message being written: memo, bounds, and the order in which things are written.

An immutable value is written in place. A mutable object is written as a *shell* (its type alone) where it is first
met, gets the next number of the memo, and its contents are written later, one object after the other in the order of
their numbers. So cycles need no care, nesting needs no recursion, and the contents of an object that a call changed are
written in the very same form. Where contents are needed at once, because an immutable value looks at them when it is
made (elements of a frozenset are hashed), a new shell is preceded by NOW and followed by its contents, and a shell that
stands already gets them by FILL before it is named.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from shardwright.errors import MessageTooLarge
from shardwright.transport.codec import _wire as wire
from shardwright.transport.codec._paths import children
from shardwright.transport.codec._wire import Refusal, Tag

if TYPE_CHECKING:
    from shardwright.transport.codec._tagged import TaggedCodec

Encode = Callable[["Encoder", Any], None]

_REFERENCE_1 = [bytes((Tag.REFERENCE, n)) for n in range(wire.NUMBER_1_BYTE)]


class Encoder:
    """One message being written."""

    __slots__ = (
        "attribute_names",
        "base",
        "buffers",
        "building",
        "classes",
        "codec",
        "depth",
        "dispatch",
        "filled",
        "frontier",
        "items",
        "now",
        "numbers",
        "objects",
        "open",
        "out",
        "queue",
        "ready",
        "trial",
    )

    def __init__(self, codec: TaggedCodec, known: list[Any]) -> None:
        self.codec = codec
        self.dispatch = codec._encoders
        self.out = bytearray()
        self.objects: list[Any] = known.copy() if known else []
        self.numbers: dict[int, int] = {id(thing): n for n, thing in enumerate(known)} if known else {}
        self.base = len(self.objects)
        self.frontier = self.base - 1  # the number of the object whose contents were begun last
        self.queue: list[tuple[int, Encode, Any]] = []
        self.buffers: list[bytes | memoryview] = []
        self.classes: dict[str, int] = {}
        self.attribute_names: dict[type, tuple[str, ...]] = {}
        self.filled: set[int] = set()
        self.building: set[int] = set()  # tuples whose elements are being written
        self.open: set[int] = set()  # objects whose contents are being written because a hash needs them
        self.depth = 0
        self.items = 0
        self.now = False
        self.ready: object = None  # the value for which ``prepared`` has done its work
        self.trial = False

    def value(self, value: object) -> None:
        self.dispatch[type(value)](self, value)

    def values(self, elements: list[Any] | tuple[Any, ...]) -> None:
        """A count and so many values."""
        count = len(elements)
        self.number(count)
        self.items += count
        dispatch = self.dispatch
        for element in elements:
            dispatch[type(element)](self, element)

    def pairs(self, count: int, pairs: Iterable[tuple[Any, Any]]) -> None:
        """A count and so many pairs of values."""
        self.number(count)
        self.items += 2 * count
        dispatch = self.dispatch
        for key, value in pairs:
            dispatch[type(key)](self, key)
            dispatch[type(value)](self, value)

    def elements(self, owner: object, elements: tuple[Any, ...]) -> None:
        """What an immutable container holds: a count and so many values, one level deeper."""
        count = len(elements)
        self.number(count)
        self.items += count
        self.enter(owner)
        building = self.building
        if building and id(owner) in building:  # only by way of contents that a hash needed at once
            raise leads_back(owner)
        building.add(id(owner))
        dispatch = self.dispatch
        for element in elements:
            dispatch[type(element)](self, element)
        building.discard(id(owner))
        if self.ready is owner:
            self.ready = None
        self.depth -= 1

    def contents(self, contents: Encode, thing: Any) -> None:
        """The contents of the builtin type that an object derives from."""
        contents(self, thing)

    def drain(self) -> None:
        """Write the contents of every shell; new shells join the end of the queue."""
        queue = self.queue
        filled = self.filled
        limits = self.codec.limits
        done = 0
        while done < len(queue):
            if done & 0x3FF == 0x3FF:
                self.check()
            number, contents, thing = queue[done]
            done += 1
            if number >= self.base:
                self.frontier = number
                if number in filled:
                    continue
            contents(self, thing)
        if self.items > limits.max_items or len(self.out) > limits.max_bytes or self.buffers:
            self.check()

    def check(self) -> None:
        size = len(self.out) + sum(map(len, self.buffers))
        limits = self.codec.limits
        if size > limits.max_bytes or self.items > limits.max_items:
            raise too_large(limits, size, self.items)

    def remember(self, thing: object) -> int:
        number = len(self.objects)
        self.objects.append(thing)
        self.numbers[id(thing)] = number
        return number

    def known(self, thing: object) -> bool:
        """Write a reference if the object was met before."""
        number = self.numbers.get(id(thing))
        if number is None:
            return False
        if self.now and id(thing) not in self.open:
            complete(self, thing)
        if number < wire.NUMBER_1_BYTE:
            self.out += _REFERENCE_1[number]
        else:
            self.out.append(Tag.REFERENCE)
            self.number(number)
        return True

    def prepared(self, value: object) -> bool:
        """Before an immutable value is begun that a hash will look at: write what it leads to and still awaits contents.

        These may hold the value itself, as the key of a dict for example, which cannot be named before it is complete.
        True when it has been written on that way; a reference stands here now.
        """
        if self.ready is not None:
            return False
        complete(self, value, True)
        if self.known(value):
            return True
        self.ready = value
        return False

    def awaiting(self, number: int) -> Encode | None:
        """How the contents of that object are written, if they are still to come."""
        if number > self.frontier and number not in self.filled:
            at = bisect_left(self.queue, number, key=itemgetter(0))
            if at < len(self.queue) and self.queue[at][0] == number:
                return self.queue[at][1]
        return None

    def begin(self, tag: int) -> None:
        """Begin to write a new mutable object: the tag; whatever else says its type follows, and then ``shell``."""
        if self.now:
            self.out.append(Tag.NOW)
        self.out.append(tag)

    def shell(self, thing: object, contents: Encode, weight: int) -> None:
        """Its type has been written: the contents follow when their turn comes."""
        number = self.remember(thing)
        self.items += weight
        if self.now:
            self.at_once(thing, number, contents)
        else:
            self.queue.append((number, contents, thing))

    def enqueue(self, number: int, contents: Encode, thing: object) -> None:
        """The contents of an object that has its number already are written when their turn comes."""
        self.queue.append((number, contents, thing))

    def at_once(self, thing: object, number: int, contents: Encode) -> None:
        self.filled.add(number)
        self.enter(thing, wire.NOW_LEVELS)
        self.open.add(id(thing))
        contents(self, thing)
        self.open.discard(id(thing))
        self.depth -= wire.NOW_LEVELS

    def enter(self, thing: object, levels: int = 1) -> None:
        self.depth += levels
        if self.depth > self.codec.limits.max_depth:
            raise too_deep(self.codec.limits, thing)

    def leave(self, levels: int = 1) -> None:
        self.depth -= levels

    def byte(self, byte: int) -> None:
        self.out.append(byte)

    def write(self, raw: bytes) -> None:
        self.out += raw

    def buffer(self, raw: bytes | memoryview) -> None:
        self.buffers.append(raw)

    def trial_of(self) -> Encoder:
        """A message that is thrown away, to try whether something fits this one."""
        trial = Encoder(self.codec, self.objects)
        trial.trial = True
        trial.items = self.items
        return trial

    def number_of(self, thing: object) -> int | None:
        """The number of an object that was met before."""
        return self.numbers.get(id(thing))

    def is_open(self, thing: object) -> bool:
        """Whether its contents are being written because a hash needs them."""
        return id(thing) in self.open

    def number(self, n: int) -> None:
        if n < wire.NUMBER_1_BYTE:
            self.out.append(n)
        else:
            size = (n.bit_length() + 7) >> 3
            self.out.append(wire.NUMBER_1_BYTE - 1 + size)
            self.out += n.to_bytes(size, "little")

    def text(self, text: str) -> None:
        """A string without a tag, where nothing but a string can stand."""
        raw = text.encode("utf-8", "surrogatepass")
        self.number(len(raw))
        self.out += raw

    def class_name(self, name: str) -> None:
        number = self.classes.get(name)
        if number is None:
            number = self.classes[name] = len(self.classes)
            self.number(number)
            self.text(name)
        else:
            self.number(number)


def complete(s: Encoder, thing: object, through_new: bool = False) -> None:
    """A hash will look at a known object: write now whatever contents it, or what it leads to, still awaits."""
    seen = {id(thing)}
    stack = [thing]
    while stack:
        thing = stack.pop()
        number = s.number_of(thing)
        if number is None:
            if not through_new:
                continue  # not met yet: then it is an element of something that is being written
        elif (contents := s.awaiting(number)) is not None:
            s.byte(Tag.FILL)
            s.number(number)
            s.at_once(thing, number, contents)
            continue
        for _, child in children(thing):
            if id(child) not in seen and not s.is_open(child) and type(child) not in wire.ATOMS:
                seen.add(id(child))
                stack.append(child)


def too_deep(limits: wire.CodecLimits, thing: object) -> Refusal:
    return Refusal(
        thing,
        f"tuples or hashed keys nested more than {limits.max_depth} deep",
        "use lists or instances, which may be nested without limit",
    )


def leads_back(owner: object) -> Refusal:
    return Refusal(owner, "a tuple that a frozenset in it leads back to", "use a set, or break the cycle")


def too_large(limits: wire.CodecLimits, size: int, items: int) -> MessageTooLarge:
    if size > limits.max_bytes:
        what = f"a message of at least {size} bytes; this edge permits {limits.max_bytes}"
    else:
        what = f"a message of at least {items} items; this edge permits {limits.max_items}"
    return MessageTooLarge(
        what,
        outcome="not started",
        remedy="send less at once: in parts, or as a file that both may read",
    )


BASE_ENCODERS: dict[type, Encode] = {}  # by exact type; ``_tagged_encode`` fills it

"""How much work it is to put keys into a dict or set, known before it is done: that is one call into C, which stops
all threads.

Hashes of numbers are no secret: they are the number modulo 2**61 - 1, so a peer can choose keys that all fall upon each
other, or keys whose hashes differ and that still find each other's places taken; n keys then cost n * n steps. Hashes of
tuples follow from those of their elements and are not remembered, so a tuple that holds the tuple before it twice, and
so on, costs 2 ** n steps. Hashes of str and bytes have a random seed, and are left alone.

So the steps are counted first, as the dict and set of CPython would take them (in all versions that we support), against
an allowance for the whole message, which patterned but honest keys (multiples of a power of two, small fractions) stay
below by far. A class's own ``__hash__`` is the application's code: its result is counted, its running time is not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from shardwright.transport.codec import _wire as wire
from shardwright.transport.codec._wire import violation

FEW_KEYS = 256  # fewer than these cannot cost more than reading them
STEPS_PER_KEY = 64
STEPS_AT_LEAST = 1_000_000
DEEPEST_KEY = 500  # tuples in tuples; hashing recurses in C without a bound of its own
_SEEDED = frozenset({str, bytes, type(None), bool})
_WORD = 0xFFFF_FFFF_FFFF_FFFF
_LINEAR = 9  # slots that a set tries one after another
_FILL_MANY = 50_000  # used slots from which on a set doubles instead of growing fourfold


class KeyCost:
    """What the keys of one message cost so far. Methods raise ProtocolViolation when it is too much."""

    __slots__ = ("steps", "weighed", "weight")

    def __init__(self, max_items: int) -> None:
        self.weight = max_items  # elements that may yet be hashed
        self.steps = STEPS_AT_LEAST
        self.weighed: dict[
            int, tuple[int, int]
        ] = {}  # tuples by id: elements in all, depth; the message keeps them alive

    def weigh(self, keys: Sequence[Any]) -> int:
        """Charge the elements of tuples among the keys; returns how many the heaviest key has."""
        return self._weigh(keys, self.weighed, complete=False)

    def spend(self, keys: Sequence[Any], is_set: bool) -> None:
        """Charge the steps of putting complete keys, which ``weigh`` has seen, into a dict or set."""
        kinds = set(map(type, keys))
        if kinds <= _SEEDED:
            return
        plain = kinds <= wire.ATOMS
        heaviest = 1 if plain else self._weigh(keys, {}, complete=True)  # one alone may lead back to itself
        if len(keys) < 2:
            return
        if len(keys) < FEW_KEYS and heaviest < FEW_KEYS:
            return
        if kinds == {int} and max(keys) - min(keys) < len(keys):
            return  # as dense as numbers can be: each has a place of its own
        hashes = [hash(key) for key in keys]
        self.steps += STEPS_PER_KEY * len(keys)
        self._take(heaviest * _equal_pairs(hashes))
        for bits, count in _set_tables(len(keys)) if is_set else _dict_tables(len(keys)):
            (self._walk_set if is_set else self._walk_dict)(hashes, bits, count)

    def _take(self, steps: int) -> None:
        self.steps -= steps
        if self.steps < 0:
            raise violation("keys whose hashes collide too often")

    def _weigh(self, keys: Sequence[Any], known: dict[int, tuple[int, int]], *, complete: bool) -> int:
        heaviest = 1
        for key in keys:
            if type(key) in wire.ATOMS:
                continue
            weight, depth = _weight(key, known, complete)
            if depth > DEEPEST_KEY:
                raise violation(f"a key nested more than {DEEPEST_KEY} deep")
            self.weight -= weight
            if self.weight < 0:
                raise violation("keys that take too long to hash")
            heaviest = max(heaviest, weight)
        return heaviest

    def _walk_dict(self, hashes: list[int], bits: int, count: int) -> None:
        mask, steps = (1 << bits) - 1, self.steps
        taken = bytearray(mask + 1)
        for hashed in hashes[:count]:
            at = hashed & mask
            if taken[at]:
                perturb = hashed & _WORD
                while taken[at]:
                    perturb >>= 5
                    at = (at * 5 + perturb + 1) & mask
                    steps -= 1
                    if steps < 0:
                        self._take(self.steps - steps)
            taken[at] = 1
        self.steps = steps

    def _walk_set(self, hashes: list[int], bits: int, count: int) -> None:
        mask, steps = (1 << bits) - 1, self.steps
        taken = bytearray(mask + 1)
        for hashed in hashes[:count]:
            at, perturb = hashed & mask, hashed & _WORD
            while taken[at]:
                free = taken.find(0, at, at + _LINEAR + 1) if at + _LINEAR <= mask else -1
                steps -= 1  # slots side by side are as good as one
                if steps < 0:
                    self._take(self.steps - steps)
                if free >= 0:
                    at = free
                    break
                perturb >>= 5
                at = (at * 5 + perturb + 1) & mask
            taken[at] = 1
        self.steps = steps


def _dict_tables(keys: int) -> Iterator[tuple[int, int]]:
    """The tables that a growing dict has, and how many keys each comes to hold: two thirds of its slots."""
    bits = FEW_KEYS.bit_length() - 1
    while True:
        usable = (2 << bits) // 3
        yield bits, min(keys, usable)
        if usable >= keys:
            return
        bits += 1


def _set_tables(keys: int) -> Iterator[tuple[int, int]]:
    """The same for a set: three fifths. The last one is that of a copy."""
    bits, last = 3, 0
    while True:
        mask = (1 << bits) - 1
        full = -(-mask * 3 // 5)
        if bits >= FEW_KEYS.bit_length() - 1:
            yield bits, min(keys, full)
            last = bits
        if full >= keys:
            break
        bits = (full * (2 if full > _FILL_MANY else 4)).bit_length()
    copied = (2 * keys).bit_length()
    if copied != last:
        yield copied, keys


def _equal_pairs(hashes: list[int]) -> int:
    """How often two keys have the same hash, so that they are compared. By sorting, which no choice of hashes slows down."""
    pairs, run, before = 0, 0, None
    for hashed in sorted(hashes):
        run = run + 1 if hashed == before else 0
        pairs += run
        before = hashed
    return pairs


def _weight(key: Any, known: dict[int, tuple[int, int]], complete: bool) -> tuple[int, int]:
    """How many elements are hashed for a key, each as often as it is reached, and how deep they are nested."""
    inner = _hashed_with(key, complete)
    stack: list[tuple[Any, Sequence[Any], Iterator[Any]]] = [(key, inner, iter(inner))]
    while stack:
        thing, inner, rest = stack[-1]
        for item in rest:
            if type(item) not in wire.ATOMS and id(item) not in known:
                if len(stack) > DEEPEST_KEY:
                    return 1, DEEPEST_KEY + 1
                further = _hashed_with(item, complete)
                stack.append((item, further, iter(further)))
                break
        else:
            sums = [known[id(item)] for item in inner if type(item) not in wire.ATOMS]
            weight = 1 + len(inner) - len(sums) + sum(weight for weight, _ in sums)
            known[id(thing)] = weight, 1 + max((depth for _, depth in sums), default=0)
            stack.pop()
    return known[id(key)]


def _hashed_with(thing: Any, complete: bool) -> Sequence[Any]:
    """What Python hashes to hash that object."""
    cls = type(thing)
    if cls is slice:
        return thing.start, thing.stop, thing.step
    if issubclass(cls, tuple) and cls.__hash__ is tuple.__hash__:
        return list(tuple.__iter__(thing))
    if complete and getattr(getattr(cls.__hash__, "__code__", None), "co_filename", "") == "<string>":
        fields = getattr(cls, "__dataclass_fields__", {})  # a hash that ``dataclass`` made
        return [getattr(thing, name, None) for name in fields]
    return ()

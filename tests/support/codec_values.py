"""Random values of all types that the tagged codec promises, with aliases and cycles, and what a callee might do to them."""

from __future__ import annotations

import array
import collections
import dataclasses
import datetime
import decimal
import enum
import fractions
import pathlib
import random
import re
import typing
import uuid
import zoneinfo
from typing import Any

from hypothesis import strategies as st

from shardwright.transport.codec import ClassTable, TaggedCodec


@dataclasses.dataclass
class Item:
    name: Any
    parts: Any = None


@dataclasses.dataclass(frozen=True, slots=True)
class Point:
    x: Any
    y: Any = 0


class Pair(typing.NamedTuple):
    left: Any
    right: Any


class Plain:
    pass


class Entity:
    """Hashed by what it holds, and linked to others: a key that must be complete before it is hashed."""

    def __init__(self, name: Any) -> None:
        self.name = (name,)
        self.tags = {name}
        self.links: list[Any] = []

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Entity) and self.name == other.name and self.tags == other.tags

    def __hash__(self) -> int:
        return hash((self.name, frozenset(self.tags)))


class Slotted:
    __slots__ = ("a", "b")


class Hybrid(Slotted):
    __slots__ = ("__dict__", "__weakref__")


class Names(list):  # type: ignore[type-arg]
    pass


class Table(dict):  # type: ignore[type-arg]
    pass


class Metres(float):
    pass


class Label(str):
    pass


class Colour(enum.Enum):
    RED = 1
    BLUE = "blue"


class Access(enum.Flag):
    READ = 1
    WRITE = 2


LISTED = (Item, Point, Pair, Plain, Entity, Slotted, Hybrid, Names, Table, Metres, Label, Colour, Access)
TABLE = {f"{cls.__module__}:{cls.__qualname__}": cls for cls in LISTED}
CODEC = TaggedCodec(ClassTable(TABLE, TABLE.__getitem__))


# -- comparing graphs, identity included -------------------------------------------------------------------------

SCALARS = (type(None), bool, int, complex, str, bytes, range, decimal.Decimal, fractions.Fraction, uuid.UUID)
TIMES = (datetime.datetime, datetime.date, datetime.time, datetime.timedelta, datetime.timezone, zoneinfo.ZoneInfo)
ATOMS = (*SCALARS, *TIMES, pathlib.PurePath, re.Pattern, enum.Enum, type, type(len), slice)


def atom(value: Any) -> Any:
    if type(value) is float:
        return ("float", value.hex())
    if type(value) is complex:
        return ("complex", value.real.hex(), value.imag.hex())
    if isinstance(value, datetime.datetime | datetime.time):
        return (type(value).__name__, repr(value), value.fold)
    return (type(value).__name__, repr(value))


def is_atom(value: Any) -> bool:
    return value is ... or value is NotImplemented or type(value) is float or (
        type(value) in ATOMS or isinstance(value, (*TIMES, pathlib.PurePath, enum.Enum, type))
    )  # fmt: skip


def order_key(value: Any) -> str:
    """A total order for elements of sets, by what they hold."""
    if isinstance(value, tuple):
        return f"{type(value).__name__}({','.join(map(order_key, value))})"
    if type(value) is Entity:
        return repr(value.name)
    if isinstance(value, frozenset):
        return f"frozenset({sorted(map(order_key, value))})"
    if type(value) is Point:
        return f"Point({order_key(value.x)},{order_key(value.y)})"
    return repr(atom(value)) if is_atom(value) else f"{type(value).__name__}:{value!r}"


def children(value: Any) -> list[tuple[Any, Any]]:
    found: list[tuple[Any, Any]] = []
    if isinstance(value, dict):
        found += [step for n, (k, v) in enumerate(value.items()) for step in ((("key", n), k), (("value", n), v))]
        if isinstance(value, collections.defaultdict):
            found.append(("factory", value.default_factory))
    elif isinstance(value, set | frozenset):
        found += list(enumerate(sorted(value, key=order_key)))
    elif isinstance(value, list | tuple | collections.deque):
        found += list(enumerate(value))
    found += [(f".{name}", held) for name, held in getattr(value, "__dict__", {}).items()]
    for cls in type(value).__mro__:
        for name in vars(cls).get("__slots__", ()):
            if name.startswith("__"):
                continue
            found.append((f".{name}", getattr(value, name, "<unset>")))
    return found


def objects_of(root: Any) -> list[Any]:
    """Every object with an identity that matters, in a fixed order."""
    numbers: dict[int, int] = {}
    found: list[Any] = []
    stack = [root]
    while stack:
        value = stack.pop()
        if is_atom(value) or value == () or id(value) in numbers:
            continue
        numbers[id(value)] = len(found)
        found.append(value)
        stack.extend(child for _, child in reversed(children(value)))
    return found


def graph(root: Any) -> list[Any]:
    """A canonical form: equal for two values exactly when nobody could tell them apart, `is` included."""
    found = objects_of(root)
    numbers = {id(value): n for n, value in enumerate(found)}

    def shown(value: Any) -> Any:
        return ("object", numbers[id(value)]) if id(value) in numbers else atom(value)

    lines: list[Any] = [shown(root)]
    for value in found:
        extra: Any = None
        if isinstance(value, bytearray):
            extra = bytes(value)
        elif isinstance(value, array.array):
            extra = (value.typecode, value.tobytes())
        elif isinstance(value, collections.deque):
            extra = value.maxlen
        elif isinstance(value, float | str | int):
            extra = repr(value)
        lines.append((type(value), extra, [(step, shown(child)) for step, child in children(value)]))
    return lines


# -- random values ---------------------------------------------------------------------------------------------

UTC_OFFSETS = st.integers(-86399, 86399).map(lambda s: datetime.timezone(datetime.timedelta(seconds=s)))
ZONES = st.sampled_from(["UTC", "Europe/Berlin", "America/New_York"]).map(zoneinfo.ZoneInfo)
TEXTS = st.text(st.characters(), max_size=8) | st.text(st.characters(categories=["Cs", "Ll"]), max_size=200)
_HASHABLE_ATOMS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-(2**200), 2**200),
    st.floats(allow_nan=False),
    TEXTS,
    st.binary(max_size=200),
    st.sampled_from(
        [*Colour, Access.READ, Access.READ | Access.WRITE, Access(0), ..., NotImplemented, int, len, Plain]
    ),
    st.datetimes(timezones=st.none() | UTC_OFFSETS | ZONES),
    st.dates(),
    st.times(timezones=st.none() | UTC_OFFSETS),
    st.timedeltas(),
    UTC_OFFSETS,
    st.decimals(allow_nan=False),
    st.fractions(),
    st.uuids(),
    st.builds(range, st.integers(-5, 5), st.integers(-(10**20), 10**20), st.integers(1, 3)),
    TEXTS.filter(lambda t: "\0" not in t).map(pathlib.PurePosixPath),
    st.sampled_from(
        [pathlib.Path("/a/b"), pathlib.PureWindowsPath("c:/x"), re.compile("a+"), re.compile(b"[x]", re.I)]
    ),
)
HASHABLE_ATOMS = st.deferred(lambda: _HASHABLE_ATOMS)  # whose repr is short
ATOM_VALUES = st.one_of(
    HASHABLE_ATOMS,
    st.floats(),
    st.complex_numbers(),
    st.decimals(),
    st.builds(slice, st.none() | st.integers(), st.none() | st.integers(), st.none() | st.integers()),
)
KEYS = st.recursive(
    HASHABLE_ATOMS,
    lambda inner: st.one_of(
        st.tuples(inner, inner), st.builds(Point, inner, inner), st.builds(Pair, inner, inner), st.frozensets(inner)
    ),
    max_leaves=4,
)

KINDS = (
    *("list", "dict", "set", "deque", "ordered", "default", "counter", "bytearray", "array", "item", "plain"),
    *("slotted", "hybrid", "names", "table", "metres", "label", "entity", "entity"),
)


@st.composite
def recipes(draw: Any) -> list[Any]:
    """How to make a graph: objects, then tuples over them, then links among all of them."""
    size = draw(st.integers(1, 6))
    atoms = draw(st.lists(ATOM_VALUES, min_size=1, max_size=4))
    keys = draw(st.lists(KEYS, min_size=1, max_size=3))
    kinds = draw(st.lists(st.sampled_from(KINDS), min_size=size, max_size=size))
    tuples = draw(st.lists(st.lists(st.integers(0, 50), max_size=3), max_size=4))
    links = draw(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50), st.integers(0, 5)), max_size=12))
    return [atoms, keys, kinds, tuples, links]


MAKERS: dict[str, Any] = {
    "list": list,
    "dict": dict,
    "set": set,
    "deque": lambda: collections.deque(maxlen=3),
    "ordered": collections.OrderedDict,
    "default": lambda: collections.defaultdict(list),
    "counter": collections.Counter,
    "bytearray": lambda: bytearray(b"ab"),
    "array": lambda: array.array("d", [1.5, -0.0]),
    "item": lambda: Item("x"),
    "entity": None,
    "plain": Plain,
    "slotted": Slotted,
    "hybrid": Hybrid,
    "names": Names,
    "table": Table,
    "metres": lambda: Metres(1.25),
    "label": lambda: Label("tag"),
}


def build(recipe: list[Any]) -> tuple[Any, ...]:
    atoms, keys, kinds, tuples, links = recipe
    made = [Entity(f"e{n}") if kind == "entity" else MAKERS[kind]() for n, kind in enumerate(kinds)]
    entities = tuple(thing for thing in made if type(thing) is Entity)
    keys = [*keys, *entities, *[(entity, 1) for entity in entities]]
    pool = [*made, *atoms]
    for n, members in enumerate(tuples):
        elements = tuple(pool[m % len(pool)] for m in members)
        pool.append(Pair(elements, n) if n % 2 else elements)
    for at, what, how in links:
        link(made[at % len(made)], pool[what % len(pool)], keys, how)
    pool += [frozenset(entities[n:]) for n in range(len(entities))]
    return (*pool, tuple(keys))


def link(target: Any, value: Any, keys: list[Any], how: int) -> None:
    """Put the value, or a key, into the target; the same for any two equal graphs."""
    key = keys[how % len(keys)]
    if isinstance(target, dict):
        target[key] = value
        if isinstance(target, Table):
            target.note = value  # type: ignore[attr-defined]
    elif isinstance(target, set):
        target.add(key)
    elif isinstance(target, Entity):
        target.links.append(value)
    elif isinstance(target, list):
        target.append(value)
        if isinstance(target, Names):
            target.note = value  # type: ignore[attr-defined]
    elif isinstance(target, collections.deque):
        target.append(value)
    elif isinstance(target, bytearray | array.array):
        target.append(how)
    elif isinstance(target, Item):
        target.parts = value
    elif type(target) is Slotted:
        setattr(target, "ab"[how % 2], value)
    else:
        setattr(target, "abcd"[how % 4], value)


def mutate(arguments: Any, seed: int, steps: int) -> Any:
    """What a callee might do: a random program over whatever it can reach."""
    chance = random.Random(seed)
    keys = arguments[-1]
    for _ in range(steps):
        reach = objects_of(arguments)
        hashed = {id(thing.tags) for thing in reach if type(thing) is Entity}  # a key that changes is nobody's
        mutable = [
            thing
            for thing in reach
            if not isinstance(thing, tuple | frozenset) and type(thing) is not Point and id(thing) not in hashed
        ]
        target = chance.choice(mutable)
        fresh: list[Any] = [["new"], {"k": 1}, Item("fresh", [1]), 7, "text", (1, [2])]
        value = chance.choice([chance.choice(reach), chance.choice(fresh)])
        if isinstance(value, frozenset):  # one that its own element leads to is refused
            value = sorted(value, key=order_key)
        how = chance.randrange(6)
        action = chance.randrange(4)
        if action < 2:
            link(target, value, keys, how)
        elif isinstance(target, dict) and target:
            first = next(iter(target))
            held = target.pop(first)
            if action == 2:
                target[first] = held  # the order alone has changed
        elif isinstance(target, set) and target:
            target.remove(sorted(target, key=order_key)[0])
        elif isinstance(target, list | bytearray | array.array):
            if action == 2:
                target.reverse()
            elif target:
                del target[0]
        elif isinstance(target, collections.deque):
            target.rotate(1)
        elif getattr(target, "__dict__", None):
            name = next(iter(vars(target)))
            if type(target) not in (Item, Entity):
                delattr(target, name)
    reach = objects_of(arguments)
    return chance.choice([None, chance.choice(reach), (chance.choice(reach), ["new", chance.choice(reach)])])

"""Random programs, cut and uncut: the same results, exceptions and argument effects, aliases and cycles included."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import shardwright

MANIFEST = """
[app]
name = "randomly"
[components.user]
code = "randomly.user"
[components.lab]
code = "randomly.lab"
"""

SHAPES = '''
"""Common code: classes of values, and a canonical text of a graph of objects."""
from __future__ import annotations
import dataclasses, datetime, decimal, enum, fractions, pathlib, uuid
from collections import OrderedDict, deque

class Colour(enum.Enum):
    RED = 1
    BLUE = "b"

@dataclasses.dataclass
class Point:
    x: object
    y: object = None

class Plain:
    def __init__(self, **attributes):
        self.__dict__.update(attributes)

class Slotted:
    __slots__ = ("left", "right")

class Custom(Exception):
    def __init__(self, first, second):
        super().__init__(first, second)
        self.second = second

class Names(list):
    pass

def children(thing):
    if isinstance(thing, dict):
        for key, value in thing.items():
            yield key
            yield value
    elif isinstance(thing, (list, tuple, deque)):
        yield from thing
    elif isinstance(thing, (set, frozenset)):
        yield from sorted(thing, key=repr)
    if isinstance(thing, Slotted):
        yield from (getattr(thing, name) for name in thing.__slots__ if hasattr(thing, name))
    elif hasattr(thing, "__dict__") and not isinstance(thing, (type, enum.Enum)):
        for name in sorted(vars(thing)):
            yield vars(thing)[name]
    if isinstance(thing, BaseException):
        yield thing.args

SHARED = (list, dict, set, bytearray, deque, Point, Plain, Slotted, BaseException, tuple)

def canon(root):
    """A text that is equal for two graphs just if they are equal, identities of mutable objects and tuples included."""
    numbers, lines, queue = {}, [], [root]
    keep = []
    def name(thing):
        if isinstance(thing, SHARED):
            if id(thing) not in numbers:
                numbers[id(thing)] = len(numbers)
                keep.append(thing)
                queue.append(thing)
            return f"#{numbers[id(thing)]}"
        if isinstance(thing, (Colour,)):
            return f"{thing!r}"
        return f"{type(thing).__name__}:{thing!r}"
    name(root)
    queue = [root]
    done = set()
    while queue:
        thing = queue.pop(0)
        if id(thing) in done:
            continue
        done.add(id(thing))
        if not isinstance(thing, SHARED):
            lines.append(name(thing))
            continue
        extra = ""
        if isinstance(thing, bytearray):
            extra = bytes(thing).hex()
        if isinstance(thing, deque):
            extra = f"maxlen={thing.maxlen}"
        if isinstance(thing, dict) or hasattr(thing, "__dict__"):
            extra += ",".join(sorted(vars(thing))) if hasattr(thing, "__dict__") else ""
        lines.append(f"{name(thing)} {type(thing).__qualname__} {extra} [{' '.join(name(c) for c in children(thing))}]")
    return "\\n".join(lines)

def mutables(root):
    found, seen, queue = [], set(), [root]
    while queue:
        thing = queue.pop(0)
        if id(thing) in seen:
            continue
        seen.add(id(thing))
        if isinstance(thing, (list, dict, set, bytearray, deque, Point, Plain, Slotted)):
            found.append(thing)
        if not isinstance(thing, (str, bytes, int, float)):
            queue.extend(children(thing))
    return found
'''

LAB = '''
from randomly.shapes import Custom, mutables

def run(program, *args, **kwargs):
    """Do what ``program`` says to the arguments; return or raise some part of them."""
    for what, where, other in program:
        things = mutables([args, kwargs])[1:]
        things = [thing for thing in things if thing is not kwargs]
        if not things:
            break
        thing, value = things[where % len(things)], things[other % len(things)]
        if what == "alias":
            put(thing, value)
        elif what == "number":
            put(thing, other)
        elif what == "clear":
            if hasattr(thing, "clear"):
                thing.clear()
        elif what == "reverse":
            if hasattr(thing, "reverse"):
                thing.reverse()
        elif what == "new":
            put(thing, [other, (other,), {other: value}])
        elif what == "return":
            return value
        elif what == "return both":
            return (value, [thing, value], {"k": thing})
        elif what == "raise":
            raise Custom(value, other)
        elif what == "raise from":
            try:
                raise KeyError(other, value)
            except KeyError as error:
                raise ValueError("outer", thing) from error
    return None

def put(thing, value):
    if isinstance(thing, bytearray):
        thing += b"x"
    elif isinstance(thing, dict):
        thing[f"k{len(thing)}"] = value
    elif isinstance(thing, set):
        thing.add(len(thing))
    elif hasattr(thing, "append"):
        thing.append(value)
    elif hasattr(type(thing), "__slots__"):
        thing.left = value
    else:
        thing.y = value
'''

USER = '''
from randomly import lab
from randomly.lab import run
from randomly.shapes import Colour, Names, Plain, Point, Slotted, canon
from collections import OrderedDict, deque

def build(recipe):
    """Objects from a recipe: shells first, then their contents by number, so that aliases and cycles are possible."""
    things = []
    for kind, leaf, _ in recipe:
        things.append({
            "leaf": lambda: leaf, "list": list, "dict": dict, "set": set, "deque": lambda: deque(maxlen=9),
            "bytearray": lambda: bytearray(b"ab"), "ordered": OrderedDict, "names": Names, "point": lambda: Point(1),
            "plain": Plain, "slotted": Slotted, "tuple": lambda: None, "colour": lambda: Colour.RED,
        }[kind]())
    for index, (kind, leaf, references) in enumerate(recipe):
        if kind == "tuple":
            things[index] = tuple(things[r % index] for r in references) if index else ()
    for index, (kind, leaf, references) in enumerate(recipe):
        thing, values = things[index], [things[r % len(things)] for r in references]
        if kind in ("list", "names", "deque"):
            thing.extend(values)
        elif kind in ("dict", "ordered"):
            thing.update({f"k{i}": value for i, value in enumerate(values)})
        elif kind == "set":
            thing.update(r for r in references)
        elif kind == "point" and values:
            thing.y = values[0]
        elif kind == "plain":
            thing.__dict__.update({f"a{i}": value for i, value in enumerate(values)})
        elif kind == "slotted" and values:
            thing.right = values[0]
    return things

def experiment(recipe, program):
    things = build(recipe)
    args, kwargs = things[:-1], {"last": things[-1]}
    try:
        outcome = ("returned", run(program, *args, **kwargs))
    except Exception as error:
        outcome = ("raised", error, error.__cause__, type(error).__qualname__)
    return canon([outcome, things])
'''

LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=5), st.binary(max_size=5)
)
KINDS = [
    "leaf", "list", "dict", "set", "deque", "bytearray", "ordered", "names", "point", "plain", "slotted", "tuple", "colour",
]  # fmt: skip
RECIPES = st.lists(
    st.tuples(st.sampled_from(KINDS), LEAVES, st.lists(st.integers(0, 9), max_size=4)), min_size=1, max_size=8
)
ACTS = ["alias", "number", "clear", "reverse", "new", "return", "return both", "raise", "raise from"]
PROGRAMS = st.lists(st.tuples(st.sampled_from(ACTS), st.integers(0, 9), st.integers(0, 9)), max_size=6)


def write(folder: Path) -> Path:
    package = folder / "randomly"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    for name, text in {"shapes": SHAPES, "lab": LAB, "user": USER}.items():
        (package / f"{name}.py").write_text(text)
    (folder / "shardwright.toml").write_text(MANIFEST)
    return folder


@pytest.fixture(scope="module")
def application(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("randomly"))


@pytest.fixture(scope="module")
def uncut(application: Path) -> Iterator[ModuleType]:
    sys.path.insert(0, str(application))
    try:
        yield importlib.import_module("randomly.user")
    finally:
        sys.path.remove(str(application))
        for name in [name for name in sys.modules if name.partition(".")[0] == "randomly"]:
            del sys.modules[name]


@pytest.mark.parametrize("inproc", [False, True], ids=["processes", "inproc"])
def test_cut_is_uncut(
    application: Path, uncut: ModuleType, tmp_path: Path, inproc: bool, record_exercised: Any
) -> None:
    crossed = raised = 0
    with (
        shardwright.start(application, inproc=inproc, state=tmp_path) as node,
        node.session("random") as session,
    ):

        @settings(max_examples=150, suppress_health_check=list(HealthCheck))
        @given(RECIPES, PROGRAMS)
        def same(recipe: list[Any], program: list[Any]) -> None:
            nonlocal crossed, raised
            expected = uncut.experiment(recipe, program)
            assert session.call("user.experiment", recipe, program) == expected
            crossed += 2
            raised += "raised" in expected

        same()
    record_exercised("random programs: calls crossed", crossed)
    assert crossed >= 200
    assert raised >= 5

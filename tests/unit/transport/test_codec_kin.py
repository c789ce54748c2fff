"""Between a component and what was cut out of it: arguments changed, shared and returned as if nothing had been cut."""

from __future__ import annotations

import collections
import enum
import importlib
import io
import random
import re
import sys
import threading
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from shardwright.errors import CallError, CannotCross
from shardwright.transport.kin import KinCodec, executed, was_there

SENTINEL = object()


class Colour(enum.Enum):
    RED = 1


@dataclass(frozen=True, slots=True)
class Frozen:
    text: str
    items: tuple[int, ...] = ()


class Plain:
    def __init__(self) -> None:
        self.items: list[Any] = [1]


class Slotted:
    __slots__ = ("left", "right")


class TwoArguments(Exception):
    def __init__(self, first: str, second: str) -> None:
        super().__init__(f"{first} and {second}")
        self.second = second


def crossed(function: Callable[..., Any], *args: Any) -> Any:
    """What a caller gets, and what its own arguments become."""
    here, there = KinCodec(), KinCodec()
    payload, buffers, memo = here.encode_request((None, args, None))
    (_, given, _), theirs = there.decode_request(payload, buffers)
    try:
        result = function(*given)
    except Exception as error:
        raised = here.decode_error(*there.encode_error(error, theirs), memo)
    else:
        return here.decode_reply(*there.encode_reply(result, theirs), memo)
    raise raised


def test_what_is_returned_of_an_argument_is_that_argument() -> None:
    given = {"a": [1, 2]}
    assert crossed(lambda value: value, given) is given
    assert crossed(lambda value: [value["a"]], given)[0] is given["a"]


def test_changes_reach_the_callers_own_objects() -> None:
    inner = [1]
    plain, slotted, counts = Plain(), Slotted(), collections.Counter("ab")
    slotted.left = inner

    def change(inner: Any, plain: Any, slotted: Any, counts: Any) -> Any:
        inner.append(plain)
        plain.more = inner
        del plain.items
        slotted.right = slotted.left
        del slotted.left
        counts["a"] += 5
        return plain.more

    assert crossed(change, inner, plain, slotted, counts) is inner
    assert inner == [1, plain]
    assert vars(plain) == {"more": inner} and plain.more is inner
    assert slotted.right is inner and not hasattr(slotted, "left")
    assert counts["a"] == 6


@pytest.mark.parametrize(
    ("value", "change", "wanted"),
    [
        ([3, 1], lambda value: value.sort(), [1, 3]),
        ({"a": 1}, lambda value: value.pop("a"), {}),
        ({1, 2}, lambda value: value.discard(1), {2}),
        (bytearray(b"ab"), lambda value: value.extend(b"c"), bytearray(b"abc")),
        (collections.deque([1]), lambda value: value.appendleft(0), collections.deque([0, 1])),
        (collections.OrderedDict(a=1, b=2), lambda value: value.move_to_end("a"), collections.OrderedDict(b=2, a=1)),
    ],
)
def test_each_container(value: Any, change: Callable[[Any], Any], wanted: Any) -> None:
    crossed(lambda given: change(given) and None, value)
    assert value == wanted and type(value) is type(wanted)


def test_cycles_and_aliases_stay() -> None:
    ring: list[Any] = []
    ring.append(ring)
    both = (ring, {"ring": ring})

    def look(given: Any) -> bool:
        return given[0][0] is given[0] and given[1]["ring"] is given[0]

    assert crossed(look, both)


def test_changes_come_back_with_an_exception_of_the_users_own_type() -> None:
    seen: list[int] = []

    def fail(seen: list[int]) -> None:
        seen.append(1)
        try:
            raise KeyError("cause")
        except KeyError as cause:
            raise TwoArguments("one", "two") from cause

    with pytest.raises(TwoArguments, match="one and two") as raised:
        crossed(fail, seen)
    assert seen == [1]
    assert raised.value.second == "two" and isinstance(raised.value.__cause__, KeyError)
    assert any(frame.name.endswith("fail") for frame in raised.traceback)


def test_builtin_exceptions_keep_their_fields() -> None:
    def fail() -> None:
        raise OSError(2, "no such file", "name")

    with pytest.raises(FileNotFoundError) as raised:
        crossed(fail)
    assert (raised.value.errno, raised.value.filename) == (2, "name")


def test_an_error_of_ours_stays_one() -> None:
    codec = KinCodec()
    error = codec.decode_error(*codec.encode_error(CallError("no", outcome="not started")))
    assert isinstance(error, CallError) and error.outcome == "not started"


def test_sentinels_classes_functions_and_modules_go_by_name() -> None:
    given = (SENTINEL, Colour.RED, Plain, crossed, re, re.compile("x"))
    found = crossed(lambda *args: args, *given)
    assert all(one is other for one, other in zip(found, given, strict=True))


def test_functions_without_a_name_go_by_the_place_of_their_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "nameless.py").write_text("def make(factor):\n    return lambda number: number * factor[0]\n")
    monkeypatch.syspath_prepend(tmp_path)
    factor = [3]
    scale = importlib.import_module("nameless").make(factor)
    given, seen = crossed(lambda function, factors: (function(2), function), scale, factor)
    assert given == 6 and seen is scale


def test_what_exists_in_one_process_alone_does_not_cross() -> None:
    count = 0

    def counts() -> None:
        nonlocal count
        count += 1

    for value in (threading.Lock(), object(), counts, (number for number in "a"), sys.stdout):
        with pytest.raises(CannotCross) as refused:
            KinCodec().encode_request((None, (value,), None))
        assert refused.value.outcome == "not started"


def test_what_cannot_be_watched_for_changes_does_not_cross() -> None:
    with pytest.raises(CannotCross, match="changes of it cannot be seen"):
        KinCodec().encode_request((None, (ElementTree.Element("a"),), None))


def test_a_random_generator_goes_on_where_the_callee_left_it() -> None:
    here, there = random.Random(1), random.Random(1)
    drawn, _ = crossed(lambda generator: ([generator.random() for _ in range(700)], None), here)
    assert drawn == [there.random() for _ in range(700)] and here.getstate() == there.getstate()


class Single:
    """One of a kind, as token types of lexers are."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __getattr__(self, name: str) -> Single:
        if not name[0].isupper():
            raise AttributeError(name)
        made = Single(name)
        setattr(self, name, made)
        return made

    def __deepcopy__(self, memo: object) -> Single:
        return self


ROOT = Single("root")


def test_singles_go_by_the_path_that_leads_to_them() -> None:
    leaf = ROOT.First.Second
    given, same = crossed(lambda first, second: ((first, second), first is second), leaf, ROOT.First.Second)
    assert given == (leaf, leaf) and given[0] is leaf and same
    with pytest.raises(CannotCross, match="no module leads to"):
        KinCodec().encode_request((None, (Single("nobody's"),), None))


class Lazy:
    table: dict[str, str]

    def __init__(self) -> None:
        if "table" not in vars(type(self)):
            type(self).table = {"made": "later"}


def test_what_a_class_was_given_travels_with_its_first_object() -> None:
    executed(sys.modules[__name__])
    here, there = KinCodec(), KinCodec()
    first, _, memo = here.encode_request((None, (Lazy(),), None))
    del Lazy.table  # as it is where nobody has made one
    (_, (given,), _), kept = there.decode_request(first)
    assert given.table == {"made": "later"}
    again, *_ = here.encode_request((None, (Lazy(),), None))
    assert len(again) == len(first)  # nobody has answered yet: it may not have arrived
    here.decode_reply(*there.encode_reply(None, kept), memo)
    after, *_ = here.encode_request((None, (Lazy(),), None))
    assert len(after) < len(first)


def test_a_generator_is_played_back_to_its_end_or_its_error() -> None:
    def steps(items: list[int]) -> Iterator[int]:
        for item in items:
            items[0] += 1
            yield item
        raise ValueError("over")

    given = [1, 2]
    here, there = KinCodec(), KinCodec()
    payload, buffers, memo = here.encode_request((None, (given,), None))
    (_, (copy,), _), kept = there.decode_request(payload, buffers)
    played = here.decode_reply(*there.encode_reply(steps(copy), kept), memo)
    assert isinstance(played, types.GeneratorType)
    seen = []
    with pytest.raises(ValueError, match="over"):
        for item in played:
            seen.append(item)
    assert seen == [1, 2] and given == [3, 2]


def test_nothing_is_sent_back_where_nothing_changed(record_exercised: Callable[[str, int], None]) -> None:
    here = KinCodec()
    large = [Frozen("x" * 100, (1, 2)) for _ in range(100)]
    payload, buffers, _ = here.encode_request((None, (large,), None))
    (_, given, _), memo = here.decode_request(payload, buffers)
    reply, _ = here.encode_reply(given[0][0], memo)
    assert len(reply) < 40 < len(payload)
    record_exercised("objects numbered alike", 100)


def test_a_reply_that_mentions_nothing_of_a_large_request_stands_alone() -> None:
    here = KinCodec()
    large = [[number, {}] for number in range(1000)]
    payload, buffers, ours = here.encode_request((None, (large,), None))
    (_, given, _), memo = here.decode_request(payload, buffers)
    for result in (1, "text", [1, [2]], Plain(), Plain):
        reply, more = here.encode_reply(result, memo)
        assert reply[:1] == b"A"
        found = here.decode_reply(reply, more, ours)
        assert (
            found is Plain
            if result is Plain
            else vars(found) == vars(result)
            if type(found) is Plain
            else found == result
        )
    reply, more = here.encode_reply([given[0][7]], memo)
    assert here.decode_reply(reply, more, ours)[0] is large[7]
    given[0][8][1]["more"] = 1
    assert here.decode_reply(*here.encode_reply(None, memo), ours) is None
    assert large[8] == [8, {"more": 1}]


def test_what_is_written_to_a_buffer_is_in_the_callers_own() -> None:
    text, raw = io.StringIO("a"), io.BytesIO(b"1234")
    text.seek(1)

    def write(one: io.StringIO, other: io.BytesIO) -> None:
        one.write("bc")
        other.truncate(2)

    crossed(write, text, raw)
    assert (text.getvalue(), text.tell(), raw.getvalue(), raw.tell()) == ("abc", 3, b"12", 0)


@pytest.mark.parametrize("watched", [True, False])
def test_what_a_class_was_given_before_anybody_looked_travels_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, watched: bool
) -> None:
    """As of a module of tests, which nobody watches and whose loader, pytest's, has no code to give."""
    name = f"longthere{watched}"
    text = (
        "class Table:\n    size = 1\n    def of(self):\n        return self.rows\n    class Inner:\n        kind = 2\n"
    )
    (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module(name)
    module.Table.rows = [1]
    if watched:
        was_there(module)
    else:
        monkeypatch.setattr(module, "__loader__", None)
    here, other = KinCodec(), KinCodec()
    payload, *_ = here.encode_request((None, (module.Table(), module.Table.Inner()), None))
    del module.Table.rows
    (_, (given, inner), _), _ = other.decode_request(payload)
    assert given.of() == [1] and inner.kind == 2


def test_what_a_class_statement_makes_without_naming_it_was_not_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a module that nobody watched: there is nothing to send, and most of it would not pickle."""
    text = """
import dataclasses, enum, typing

class Colour(enum.Enum):
    RED = 1

class Access(enum.IntFlag):
    READ = enum.auto()
    WRITE = enum.auto()

class Point(typing.NamedTuple):
    x: int
    y: int = 0

@dataclasses.dataclass(frozen=True, slots=True)
class Item:
    name: str

class Pair:
    __slots__ = ("left", "right")

class Shape(typing.Protocol):
    area: int

class Square(Shape):
    area = 1
"""
    (tmp_path / "statements.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    made = importlib.import_module("statements")
    was_there(made)
    values = (made.Colour.RED, made.Access.READ, made.Point(1), made.Item("a"), made.Pair(), made.Square())
    plain = KinCodec().encode_request((None, values, None))[0]
    assert plain[:1] != b"G"
    assert crossed(lambda *given: [type(each) for each in given], *values) == [type(each) for each in values]

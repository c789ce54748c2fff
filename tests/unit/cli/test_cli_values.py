"""Arguments and results of calls made by hand."""

from __future__ import annotations

import dataclasses
import enum
import json
from collections import OrderedDict, namedtuple
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardwright.cli._ask import _split, _value
from shardwright.node import NodeAddress
from shardwright.node._api_values import from_json, readable

Point = namedtuple("Point", "x y")


class Colour(enum.Enum):
    RED = "red"


@dataclasses.dataclass
class Box:
    content: Any
    colour: Colour = Colour.RED


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (Box((1, 2)), {"content": [1, 2], "colour": "red"}),
        (Point(1, Box(None)), {"x": 1, "y": {"content": None, "colour": "red"}}),
        ({Colour.RED: 1, 2: 3, (4,): 5}, {"red": 1, "2": 3, "(4,)": 5}),
        (OrderedDict(a=b"\x00"), {"a": {"__bytes__": "AA=="}}),
        (frozenset({3, 1, 2}), [1, 2, 3]),
        ([float("inf"), -(2**70), True], ["inf", str(-(2**70)), True]),
        ("\ud800", "\\ud800"),
        (Box, repr(Box)),
        (range(3), "range(0, 3)"),
    ],
)
def test_what_is_shown(value: object, shown: object) -> None:
    assert readable(value) == shown
    assert msgspec.json.decode(msgspec.json.encode(readable(value))) == shown


def test_cycles_and_depth_end() -> None:
    ring: list[object] = [1]
    ring.append(ring)
    assert readable(ring) == [1, "..."]
    deep: object = 0
    for _ in range(5000):
        deep = [deep]
    assert "..." in json.dumps(readable(deep))
    twice = [1]
    assert readable([twice, twice]) == [[1], [1]]  # an alias is no cycle


plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(plain)
def test_json_is_shown_as_it_is(value: object) -> None:
    if not _has_surrogate(value):
        assert readable(value) == value
    assert msgspec.json.encode(readable(value))


def _has_surrogate(value: object) -> bool:
    return "\\ud" in json.dumps(value)


@given(st.binary())
def test_bytes_go_both_ways(value: bytes) -> None:
    assert from_json([{"a": readable(value)}]) == [{"a": value}]


def test_a_marker_without_base64() -> None:
    with pytest.raises(ValueError, match="ase64"):
        from_json({"__bytes__": "not base64!"})
    assert from_json({"__bytes__": "AA==", "more": 1}) == {"__bytes__": "AA==", "more": 1}


@pytest.mark.parametrize(
    ("text", "value"), [("1", 1), ('"1"', "1"), ("one", "one"), ("NaN", "NaN"), ("[1", "[1"), ("", ""), ("null", None)]
)
def test_words_are_json_or_text(text: str, value: object) -> None:
    assert _value(text) == value


@pytest.mark.parametrize(
    ("words", "app", "rest"),
    [
        (("shop", "desk.echo", "1"), "shop", ("desk.echo", "1")),
        (("desk.echo", "1"), None, ("desk.echo", "1")),
        (("desk.echo", "a.b"), None, ("desk.echo", "a.b")),
        (("my.shop", "desk.echo"), "my.shop", ("desk.echo",)),
        (("unknown", "desk.echo"), "unknown", ("desk.echo",)),
        (("/", "desk.echo"), "/", ("desk.echo",)),
        (("17", "desk.echo"), "17", ("desk.echo",)),
    ],
)
def test_the_first_word_may_name_the_node(words: tuple[str, ...], app: str | None, rest: tuple[str, ...]) -> None:
    from pathlib import Path

    nodes = [NodeAddress(name, 17, "/m/shardwright.toml", Path("/s")) for name in ("shop", "my.shop")]
    assert _split(words, nodes) == (app, rest)

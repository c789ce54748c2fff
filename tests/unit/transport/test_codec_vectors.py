"""The bytes of `docs/protocol.md` are the bytes that are sent: its vectors are read from the page."""

from __future__ import annotations

import collections
import datetime
import decimal
import re
import types
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple

import numpy
import pytest

from codec_forms import codec_form
from shardwright.errors import ProtocolViolation
from shardwright.model.envelope import Envelope, Kind, PayloadCodec
from shardwright.transport._envelope import HEADER_BYTES, pack, unpack
from shardwright.transport.codec import ClassTable, TaggedCodec
from shardwright.transport.codec._wire import Tag

__all__ = ["codec_form"]
pytestmark = pytest.mark.usefixtures("codec_form")

PAGE = Path(__file__).parents[3].joinpath("docs", "protocol.md").read_text("utf-8")


class Suit(Enum):
    HEARTS = "h"


class Point(NamedTuple):
    x: int
    y: int


@dataclass
class Card:
    suit: Suit
    value: int


@dataclass(frozen=True)
class Reply:
    """A call: what it was given, what the callee did to its copy, and which part of that it returned."""

    given: Any
    change: Callable[[Any], object]
    result: Callable[[Any], Any] = lambda _: None


NAMES: dict[str, Any] = {
    **{"Envelope": Envelope, "Kind": Kind, "PayloadCodec": PayloadCodec, "Reply": Reply},
    **{"collections": collections, "datetime": datetime, "decimal": decimal, "types": types, "array": array},
    **{"numpy": numpy, "Suit": Suit, "Point": Point, "Card": Card},
}
LISTED = {"cards:Suit": Suit, "cards:Point": Point, "cards:Card": Card}
for _cls in LISTED.values():
    _cls.__module__ = "cards"
CODEC = TaggedCodec(ClassTable(LISTED, LISTED.__getitem__))


def vectors(block: str) -> list[tuple[str, bytes]]:
    found = re.findall(rf"^```{block}\n(.+)\n((?:  .*\n)+)```$", PAGE, re.MULTILINE)
    return [(source, bytes.fromhex(raw)) for source, raw in found]


def test_the_page_has_vectors() -> None:
    assert len(vectors("envelope")) >= 2
    assert len(vectors("value")) >= 35
    assert len(vectors("reply")) >= 3
    assert len(vectors("refused")) >= 6
    assert len(vectors("unreadable")) >= 8


@pytest.mark.parametrize(("source", "raw"), vectors("envelope"))
def test_envelope_vectors(source: str, raw: bytes) -> None:
    envelope = eval(source, dict(NAMES))
    assert b"".join(bytes(part) for part in pack(envelope)) == raw
    assert unpack(memoryview(raw)) == envelope


@pytest.mark.parametrize(("source", "raw"), vectors("value"))
def test_value_vectors(source: str, raw: bytes) -> None:
    value: Any = eval(source, dict(NAMES))
    payload, buffers, _ = CODEC.encode_request(value)
    assert payload.hex(" ") == raw.hex(" ")
    assert repr(CODEC.decode_request(payload, buffers)[0]) == repr(value)


@pytest.mark.parametrize(("source", "raw"), vectors("reply"))
def test_reply_vectors(source: str, raw: bytes) -> None:
    call: Reply = eval(source, dict(NAMES))
    mine = call.given
    request, buffers, memo = CODEC.encode_request(mine)
    copy, callee = CODEC.decode_request(request, buffers)
    call.change(copy)
    reply, parts = CODEC.encode_reply(call.result(copy), callee)
    assert reply.hex(" ") == raw.hex(" ")
    result = CODEC.decode_reply(reply, parts, memo)
    assert repr(mine) == repr(copy)
    assert result is call.result(mine)


@pytest.mark.parametrize(("words", "raw"), vectors("refused"))
def test_refused_envelopes(words: str, raw: bytes) -> None:
    with pytest.raises(ProtocolViolation) as caught:
        unpack(memoryview(raw))
    assert words in str(caught.value)


@pytest.mark.parametrize(("words", "raw"), vectors("unreadable"))
def test_unreadable_payloads(words: str, raw: bytes) -> None:
    with pytest.raises(ProtocolViolation) as caught:
        CODEC.decode_request(raw)
    assert words in str(caught.value)


def test_the_page_lists_every_tag_and_number() -> None:
    table = PAGE[PAGE.index("| tag | value |") : PAGE.index("NOW and FILL serve")]
    listed = {
        int(tag, 16) for row in re.findall(r"^\| ([0-9A-F, ]+) \|", table, re.MULTILINE) for tag in row.split(",")
    }
    assert listed == {int(tag) for tag in Tag}
    for kind in Kind:
        assert f"{kind.value} {kind.name}" in PAGE
    for codec in PayloadCodec:
        assert f"{codec.value} {codec.name}" in PAGE
    assert f"a header of {HEADER_BYTES} bytes" in PAGE

"""The bytes of `docs/protocol.md` are the bytes that are sent: its vectors are read from the page."""

from __future__ import annotations

import collections
import datetime
import decimal
import re
from pathlib import Path
from typing import Any

import pytest

from codec_forms import codec_form
from shardwright.model.envelope import Envelope, Kind, PayloadCodec
from shardwright.transport._envelope import HEADER_BYTES, pack, unpack
from shardwright.transport.codec import TaggedCodec
from shardwright.transport.codec._wire import Tag

__all__ = ["codec_form"]
pytestmark = pytest.mark.usefixtures("codec_form")

PAGE = Path(__file__).parents[3].joinpath("docs", "protocol.md").read_text("utf-8")
NAMES = {
    "Envelope": Envelope,
    "Kind": Kind,
    "PayloadCodec": PayloadCodec,
    "collections": collections,
    "datetime": datetime,
    "decimal": decimal,
}


def vectors(block: str) -> list[tuple[str, bytes]]:
    found = re.findall(rf"^```{block}\n(.+)\n((?:  .*\n)+)```$", PAGE, re.MULTILINE)
    return [(source, bytes.fromhex(raw)) for source, raw in found]


def test_the_page_has_vectors() -> None:
    assert len(vectors("envelope")) >= 2
    assert len(vectors("value")) >= 20


@pytest.mark.parametrize(("source", "raw"), vectors("envelope"))
def test_envelope_vectors(source: str, raw: bytes) -> None:
    envelope = eval(source, dict(NAMES))
    assert b"".join(bytes(part) for part in pack(envelope)) == raw
    assert unpack(memoryview(raw)) == envelope


@pytest.mark.parametrize(("source", "raw"), vectors("value"))
def test_value_vectors(source: str, raw: bytes) -> None:
    value: Any = eval(source, dict(NAMES))
    codec = TaggedCodec()
    assert codec.encode_request(value)[:2] == (raw, ())
    assert repr(codec.decode_request(raw)[0]) == repr(value)


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

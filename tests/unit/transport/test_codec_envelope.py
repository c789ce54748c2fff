"""The envelope: what it refuses, by name."""

from __future__ import annotations

import struct

import pytest

from codec_forms import codec_form
from shardwright.errors import MessageTooLarge, ProtocolViolation
from shardwright.model.envelope import Envelope, Kind, PayloadCodec
from shardwright.model.ids import MethodId, SessionNumber
from shardwright.transport._envelope import HEADER_BYTES, pack, unpack

__all__ = ["codec_form"]
pytestmark = pytest.mark.usefixtures("codec_form")

FULL = Envelope(
    Kind.RESULT,
    2**64 - 1,
    SessionNumber(2**64 - 2),
    MethodId(2**32 - 1),
    2**32 - 2,
    2**63,
    bytes(range(16)),
    2**64 - 3,
    2**64 - 4,
    PayloadCodec.PICKLE5,
    b"payload",
    (b"one", b"", b"three" * 1000),
)
RAW = b"".join(bytes(part) for part in pack(FULL))


def altered(offset: int, value: bytes) -> memoryview:
    return memoryview(RAW[:offset] + value + RAW[offset + len(value) :])


def test_every_field_survives() -> None:
    assert unpack(memoryview(RAW)) == FULL


@pytest.mark.parametrize("count", [0, 1, 16, 17, 300])
def test_any_count_of_buffers(count: int) -> None:
    envelope = Envelope(Kind.CALL, 1, codec=PayloadCodec.TAGGED, payload=b"p", buffers=tuple([b"b"] * count))
    assert unpack(memoryview(b"".join(bytes(part) for part in pack(envelope)))) == envelope


def test_payload_and_buffers_are_not_copied() -> None:
    big = bytes(100_000)
    parts = pack(Envelope(Kind.CALL, 1, codec=PayloadCodec.TAGGED, payload=b"p", buffers=(big,)))
    assert isinstance(parts[-1], memoryview)
    assert parts[-1].obj is big


def test_a_buffer_of_wide_items_counts_bytes() -> None:
    wide = memoryview(struct.pack("<3d", 1, 2, 3)).cast("d")
    envelope = Envelope(Kind.CALL, 1, codec=PayloadCodec.TAGGED, payload=b"", buffers=(wide,))
    raw = b"".join(bytes(part) for part in pack(envelope))
    assert bytes(unpack(memoryview(raw)).buffers[0]) == wide.tobytes()


@pytest.mark.parametrize(
    ("offset", "value", "named"),
    [
        (0, b"XX", "magic"),
        (2, b"\2", "version 2"),
        (3, b"\0", "kind 0"),
        (3, b"\x63", "kind 99"),
        (4, b"\4", "codec 4"),
        (5, b"\1", "flags 0x01"),
        (6, b"\xff\xff", "65535 buffers"),
        (6, b"\2\0", "lengths"),
        (72, b"\xff\xff\xff\xff", "lengths"),
        (HEADER_BYTES, b"\xff" * 8, "lengths"),
        (4, b"\0", "codec NONE"),
    ],
)
def test_refusals_name_what_is_wrong(offset: int, value: bytes, named: str) -> None:
    with pytest.raises(ProtocolViolation, match=named):
        unpack(altered(offset, value))


def test_every_other_length_is_refused() -> None:
    for size in [*range(HEADER_BYTES + 40), len(RAW) - 1]:
        with pytest.raises(ProtocolViolation):
            unpack(memoryview(RAW[:size]))
    with pytest.raises(ProtocolViolation, match="lengths"):
        unpack(memoryview(RAW + b"\0"))


def test_what_cannot_be_packed() -> None:
    with pytest.raises(MessageTooLarge, match="65536 buffers"):
        pack(Envelope(Kind.CALL, 1, codec=PayloadCodec.TAGGED, payload=b"p", buffers=tuple([b""] * 65536)))
    with pytest.raises(ValueError, match="call_id"):
        pack(Envelope(Kind.CALL, -1))
    with pytest.raises(ValueError, match="16 bytes"):
        pack(Envelope(Kind.CALL, 1, trace_id=b"short"))

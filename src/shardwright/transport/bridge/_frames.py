"""The frames of a bridge: how many streams share one stream of bytes (docs/protocol-socket.md, "Into virtual machines").

A frame is a header of 12 bytes (kind, count, reserved, stream, length; little-endian) and ``length`` bytes. Everything that
can be judged without knowing the streams is judged here, before anything is allocated for it.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterator

from msgspec import Struct

from shardwright.errors import ProtocolViolation

HEADER = struct.Struct("<BBHII")
GREETING = struct.Struct("<4sHHIII")
NUMBER = struct.Struct("<I")
MAGIC = b"SWBR"
VERSION = 1
MOST_CARRIED = 64  # descriptors beside one piece of data
PIECE_BYTES = 32 * 2**10
MAX_PAYLOAD = PIECE_BYTES + MOST_CARRIED * NUMBER.size
WINDOWS = range(4096, 2**24 + 1)
STREAMS = range(1, 2**20 + 1)
KEEP_ALIVES_MS = range(100, 60_001)
CONTROL_ROOM = 2**16  # what a reader holds at most, beside one frame


class Kind(enum.IntEnum):
    HELLO = 1
    OPEN = 2
    DATA = 3
    CREDIT = 4
    END = 5
    STOP = 6
    ALIVE = 7


class Shape(enum.IntEnum):
    """What a stream joins: sockets both ways, or a pipe that one side writes."""

    SOCKET = 0
    FROM_GUEST = 1
    TO_GUEST = 2


_LENGTHS: dict[int, range] = {
    Kind.HELLO: range(GREETING.size, GREETING.size + 1),
    Kind.OPEN: range(1, 2),
    Kind.DATA: range(1, MAX_PAYLOAD + 1),
    Kind.CREDIT: range(NUMBER.size, NUMBER.size + 1),
    Kind.END: range(0, 1),
    Kind.STOP: range(0, 1),
    Kind.ALIVE: range(0, 1),
}
_OF_NO_STREAM = (Kind.HELLO, Kind.ALIVE)


class Frame(Struct, frozen=True):
    """One frame; ``carried`` are the numbers of streams whose ends travel with its first byte."""

    kind: Kind
    stream: int = 0
    payload: bytes = b""
    carried: tuple[int, ...] = ()

    def encoded(self) -> bytes:
        beside = b"".join(NUMBER.pack(number) for number in self.carried)
        length = len(beside) + len(self.payload)
        return HEADER.pack(self.kind, len(self.carried), 0, self.stream, length) + beside + self.payload


class Greeting(Struct, frozen=True):
    """What a side says first: how much of a stream, how many streams it takes, and how often it speaks at least."""

    opens: bool
    window: int
    most_streams: int
    keep_alive_ms: int

    def encoded(self) -> bytes:
        said = GREETING.pack(MAGIC, VERSION, self.opens, self.window, self.most_streams, self.keep_alive_ms)
        return Frame(Kind.HELLO, payload=said).encoded()

    @classmethod
    def decoded(cls, payload: bytes) -> Greeting:
        """Raises ProtocolViolation."""
        magic, version, opens, window, streams, alive = GREETING.unpack(payload)
        if magic != MAGIC:
            raise ProtocolViolation("the other side of the bridge speaks something else")
        if version != VERSION:
            raise ProtocolViolation(f"the other side speaks version {version} of the bridge, this one {VERSION}")
        if opens > 1 or window not in WINDOWS or streams not in STREAMS or alive not in KEEP_ALIVES_MS:
            raise ProtocolViolation("a greeting of the bridge with impossible numbers")
        return cls(bool(opens), window, streams, alive)


class FrameParser:
    """Cuts what arrives into frames. Holds less than one frame between two calls. Raises ProtocolViolation."""

    __slots__ = ("_held",)

    def __init__(self) -> None:
        self._held = bytearray()

    def __len__(self) -> int:
        return len(self._held)

    def feed(self, data: bytes) -> Iterator[Frame]:
        """The frames that are whole now; to be used up before the next call."""
        held = self._held
        held += data
        at = 0
        try:
            while len(held) - at >= HEADER.size:
                kind, count, reserved, stream, length = HEADER.unpack_from(held, at)
                _judge(kind, count, reserved, stream, length)
                body = at + HEADER.size
                if len(held) - body < length:
                    break
                split = body + NUMBER.size * count
                carried = tuple(NUMBER.unpack_from(held, body + NUMBER.size * n)[0] for n in range(count))
                payload = bytes(memoryview(held)[split : body + length])
                at = body + length
                yield Frame(Kind(kind), stream, payload, carried)
        finally:
            del held[:at]


def _judge(kind: int, count: int, reserved: int, stream: int, length: int) -> None:
    lengths = _LENGTHS.get(kind)
    if lengths is None:
        raise ProtocolViolation(f"a frame of the unknown kind {kind}")
    name = Kind(kind).name
    if length not in lengths:
        raise ProtocolViolation(f"a frame {name} of {length} bytes")
    if reserved or (stream == 0) is not (kind in _OF_NO_STREAM):
        raise ProtocolViolation(f"a frame {name} with a header that says nothing")
    if count and (kind != Kind.DATA or count > MOST_CARRIED or length <= NUMBER.size * count):
        raise ProtocolViolation(f"a frame {name} of {length} bytes that carries {count} descriptors")
    if kind == Kind.DATA and length - NUMBER.size * count > PIECE_BYTES:
        raise ProtocolViolation(f"a frame {name} of {length} bytes")

"""What both directions of the tagged codec agree on: tags, kinds of classes, limits, weights.

Numbers are part of the protocol (``docs/protocol.md``) and never reused.
"""

from __future__ import annotations

from enum import IntEnum

from msgspec import Struct

from shardwright.errors import ProtocolViolation

__all__ = ["ATOMS", "LARGE_BYTES", "SHARED_BYTES", "CodecLimits", "Kind", "Refusal", "Tag", "violation"]

LARGE_BYTES = 32 * 1024  # from here on, bytes travel out of band
SHARED_BYTES = 128  # from here on, str and bytes are remembered, so that aliases are sent once

ATOMS = frozenset({type(None), bool, int, float, complex, str, bytes})  # hashed without looking further
NOW_LEVELS = 3  # how many levels of max_depth contents that a hash needs count for

NUMBER_1_BYTE = 248  # a count below this is one byte; 247 + k announces k bytes, little-endian


class CodecLimits(Struct, frozen=True):
    """What one message may hold. Both directions enforce them.

    ``max_bytes``: payload and buffers together. ``max_depth``: nesting of *immutable* values (tuples in tuples) and
    of values that a hash needs; lists, dicts and instances may be nested without limit, for they are written one
    after the other. ``max_items``: elements of all containers, where a new object weighs more than a number
    (see ``WEIGHT``), so that a short message cannot take much memory.
    """

    max_bytes: int = 64 * 1024 * 1024
    max_depth: int = 200
    max_items: int = 10_000_000


class Tag(IntEnum):
    NONE = 0x00
    TRUE = 0x01
    FALSE = 0x02
    ELLIPSIS = 0x03
    NOT_IMPLEMENTED = 0x04
    INT_1 = 0x05
    INT_4 = 0x06
    INT_8 = 0x07
    INT_ANY = 0x08
    FLOAT = 0x09
    COMPLEX = 0x0A
    STR = 0x0B
    STR_SURROGATES = 0x0C
    BYTES = 0x0D
    BYTES_BUFFER = 0x0E
    EMPTY_TUPLE = 0x10
    TUPLE = 0x11
    FROZENSET = 0x12
    SLICE = 0x13
    RANGE = 0x14
    REFERENCE = 0x18
    NOW = 0x19
    FILL = 0x1A
    LIST = 0x20
    DICT = 0x21
    SET = 0x22
    BYTEARRAY = 0x23
    DEQUE = 0x24
    ORDERED_DICT = 0x25
    DEFAULT_DICT = 0x26
    COUNTER = 0x27
    ARRAY = 0x28
    OBJECT = 0x30
    VALUE_OBJECT = 0x31
    ENUM = 0x32
    FLAG = 0x33
    NAMED = 0x34
    HANDLE = 0x36
    PARTS = 0x40
    NUMPY_ARRAY = 0x50
    NUMPY_SCALAR = 0x51
    EXCEPTION = 0x60
    EXCEPTION_GROUP = 0x61
    UNSET = 0xFF


class Kind(IntEnum):
    """The layout that a class inherits: what else than attributes its instances hold."""

    OBJECT = 0
    LIST = 1
    DICT = 2
    SET = 3
    DEQUE = 4
    ORDERED_DICT = 5
    DEFAULT_DICT = 6
    BYTEARRAY = 7
    VALUE = 8  # tuple, frozenset, str, bytes, int, float, complex: an immutable value inside
    ENUM = 9
    EXCEPTION = 10


# What a new object counts against max_items: about its size in memory in units of 64 bytes.
WEIGHT_LIST = 1
WEIGHT_DICT = 2
WEIGHT_SET = 4
WEIGHT_DEQUE = 12
WEIGHT_OBJECT = 4
WEIGHT_CLASS = 64  # made for an exception whose type is unknown here


class Refusal(Exception):
    """Internal: this object does not fit. The codec turns it into CannotCross with the object's path."""

    def __init__(self, offender: object, reason: str, remedy: str = "") -> None:
        super().__init__(reason)
        self.offender = offender
        self.reason = reason
        self.remedy = remedy


def violation(what: str) -> ProtocolViolation:
    return ProtocolViolation(f"malformed payload: {what}")

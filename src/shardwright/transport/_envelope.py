"""The envelope's bytes: one fixed little-endian header, a table of buffer lengths, the payload, the buffers.

``docs/protocol.md`` specifies every byte and holds test vectors. Nothing that arrives is trusted: each length is
checked against what is really there before it is used.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from typing import Any

from shardwright.contracts.transport import Lane, Part
from shardwright.errors import MessageTooLarge, ProtocolViolation
from shardwright.model.envelope import Envelope, Kind, PayloadCodec
from shardwright.model.ids import MethodId, SessionNumber
from shardwright.transport._segments import map_segment, seal
from shardwright.transport.codec._extension import native

__all__ = [
    "ALIGNMENT",
    "COPIED_BYTES",
    "HEADER_BYTES",
    "MAGIC",
    "MAX_BUFFERS",
    "SEGMENT_BYTES",
    "VERSION",
    "pack",
    "unpack",
]

MAGIC = 0x5753  # "SW" as its two bytes stand on the wire
VERSION = 1
MAX_BUFFERS = 0xFFFF
ALIGNMENT = 64  # of buffers in the frame
SEGMENT_BYTES = 256 * 1024  # from here on, a buffer may travel in a segment
COPIED_BYTES = 4096  # a payload of at most so many bytes is copied out of its frame: that is cheaper than a view of it

# magic, version, kind, codec, flags, buffer count, call id, session, method, epoch, deadline, trace id, blocked, chain,
# payload length
_HEADER = struct.Struct("<HBBBBHQQIIQ16sQQI")
HEADER_BYTES = _HEADER.size
_LENGTHS = tuple(struct.Struct(f"<{count}Q") for count in range(17))
_SEGMENT = 1 << 63
_SERIALS = (1 << 31) - 1
_ZEROS = bytes(ALIGNMENT)
_KINDS = {int(kind): kind for kind in Kind}
_CODECS = {int(codec): codec for codec in PayloadCodec}
# their payload is numbers, not a value: an object id and a number of handles; a number of bytes
_UNCODED = frozenset({Kind.ADDREF, Kind.RELEASE, Kind.CREDIT})


def pack_in_python(envelope: Envelope, lane: Lane | None = None) -> list[Part]:
    """What ``pack`` does; it comes here for what is not usual, or where nothing was compiled."""
    payload = envelope.payload
    buffers = envelope.buffers
    if type(payload) is memoryview:
        payload = _flat(payload)
    if len(payload) > 0xFFFFFFFF or len(buffers) > MAX_BUFFERS:
        raise MessageTooLarge(
            f"a payload of {len(payload)} bytes and {len(buffers)} buffers does not fit one message",
            outcome="not started",
            remedy="send less at once",
        )
    try:
        header = _HEADER.pack(
            MAGIC,
            VERSION,
            envelope.kind,
            envelope.codec,
            0,
            len(buffers),
            envelope.call_id,
            envelope.session,
            envelope.method,
            envelope.epoch,
            envelope.deadline_ns,
            _trace_id(envelope.trace_id),
            envelope.blocked,
            envelope.chain,
            len(payload),
        )
    except struct.error as error:
        raise ValueError(f"{envelope!r}: {error}") from None
    if not buffers:
        return [header, payload] if payload else [header]
    entries: list[int] = []
    parts: list[Part] = [payload] if payload else []
    end = HEADER_BYTES + 8 * len(buffers) + len(payload)
    for buffer in buffers:
        part = _flat(memoryview(buffer))
        size = len(part)
        if lane is not None and size >= SEGMENT_BYTES:
            serial = _in_segment(part, lane)
            if serial is not None:
                entries.append(_SEGMENT | serial << 32 | size)
                continue
        entries.append(size)
        if size:
            gap = -end % ALIGNMENT
            if gap:
                parts.append(_ZEROS[:gap])
            parts.append(part)
            end += gap + size
    parts.insert(0, header + _lengths(len(entries)).pack(*entries))
    return parts


def unpack_in_python(frame: bytes | memoryview, lane: Lane | None = None) -> Envelope:
    """What ``unpack`` does; it comes here for what is not usual, or where nothing was compiled."""
    frame = _flat(memoryview(frame))
    size = len(frame)
    if size < HEADER_BYTES:
        raise ProtocolViolation(f"a frame of {size} bytes is shorter than the header of {HEADER_BYTES}")
    (
        magic,
        version,
        kind_number,
        codec_number,
        flags,
        count,
        call_id,
        session,
        method,
        epoch,
        deadline_ns,
        trace_id,
        blocked,
        chain,
        payload_bytes,
    ) = _HEADER.unpack_from(frame)
    if magic != MAGIC:
        raise ProtocolViolation(f"the frame begins with {magic:#06x}, not with the magic {MAGIC:#06x}")
    if version != VERSION:
        raise ProtocolViolation(f"unknown version {version}; this side speaks version {VERSION}")
    kind = _KINDS.get(kind_number)
    if kind is None:
        raise ProtocolViolation(f"unknown kind {kind_number}")
    codec = _CODECS.get(codec_number)
    if codec is None:
        raise ProtocolViolation(f"unknown codec {codec_number}")
    if flags:
        raise ProtocolViolation(f"unknown flags {flags:#04x}")
    if codec is PayloadCodec.NONE and (count or (payload_bytes and kind not in _UNCODED)):
        raise ProtocolViolation("codec NONE, yet there is a payload")
    start = HEADER_BYTES + 8 * count
    if start > size:
        raise ProtocolViolation(f"a table of {count} buffers does not fit a frame of {size} bytes")
    position = start + payload_bytes
    entries = _lengths(count).unpack_from(frame, HEADER_BYTES) if count else ()
    places = []
    for entry in entries:
        if entry and not entry & _SEGMENT:
            position += -position % ALIGNMENT
            places.append(position)
            position += entry
    if position != size:
        raise ProtocolViolation(f"the lengths add up to {position} bytes, the frame has {size}")
    payload: bytes | memoryview = frame[start : start + payload_bytes]
    if payload_bytes <= COPIED_BYTES:
        payload = bytes(payload)
    buffers = _buffers(frame, start + payload_bytes, entries, places, lane) if entries else ()
    return Envelope(
        kind,
        call_id,
        SessionNumber(session),
        MethodId(method),
        epoch,
        deadline_ns,
        trace_id,
        blocked,
        chain,
        codec,
        payload,
        buffers,
    )


def _buffers(
    frame: memoryview, end: int, entries: tuple[int, ...], places: list[int], lane: Lane | None
) -> tuple[memoryview, ...]:
    buffers = []
    in_frame = iter(places)
    for entry in entries:
        if entry & _SEGMENT:
            if lane is None:
                raise ProtocolViolation("a buffer in a segment, on a channel without a lane")
            buffers.append(map_segment(lane.claim(entry >> 32 & _SERIALS), entry & 0xFFFFFFFF))
        elif entry:
            place = next(in_frame)
            if any(frame[end:place]):
                raise ProtocolViolation("something stands between the buffers")
            end = place + entry
            buffers.append(frame[place:end])
        else:
            buffers.append(frame[:0])
    return tuple(buffers)


def _in_segment(part: memoryview, lane: Lane) -> int | None:
    """The serial number of a segment that holds a copy; None where there can be none."""
    try:
        descriptor = seal(part)
    except OSError:
        return None
    try:
        return lane.offer(descriptor)
    finally:
        os.close(descriptor)


def _lengths(count: int) -> struct.Struct:
    return _LENGTHS[count] if count < len(_LENGTHS) else struct.Struct(f"<{count}Q")


def _trace_id(trace_id: bytes) -> bytes:
    if len(trace_id) != 16:
        raise ValueError(f"a trace id has 16 bytes, not {len(trace_id)}")
    return trace_id


def _flat(view: memoryview) -> memoryview:
    return view if view.ndim == 1 and view.itemsize == 1 and view.c_contiguous else view.cast("B")


_native_pack: Callable[[Envelope], Any] = (lambda _: NotImplemented) if native is None else native.pack
_native_unpack: Callable[[bytes | memoryview], Any] = (lambda _: NotImplemented) if native is None else native.unpack
if native is not None:
    native.configure_envelope(Envelope, _KINDS, _CODECS, tuple(_UNCODED))


def pack(envelope: Envelope, lane: Lane | None = None) -> list[Part]:
    """The message as parts, to be sent one after the other; payload and buffers are not copied.

    With the channel's ``lane``, buffers of SEGMENT_BYTES or more are copied into segments (see ``_segments``), which the
    receiver maps. That has happened when this returns: the message must be sent on that channel then, or the lane fills.

    Raises MessageTooLarge when the payload does not fit 32 bits or there are more than 65535 buffers, ValueError
    when a field is out of its range: that is a defect of the caller.
    """
    parts = _native_pack(envelope)
    return pack_in_python(envelope, lane) if parts is NotImplemented else parts


def unpack(frame: bytes | memoryview, lane: Lane | None = None) -> Envelope:
    """The envelope in ``frame``. Its payload is a view into the frame, or a copy if it is short; its buffers are views
    into the frame, or of segments that came by ``lane``.

    Raises ProtocolViolation, naming what is wrong, when the frame is not exactly one well-formed message.
    """
    envelope = _native_unpack(frame)
    return unpack_in_python(frame, lane) if envelope is NotImplemented else envelope

"""Large buffers in memory of their own: what is sent arrives, what lies is refused, and nothing stays open."""

from __future__ import annotations

import array
import fcntl
import os
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from shardwright.errors import ChannelClosed, ProtocolViolation
from shardwright.model.endpoint import Endpoint
from shardwright.model.envelope import Envelope, Kind, PayloadCodec
from shardwright.transport import PickleCodec, TaggedCodec, pack, unpack
from shardwright.transport._envelope import ALIGNMENT, SEGMENT_BYTES
from shardwright.transport._lane import DescriptorLane, lane_pair
from shardwright.transport._segments import SEALS, Segment, map_segment, seal
from shardwright.transport.socket import SocketTransport

BYTES = os.urandom(SEGMENT_BYTES + 4097)


@pytest.fixture(autouse=True)
def _nothing_stays_open() -> Iterator[None]:
    before = set(os.listdir("/proc/self/fd"))
    yield
    assert len(os.listdir("/proc/self/fd")) <= len(before)


@pytest.fixture
def lanes() -> Iterator[tuple[DescriptorLane, DescriptorLane]]:
    first, second = map(DescriptorLane, lane_pair())
    yield first, second
    first.close()
    second.close()


def envelope(*buffers: Any) -> Envelope:
    return Envelope(Kind.CALL, 7, codec=PayloadCodec.TAGGED, payload=b"pay", buffers=buffers)


def frame(parts: Any) -> memoryview:
    return memoryview(bytearray().join(parts))


def test_a_segment_arrives_and_cannot_be_changed_by_its_maker() -> None:
    descriptor = seal(BYTES)
    kept = os.dup(descriptor)
    try:
        view = map_segment(descriptor, len(BYTES))
        assert view == BYTES
        for change in (
            lambda: os.pwrite(kept, b"x", 0),
            lambda: os.ftruncate(kept, 10),
            lambda: os.ftruncate(kept, len(BYTES) * 2),
            lambda: fcntl.fcntl(kept, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE),
        ):
            with pytest.raises(PermissionError):
                change()
        view[0] ^= 0xFF
        assert isinstance(view.obj, Segment)
        assert view.obj.pristine == BYTES
        assert os.pread(kept, 1, 0) == BYTES[:1]
        with pytest.raises(TypeError):
            view.obj.pristine[0] = 1
    finally:
        os.close(kept)


def memfd(size: int, seals: int, *, written: bool = True) -> int:
    descriptor = os.memfd_create("test", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, size)
    if written:
        os.pwrite(descriptor, b"x" * size, 0)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
    return descriptor


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: memfd(8192, SEALS & ~fcntl.F_SEAL_WRITE), "lacks 0x8"),
        (lambda: memfd(8192, SEALS & ~fcntl.F_SEAL_SHRINK), "lacks 0x2"),
        (lambda: memfd(8192, SEALS & ~fcntl.F_SEAL_GROW), "lacks 0x4"),
        (lambda: memfd(4096, SEALS), "4096 bytes, announced as 8192"),
        (lambda: memfd(8193, SEALS), "8193 bytes"),
        (lambda: memfd(8192, SEALS, written=False), "holes"),
        (lambda: os.open("/dev/zero", os.O_RDWR), "cannot carry seals"),
        (lambda: os.open("/", os.O_RDONLY), "cannot carry seals"),
        (lambda: socket.socket().detach(), "cannot carry seals"),
    ],
)
def test_whatever_is_no_sealed_memory_is_refused(make: Callable[[], int], named: str) -> None:
    with pytest.raises(ProtocolViolation, match=named):
        map_segment(make(), 8192)


def test_memory_of_huge_pages_is_refused() -> None:
    try:
        descriptor = os.memfd_create("huge", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING | os.MFD_HUGETLB)
        os.ftruncate(descriptor, 2 << 20)
    except OSError:
        descriptor = os.open("/dev/null", os.O_RDONLY)  # none here: then it is just no memory
    else:
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, SEALS)
    with pytest.raises(ProtocolViolation):
        map_segment(descriptor, 2 << 20)


def test_large_buffers_travel_beside_the_frame(lanes: tuple[DescriptorLane, DescriptorLane]) -> None:
    sent = envelope(b"small", BYTES, b"", memoryview(BYTES)[1:], b"x" * 100)
    raw = frame(pack(sent, lanes[0]))
    assert len(raw) < 1000
    received = unpack(raw, lanes[1])
    assert [bytes(buffer) for buffer in received.buffers] == [bytes(buffer) for buffer in sent.buffers]
    assert [isinstance(buffer.obj, Segment) for buffer in received.buffers] == [False, True, False, True, False]


def test_out_of_order_and_in_place(lanes: tuple[DescriptorLane, DescriptorLane]) -> None:
    frames = [frame(pack(envelope(BYTES[n:]), lanes[0])) for n in range(5)]
    for n in (3, 0, 4, 1, 2):
        assert unpack(frames[n], lanes[1]).buffers[0] == BYTES[n:]


def test_messages_that_were_never_sent_leave_no_descriptors(lanes: tuple[DescriptorLane, DescriptorLane]) -> None:
    open_before = len(os.listdir("/proc/self/fd"))
    for _ in range(200):
        pack(envelope(BYTES), lanes[0])  # the deadline passed, say
        assert unpack(frame(pack(envelope(BYTES), lanes[0])), lanes[1]).buffers[0] == BYTES
    assert len(os.listdir("/proc/self/fd")) <= open_before + 64


def test_a_full_lane_sends_the_bytes_themselves(lanes: tuple[DescriptorLane, DescriptorLane]) -> None:
    sizes = {len(frame(pack(envelope(BYTES), lanes[0]))) > SEGMENT_BYTES for _ in range(2000)}
    assert sizes == {False, True}


def test_a_channel_without_a_lane_refuses_segments(lanes: tuple[DescriptorLane, DescriptorLane]) -> None:
    raw = frame(pack(envelope(BYTES), lanes[0]))
    with pytest.raises(ProtocolViolation, match="without a lane"):
        unpack(raw)
    assert unpack(raw, lanes[1]).buffers[0] == BYTES
    with pytest.raises(ProtocolViolation, match="did not come"):
        unpack(raw, lanes[1])


@pytest.mark.parametrize(
    ("raw", "count"), [(b"", 1), (b"abc", 1), (b"abcde", 1), (b"\1\0\0\0", 0), (b"\1\0\0\0", 3), (b"\1\0\0\0" * 9, 2)]
)
def test_packets_of_a_liar(raw: bytes, count: int) -> None:
    one, other = lane_pair()
    lane = DescriptorLane(other)
    null = os.open("/dev/null", os.O_RDONLY)
    try:
        with socket.socket(fileno=one) as peer:
            peer.sendmsg((raw,), [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [null] * count))])
            opened = len(os.listdir("/proc/self/fd"))
            with pytest.raises(ProtocolViolation):
                os.close(lane.claim(2))
            assert len(os.listdir("/proc/self/fd")) <= opened + 1
    finally:
        os.close(null)
        lane.close()


def test_buffers_in_the_frame_are_aligned_and_nothing_hides_between_them() -> None:
    raw = frame(pack(envelope(b"abc", b"", b"d" * 70)))
    buffers = unpack(raw).buffers
    places = [bytes(raw).index(b"abc"), bytes(raw).index(b"ddd")]
    assert [place % ALIGNMENT for place in places] == [0, 0]
    assert [bytes(buffer) for buffer in buffers] == [b"abc", b"", b"d" * 70]
    raw[places[1] - 1] = 1
    with pytest.raises(ProtocolViolation, match="between the buffers"):
        unpack(raw)


def test_a_socket_channel_with_a_lane_carries_arrays_without_copies() -> None:
    numpy = pytest.importorskip("numpy")
    transport = SocketTransport(lanes=True)
    ends = [transport.open(endpoint) for endpoint in transport.pair()]
    try:
        for codec in (TaggedCodec(), PickleCodec()):
            mine = numpy.arange(SEGMENT_BYTES, dtype="f8").reshape(512, -1)
            payload, buffers, memo = codec.encode_request([mine])
            ends[0].send(
                pack(Envelope(Kind.CALL, 1, codec=PayloadCodec.TAGGED, payload=payload, buffers=buffers), ends[0].lane)
            )
            received = ends[1].receive(timeout_s=10)
            assert received is not None
            assert len(received) < 1000
            envelope = unpack(received, ends[1].lane)
            (theirs,), callee = codec.decode_request(envelope.payload, envelope.buffers)
            assert (theirs == mine).all()
            assert numpy.shares_memory(theirs, numpy.frombuffer(envelope.buffers[0], "u1"))
            theirs[1] = -1.0
            payload, buffers = codec.encode_reply(theirs[1, 0], callee)
            codec.decode_reply(payload, buffers, memo)
            assert (mine[1] == -1.0).all() == isinstance(codec, TaggedCodec)
            del theirs, callee, envelope
    finally:
        for end in ends:
            end.close()


def test_arrays_are_used_where_they_lie_in_a_frame() -> None:
    numpy = pytest.importorskip("numpy")
    large, small = numpy.arange(6000, dtype="c16").reshape(60, 100), numpy.arange(10.0)

    def received(payload: bytes, buffers: Any) -> tuple[Envelope, Any]:
        raw = frame(pack(Envelope(Kind.CALL, 1, codec=PayloadCodec.TAGGED, payload=payload, buffers=buffers)))
        return unpack(raw), numpy.frombuffer(raw, "u1")

    pickled = PickleCodec()
    sent, raw = received(*pickled.encode_request([b"x", large, small, large.T])[:2])
    (_, copy, little, turned), _ = pickled.decode_request(sent.payload, sent.buffers)
    assert (copy == large).all()
    assert (turned == large.T).all()
    assert (little == small).all()
    assert [numpy.shares_memory(thing, raw) for thing in (copy, turned, little)] == [True, True, False]
    assert copy.flags.aligned
    assert copy.flags.writeable

    tagged = TaggedCodec()
    sent, raw = received(*tagged.encode_request([large])[:2])
    (copy,), memo = tagged.decode_request(sent.payload, sent.buffers)
    assert not numpy.shares_memory(copy, raw), "what was sent must be known, to tell changes"
    sent, raw = received(*tagged.encode_reply([numpy.asfortranarray(large), small, copy], memo))
    result = tagged.decode_reply(sent.payload, sent.buffers, tagged.encode_request([large])[2])
    assert (result[0] == large).all()
    assert result[0].flags.f_contiguous
    assert [numpy.shares_memory(thing, raw) for thing in result] == [True, False, False]
    assert result[2] is large


def test_endpoints_of_the_other_kind_are_refused() -> None:
    with_lanes, without = SocketTransport(lanes=True), SocketTransport()
    for maker, opener in ((with_lanes, without), (without, with_lanes)):
        for endpoint in maker.pair():
            with pytest.raises(ChannelClosed, match="not an endpoint"):
                opener.open(endpoint)
    first, second = with_lanes.pair()
    with_lanes.dispose(second)
    null = os.open("/dev/null", os.O_RDONLY)
    os.close(first.descriptors[1])
    with pytest.raises(ChannelClosed, match="lane"):
        with_lanes.open(Endpoint("socket", (first.descriptors[0], null)))

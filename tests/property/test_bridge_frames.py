"""Frames of a bridge: what is sent arrives, however it is cut; what no bridge sends is refused and costs nothing."""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shardwright.errors import ProtocolViolation
from shardwright.transport.bridge import Bridge
from shardwright.transport.bridge._frames import HEADER, MAX_PAYLOAD, PIECE_BYTES, Frame, FrameParser, Greeting, Kind

_numbers = st.integers(1, 2**32 - 1)
_frames = st.one_of(
    st.builds(
        Frame, st.just(Kind.DATA), _numbers, st.binary(min_size=1, max_size=300), st.lists(_numbers, max_size=4).map(tuple)
    ),
    st.builds(Frame, st.just(Kind.CREDIT), _numbers, st.binary(min_size=4, max_size=4)),
    st.builds(Frame, st.sampled_from([Kind.END, Kind.STOP]), _numbers),
    st.builds(Frame, st.just(Kind.OPEN), _numbers, st.binary(min_size=1, max_size=1)),
    st.just(Frame(Kind.ALIVE)),
)  # fmt: skip


@settings(max_examples=150)
@given(frames=st.lists(_frames, max_size=8), cuts=st.lists(st.integers(0, 4000), max_size=8))
def test_frames_arrive_however_they_are_cut(frames: list[Frame], cuts: list[int]) -> None:
    stream = b"".join(frame.encoded() for frame in frames)
    parser = FrameParser()
    positions = [0, *sorted(cut % (len(stream) + 1) for cut in cuts), len(stream)]
    found = [frame for start, end in itertools.pairwise(positions) for frame in parser.feed(stream[start:end])]
    assert found == frames
    assert not len(parser)


@settings(max_examples=300)
@given(data=st.binary(max_size=200), header=st.tuples(*[st.integers(0, 2**bits - 1) for bits in (8, 8, 16, 32, 32)]))
def test_any_bytes_are_frames_or_refused_and_a_length_is_never_believed(data: bytes, header: tuple[int, ...]) -> None:
    parser = FrameParser()
    with contextlib.suppress(ProtocolViolation):
        for frame in parser.feed(HEADER.pack(*header) + data):
            assert len(frame.payload) <= PIECE_BYTES
            assert len(list(FrameParser().feed(frame.encoded()))) == 1
        assert len(parser) < HEADER.size + MAX_PAYLOAD, "no more is waited for than a frame may have"


def _greeted(window: int = 8192) -> bytes:
    return Greeting(False, window, 64, 5000).encoded()


@contextlib.contextmanager
def _node(said: list[str]):  # type: ignore[no-untyped-def]
    """A node's bridge before a guest that we play: the stream of bytes, and our end of stream 1."""
    ours, theirs = socket.socketpair()
    near, first = socket.socketpair()
    with ours, near:
        bridge = Bridge(theirs.detach(), first=first.detach(), window=8192)
        thread = threading.Thread(target=lambda: said.append(bridge.run()))
        thread.start()
        try:
            yield ours, near
        finally:
            with contextlib.suppress(OSError):
                ours.shutdown(socket.SHUT_RDWR)
            thread.join(20)
            assert not thread.is_alive()


LIES = {
    "did not greet": Frame(Kind.END, 1).encoded(),
    "speaks something else": _greeted().replace(b"SWBR", b"BRSW"),
    "version 7": _greeted().replace(b"SWBR\x01", b"SWBR\x07"),
    "impossible numbers": Greeting(False, 2**31, 64, 5000).encoded(),
    "same kind": Greeting(True, 8192, 64, 5000).encoded(),
    "unknown kind 9": _greeted() + HEADER.pack(9, 0, 0, 1, 0),
    "DATA of 4294967295 bytes": _greeted() + HEADER.pack(Kind.DATA, 0, 0, 1, 2**32 - 1),
    "carries 65": _greeted() + HEADER.pack(Kind.DATA, 65, 0, 1, 300),
    "says nothing": _greeted() + HEADER.pack(Kind.END, 0, 1, 1, 0),
    "opens a stream": _greeted() + Frame(Kind.OPEN, 2, b"\0").encoded(),
    "passes descriptors": _greeted() + Frame(Kind.DATA, 1, b"x", (1,)).encoded(),
    "more than it may": _greeted() + Frame(Kind.DATA, 1, bytes(8193)).encoded(),
    "was not lent": _greeted() + Frame(Kind.CREDIT, 1, b"\1\0\0\0").encoded(),
    "which is not open": _greeted() + Frame(Kind.DATA, 5, b"x").encoded(),
    "ends twice": _greeted() + Frame(Kind.END, 1).encoded() * 2,
    "after": _greeted() + Frame(Kind.END, 1).encoded() + Frame(Kind.DATA, 1, b"x").encoded(),
    "began anew": _greeted() * 2,
}


@pytest.mark.parametrize("what", LIES)
def test_what_a_guest_may_not_say_ends_its_bridge_by_name(what: str) -> None:
    said: list[str] = []
    with _node(said) as (ours, near):
        ours.sendall(LIES[what])
        near.settimeout(20)
        with contextlib.suppress(ConnectionResetError):
            while near.recv(65536):  # its channels end with it
                pass
    assert said, "it ended"
    assert what in said[0] or (what == "after" and "more than it may" in said[0])


@settings(max_examples=120)
@given(frames=st.lists(_frames, max_size=20), noise=st.binary(max_size=60))
def test_a_hostile_guest_ends_its_own_bridge_at_worst(frames: list[Frame], noise: bytes) -> None:
    before = len(os.listdir("/proc/self/fd"))
    said: list[str] = []
    with _node(said) as (ours, near):
        near.setblocking(False)
        with contextlib.suppress(OSError):
            ours.sendall(_greeted() + b"".join(frame.encoded() for frame in frames) + noise)
    assert len(said) == 1
    assert len(os.listdir("/proc/self/fd")) == before

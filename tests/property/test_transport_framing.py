"""Any messages, cut into any pieces and received in any way, are the messages that were sent."""

from __future__ import annotations

import contextlib
import itertools
import select
import socket
import struct
import threading
from collections import deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shardwright.errors import ChannelClosed
from shardwright.model.endpoint import Endpoint
from shardwright.transport.inproc import InprocTransport
from shardwright.transport.socket import SocketTransport

_messages = st.lists(
    st.one_of(st.binary(max_size=20), st.integers(0, 70_000).map(lambda size: bytes([size % 256]) * size)), max_size=8
)


def _raw(transport=None):
    ours, theirs = socket.socketpair()
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * 2**20)
    return (transport or SocketTransport()).open(Endpoint("socket", (ours.detach(),))), theirs


@settings(max_examples=150, deadline=None)
@given(messages=_messages, cuts=st.lists(st.integers(0, 400_000), max_size=12), polled=st.booleans())
def test_receive_does_not_depend_on_how_the_stream_is_cut(messages, cuts, polled):
    stream = b"".join(struct.pack("<I", len(message)) + message for message in messages)
    channel, peer = _raw()
    received = []
    with contextlib.closing(channel), peer:
        descriptor = channel.fileno() if polled else -1
        positions = [0, *sorted(cut % (len(stream) + 1) for cut in cuts), len(stream)]
        for start, end in itertools.pairwise(positions):
            for piece in range(start, end, 30_000):
                peer.sendall(stream[piece : min(end, piece + 30_000)])
                while (message := channel.receive(timeout_s=0)) is not None:
                    received.append(bytes(message))
                assert not polled or not select.select([descriptor], [], [], 0)[0]
        assert received == messages
        peer.close()
        with pytest.raises(ChannelClosed):
            channel.receive(timeout_s=5)


@settings(max_examples=100, deadline=None)
@given(parts=st.lists(st.binary(max_size=9_000), max_size=30))
def test_send_writes_the_length_and_the_parts(parts):
    content = b"".join(parts)
    half = len(parts) // 2
    chosen = [bytearray(part) for part in parts[:half]] + [memoryview(part) for part in parts[half:]]
    channel, peer = _raw()
    peer.settimeout(5)
    sender = threading.Thread(target=channel.send, args=(chosen,))
    with contextlib.closing(channel), peer, peer.makefile("rb") as stream:
        sender.start()
        assert stream.read(4 + len(content)) == struct.pack("<I", len(content)) + content
        sender.join()
        channel.close()
        assert stream.read() == b""


_steps = st.lists(
    st.tuples(
        st.sampled_from(["send", "receive", "poll"]), st.integers(0, 1), st.sampled_from([0, 1, 50, 5_000, 20_000])
    ),
    max_size=60,
)


@pytest.mark.parametrize("factory", [SocketTransport, InprocTransport])
@settings(max_examples=80, deadline=None)
@given(steps=_steps)
def test_a_channel_is_two_queues(factory, steps):
    """Against a model: what is sent on one side comes out at the other, once, in order; readiness never lies."""
    transport = factory()
    channels = [transport.open(endpoint) for endpoint in transport.pair()]
    under_way = [deque(), deque()]  # by receiving side
    try:
        for number, (action, side, size) in enumerate(steps):
            expected = under_way[side]
            if action == "send":
                if sum(map(len, under_way[1 - side])) + size < 40_000 and len(under_way[1 - side]) < 20:
                    message = bytes([number]) * size
                    channels[side].send([message])
                    under_way[1 - side].append(message)
            elif action == "receive":
                got = channels[side].receive(timeout_s=0)
                assert (None if got is None else bytes(got)) == (expected.popleft() if expected else None)
            else:
                readable = bool(select.select([channels[side].fileno()], [], [], 0)[0])
                assert readable == bool(expected)
        channels[0].close()
        for message in under_way[1]:
            assert bytes(channels[1].receive(timeout_s=5)) == message
        with pytest.raises(ChannelClosed):
            channels[1].receive(timeout_s=0)
    finally:
        for channel in channels:
            channel.close()

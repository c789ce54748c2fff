"""A socket peer that lies, babbles, trickles, stalls or vanishes harms nobody but its own conversation."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import struct
import threading
import time
import tracemalloc
from pathlib import Path

import pytest

from shardwright.errors import ChannelClosed, DeadlineExceeded, ProtocolViolation
from shardwright.model.endpoint import Endpoint
from shardwright.transport.socket import SocketTransport

_MIB = 2**20


@pytest.fixture
def hostile():
    """A channel of ours, and the raw socket of its peer."""
    ours, theirs = socket.socketpair()
    channel = SocketTransport().open(Endpoint("socket", (ours.detach(),)))
    with contextlib.closing(channel), theirs:
        yield channel, theirs


def _frame(message: bytes) -> bytes:
    return struct.pack("<I", len(message)) + message


def _peak_while(action) -> int:
    tracemalloc.start()
    try:
        action()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("size", [64 * _MIB + 1, 2**31, 2**32 - 1])
def test_a_forbidden_length_ends_the_channel_without_memory(hostile, size):
    channel, peer = hostile
    peer.sendall(_frame(b"honest") + struct.pack("<I", size) + b"rest")
    assert channel.receive(timeout_s=5) == b"honest"

    def receive():
        with pytest.raises(ProtocolViolation, match=str(size)):
            channel.receive(timeout_s=5)

    assert _peak_while(receive) < _MIB
    assert channel.closed
    with pytest.raises(ChannelClosed):
        channel.receive(timeout_s=0)
    with pytest.raises(ChannelClosed):
        channel.send([b"x"])
    peer.settimeout(5)
    with contextlib.suppress(ConnectionResetError):
        assert peer.recv(1) == b""


def test_memory_follows_what_came_not_what_was_announced(hostile):
    channel, peer = hostile
    peer.sendall(struct.pack("<I", 64 * _MIB))
    assert _peak_while(lambda: channel.receive(timeout_s=0)) < 1.1 * _MIB
    babble = threading.Thread(target=peer.sendall, args=(bytes(_MIB + 1),))
    babble.start()

    def receive():
        while babble.is_alive() or channel.receive(timeout_s=0) is not None:
            assert channel.receive(timeout_s=0.01) is None

    assert _peak_while(receive) < 10 * _MIB
    babble.join()
    peer.close()
    with pytest.raises(ChannelClosed, match="within a message"):
        channel.receive(timeout_s=5)


@pytest.mark.parametrize("seed", range(40))
def test_random_bytes_end_in_a_known_error_or_in_silence(hostile, seed):
    channel, peer = hostile
    source = random.Random(seed)
    noise = b"".join(
        source.choice((source.randbytes(source.randrange(1, 50)), struct.pack("<I", source.randrange(0, 60))))
        for _ in range(50)
    )
    peer.sendall(noise)
    peer.shutdown(socket.SHUT_WR)
    received = 0
    with pytest.raises(ChannelClosed):
        while True:
            message = channel.receive(timeout_s=5)
            assert message is not None
            received += 4 + len(message)
    assert received <= len(noise)
    assert channel.closed


def test_a_trickle_costs_no_time_beyond_the_timeout_and_loses_nothing(hostile):
    channel, peer = hostile
    for message in (b"", b"slow", bytes(range(200))):
        for byte in _frame(message)[:-1]:
            peer.sendall(bytes((byte,)))
            assert channel.receive(timeout_s=0) is None
        start = time.monotonic()
        assert channel.receive(timeout_s=0.02) is None
        assert time.monotonic() - start < 2.0
        peer.sendall(_frame(message)[-1:])
        assert channel.receive(timeout_s=5) == message


def test_a_trickle_within_one_timed_receive_does_not_prolong_it(hostile):
    channel, peer = hostile
    stop = threading.Event()

    def trickle():
        with contextlib.suppress(OSError):
            peer.sendall(struct.pack("<I", 1000))
            while not stop.wait(0.005):
                peer.sendall(b"x")

    thread = threading.Thread(target=trickle)
    thread.start()
    try:
        start = time.monotonic()
        assert channel.receive(timeout_s=0.1) is None
        assert 0.09 < time.monotonic() - start < 2.0
    finally:
        stop.set()
        thread.join()


@pytest.mark.parametrize("size", [1000, 100_000, 8 * _MIB])
def test_a_peer_that_never_reads_cannot_hold_a_sender(hostile, size):
    channel, _ = hostile
    start = time.monotonic()
    with pytest.raises(DeadlineExceeded) as caught:
        while True:
            channel.send([bytes(size)], deadline_ns=time.monotonic_ns() + 50_000_000)
    assert time.monotonic() - start < 5.0
    assert channel.closed is (caught.value.outcome == "unknown")


def test_a_peer_that_never_reads_holds_no_second_sender_either(hostile):
    """A sender that waits behind a blocked one keeps its own deadline; closing frees the first."""
    channel, _ = hostile
    started = threading.Event()
    ended = []

    def blocked():
        started.set()
        try:
            channel.send([bytes(8 * _MIB)])
        except ChannelClosed as error:
            ended.append(error)

    thread = threading.Thread(target=blocked)
    thread.start()
    started.wait()
    with pytest.raises(DeadlineExceeded) as caught:
        while True:
            channel.send([b"me too"], deadline_ns=time.monotonic_ns() + 50_000_000)
    assert caught.value.outcome == "not started"
    channel.close()
    thread.join(5)
    assert not thread.is_alive() and len(ended) == 1


def test_what_a_peer_said_before_it_went_outlives_a_send_that_it_broke(hostile):
    channel, peer = hostile
    peer.sendall(_frame(b"first") + _frame(b"second"))
    broken = []

    def send():
        try:
            channel.send([bytes(8 * _MIB)])
        except ChannelClosed as error:
            broken.append(error)

    thread = threading.Thread(target=send)
    thread.start()
    peer.recv(1)  # a part was sent
    peer.close()
    thread.join(5)
    assert len(broken) == 1
    assert channel.receive(timeout_s=5) == b"first"
    with pytest.raises(ChannelClosed):
        channel.send([b"x"])
    assert channel.receive(timeout_s=5) == b"second"
    with pytest.raises(ChannelClosed):
        channel.receive(timeout_s=5)


def test_the_end_at_every_byte_offset():
    messages = [b"", b"one", b"", b"three" * 5]
    stream = b"".join(map(_frame, messages))
    ends = [len(b"".join(map(_frame, messages[: count + 1]))) for count in range(len(messages))]
    for offset in range(len(stream) + 1):
        for polled in (False, True):
            ours, theirs = socket.socketpair()
            channel = SocketTransport().open(Endpoint("socket", (ours.detach(),)))
            with contextlib.closing(channel):
                if polled:
                    channel.fileno()
                with theirs:
                    theirs.sendall(stream[:offset])
                whole = sum(end <= offset for end in ends)
                assert [bytes(channel.receive(timeout_s=5)) for _ in range(whole)] == messages[:whole]
                expected = "peer closed" if offset in (0, *ends) else "within a message"
                with pytest.raises(ChannelClosed, match=expected):
                    channel.receive(timeout_s=5)


def test_descriptors_that_a_peer_slips_in_are_dropped(hostile):
    channel, peer = hostile
    before = len(list(Path("/proc/self/fd").iterdir()))
    reader, writer = os.pipe()
    try:
        for _ in range(5):
            socket.send_fds(peer, [_frame(b"gift")], [reader, writer])
            assert channel.receive(timeout_s=5) == b"gift"
    finally:
        os.close(reader)
        os.close(writer)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_half_a_shutdown_is_the_end(hostile):
    channel, peer = hostile
    peer.sendall(_frame(b"last"))
    peer.shutdown(socket.SHUT_WR)
    assert channel.receive(timeout_s=5) == b"last"
    with pytest.raises(ChannelClosed):
        channel.receive(timeout_s=5)
    with pytest.raises(ChannelClosed):
        channel.send([b"x"])


def test_a_flood_of_empty_messages_is_taken_one_by_one(hostile):
    channel, peer = hostile
    flood = threading.Thread(target=peer.sendall, args=(bytes(4 * 100_000),))
    flood.start()

    def receive():
        for _ in range(100_000):
            assert len(channel.receive(timeout_s=5)) == 0

    assert _peak_while(receive) < _MIB
    flood.join()
    assert channel.receive(timeout_s=0) is None

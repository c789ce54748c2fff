"""A peer that holds one end of a shared-memory channel and keeps no rule: it costs itself the channel, and nothing else.

Random writes into everything that is shared are ``tests/support/native/ring_harness.c hostile``; here is what a liar would try
on purpose, from another mapping of the same memory.
"""

from __future__ import annotations

import array
import contextlib
import ctypes
import fcntl
import mmap
import os
import socket
import struct
import threading
import time
from pathlib import Path

import pytest

from shardwright.errors import ChannelClosed, DeadlineExceeded, ProtocolViolation
from shardwright.model.endpoint import Endpoint
from shardwright.transport.shm import READS, Doorbell, RingTransport

PAGE = 4096
CAPACITY = 4096
LANE = 384
HEAD, TAIL, WANTED, ROOM = 0, 128, 256, 260
BELL_BYTES = 2 * PAGE
PATIENCE_NS = 20 * 10**9
SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


class Liar:
    """The raw other end: the memory as a map, the socket, and in ``bell`` the victim's doorbell page."""

    def __init__(self, endpoint):
        self.socket = socket.socket(fileno=endpoint.descriptors[0])
        packet, (self.descriptor,), _, _ = socket.recv_fds(self.socket, 64, 4)
        self.role = packet[5]
        self.bell = None
        self.memory = mmap.mmap(self.descriptor, PAGE + 2 * CAPACITY)

    def hear_bell(self):
        packet, (descriptor,), _, _ = socket.recv_fds(self.socket, 64, 4)
        self.bell = mmap.mmap(descriptor, BELL_BYTES)
        os.close(descriptor)
        (self.index,) = struct.unpack_from("<I", packet, 8)

    def put(self, lane, field, value):
        """``lane`` 0: the one that the liar writes; 1: the one that it reads."""
        struct.pack_into("<Q", self.memory, (self.role ^ lane) * LANE + field, value)

    def get(self, lane, field):
        return struct.unpack_from("<Q", self.memory, (self.role ^ lane) * LANE + field)[0]

    def write(self, position, data):
        at = PAGE + self.role * CAPACITY + position
        self.memory[at : at + len(data)] = data

    def close(self):
        if self.bell is not None:
            self.bell.close()
        self.memory.close()
        os.close(self.descriptor)
        self.socket.close()


@pytest.fixture
def conversation():
    """(the victim's channel, the liar)"""
    transport = RingTransport(capacity_bytes=CAPACITY, max_message_bytes=10_000)
    here, there = transport.pair()
    with contextlib.closing(transport.open(here)) as victim, contextlib.closing(Liar(there)) as liar:
        liar.hear_bell()
        yield victim, liar
        with pytest.raises(ChannelClosed):
            while True:
                victim.receive(timeout_s=0)
                liar.socket.close()


@pytest.mark.parametrize("head", [1, 7, 12, CAPACITY + 8, 2 * CAPACITY, 2**63, 2**64 - 8])
def test_a_head_that_cannot_be_ends_the_channel(conversation, head):
    victim, liar = conversation
    liar.put(0, HEAD, head)
    with pytest.raises(ProtocolViolation):
        victim.receive(timeout_s=1)
    assert victim.closed


def test_a_head_that_goes_back_ends_the_channel(conversation):
    victim, liar = conversation
    for position in range(0, 64, 16):
        liar.write(position, struct.pack("<Q", 8) + b"message!")
    liar.put(0, HEAD, 64)
    assert victim.receive(timeout_s=1) == b"message!"
    liar.put(0, HEAD, 0)
    for _ in range(3):
        assert victim.receive(timeout_s=1) == b"message!", "what was seen stays seen"
    with pytest.raises(ProtocolViolation):
        victim.receive(timeout_s=1)


@pytest.mark.parametrize("header", [10_001, 2**32 - 1, 2**32, 1 << 63])
def test_a_length_that_is_not_allowed_ends_the_channel(conversation, header):
    victim, liar = conversation
    liar.write(0, struct.pack("<Q", header))
    liar.put(0, HEAD, 8)
    with pytest.raises(ProtocolViolation):
        victim.receive(timeout_s=1)


def test_a_message_that_never_ends_keeps_nobody(conversation):
    victim, liar = conversation
    liar.write(0, struct.pack("<Q", 10_000))
    liar.put(0, HEAD, 16)
    start = time.monotonic()
    assert victim.receive(timeout_s=0.05) is None
    assert time.monotonic() - start < 5
    liar.socket.close()
    with pytest.raises(ChannelClosed, match="within a message"):
        victim.receive(timeout_s=20)


@pytest.mark.parametrize("tail", [4, CAPACITY, 2**64 - 8, 2**63])
def test_a_tail_that_cannot_be_ends_the_channel(conversation, tail):
    victim, liar = conversation
    liar.put(1, TAIL, tail)
    with pytest.raises(ChannelClosed):
        for _ in range(20):
            victim.send([bytes(1000)], deadline_ns=time.monotonic_ns() + 10**8)


def test_a_peer_that_takes_nothing_and_says_nothing_is_left_at_the_deadline(conversation):
    victim, liar = conversation
    stop = threading.Event()

    def unsay():
        while not stop.is_set():
            liar.put(1, WANTED, 0)

    thread = threading.Thread(target=unsay)
    thread.start()
    try:
        with pytest.raises(DeadlineExceeded):
            for _ in range(20):
                victim.send([bytes(1000)], deadline_ns=time.monotonic_ns() + 10**8)
    finally:
        stop.set()
        thread.join()


def test_a_message_that_changes_while_it_is_read_was_copied_first(conversation):
    victim, liar = conversation
    liar.write(0, struct.pack("<Q", 2000) + bytes(2000))
    liar.put(0, HEAD, 2008)
    message = victim.receive(timeout_s=1)
    liar.write(8, b"\xff" * 2000)
    assert bytes(message) == bytes(2000)


def test_the_memory_cannot_be_cut_or_sealed(conversation):
    victim, liar = conversation
    for attempt in (
        lambda: os.ftruncate(liar.descriptor, 0),
        lambda: os.ftruncate(liar.descriptor, 10 * PAGE),
        lambda: fcntl.fcntl(liar.descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE),
    ):
        with pytest.raises(OSError, match="not permitted"):
            attempt()
    victim.send([b"x"])


def test_holes_are_zeros_and_no_signal(conversation):
    victim, liar = conversation
    liar.write(0, struct.pack("<Q", 100) + bytes(100))
    liar.put(0, HEAD, 112)
    libc_punch(liar.descriptor, 0, PAGE + 2 * CAPACITY)
    assert victim.receive(timeout_s=0) is None
    victim.send([b"x"])


def libc_punch(descriptor, offset, size):
    libc = ctypes.CDLL(None, use_errno=True)
    libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
    assert libc.fallocate(descriptor, 3, offset, size) == 0, os.strerror(ctypes.get_errno())


def test_a_neighbour_that_silences_the_bell_delays_a_message_and_no_more():
    """Two peers share one consumer's doorbell. One of them clears it all the time, so that the other's wake is lost."""
    bell = Doorbell(0)
    transport = RingTransport(doorbell=bell, capacity_bytes=CAPACITY)
    honest, theirs = transport.pair()
    ours, hostile = transport.pair()
    with contextlib.ExitStack() as stack:
        near, _, far, liar = (
            stack.enter_context(contextlib.closing(end))
            for end in (
                transport.open(honest),
                transport.open(ours),
                RingTransport().open(theirs),
                Liar(hostile),
            )
        )
        liar.hear_bell()
        waiter = bell.waiter()
        stop = threading.Event()

        def silence():
            while not stop.is_set():
                liar.bell[: 8 + 512] = bytes(8 + 512)

        thread = threading.Thread(target=silence)
        thread.start()
        try:
            for number in range(10):
                threading.Timer(0.002, far.send, ([bytes([number])],)).start()
                start = time.monotonic()
                taken = []
                while not taken:
                    assert waiter.wait(PATIENCE_NS) == READS
                    taken = bell.take(8)
                assert taken == [(near, bytes([number]))]
                assert time.monotonic() - start < 5
        finally:
            stop.set()
            thread.join()
    bell.close()


# -- endpoints and packets that lie --------------------------------------------------------------------------------


def area_packet(capacity, role=0, magic=0x31525753, kind=1):
    return struct.pack("<IBBHI", magic, kind, role, 0, capacity)


def endpoint(packet, *descriptors):
    """An endpoint as a hostile maker would give it."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours:
        socket.send_fds(ours, [packet], descriptors)
    return Endpoint("shm", (theirs.detach(),))


def memory(size, seals=SEALS):
    descriptor = os.memfd_create("hostile", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, size)
    if seals:
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
    return descriptor


GOOD_BYTES = PAGE + 2 * CAPACITY


@pytest.mark.parametrize(
    ("packet", "size", "seals"),
    [
        pytest.param(area_packet(CAPACITY), GOOD_BYTES, 0, id="not sealed"),
        pytest.param(area_packet(CAPACITY), GOOD_BYTES, fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL, id="may shrink"),
        pytest.param(area_packet(CAPACITY), GOOD_BYTES, SEALS | fcntl.F_SEAL_WRITE, id="not writable"),
        pytest.param(area_packet(CAPACITY), GOOD_BYTES - 1, SEALS, id="too short"),
        pytest.param(area_packet(2 * CAPACITY), GOOD_BYTES, SEALS, id="another capacity"),
        pytest.param(area_packet(CAPACITY + 8), PAGE + 2 * (CAPACITY + 8), SEALS, id="no power of two"),
        pytest.param(area_packet(1024), PAGE + 2048, SEALS, id="too small"),
        pytest.param(area_packet(0), PAGE, SEALS, id="nothing"),
        pytest.param(area_packet(CAPACITY, role=2), GOOD_BYTES, SEALS, id="no such lane"),
        pytest.param(area_packet(CAPACITY, magic=1), GOOD_BYTES, SEALS, id="another protocol"),
        pytest.param(area_packet(CAPACITY, kind=2), GOOD_BYTES, SEALS, id="another packet"),
        pytest.param(area_packet(CAPACITY)[:-1], GOOD_BYTES, SEALS, id="cut"),
        pytest.param(b"", GOOD_BYTES, SEALS, id="empty"),
    ],
)
def test_an_endpoint_that_is_none_is_refused_and_leaves_nothing(packet, size, seals):
    before = set(os.listdir("/proc/self/fd"))
    descriptor = memory(size, seals)
    with pytest.raises(ChannelClosed, match="cannot be opened"):
        RingTransport().open(endpoint(packet, descriptor))
    os.close(descriptor)
    assert set(os.listdir("/proc/self/fd")) == before


def test_several_memories_at_once_are_refused_and_closed():
    before = set(os.listdir("/proc/self/fd"))
    descriptors = [memory(GOOD_BYTES) for _ in range(3)]
    with pytest.raises(ChannelClosed):
        RingTransport().open(endpoint(area_packet(CAPACITY), *descriptors))
    for descriptor in descriptors:
        os.close(descriptor)
    assert set(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("what", ["pipe", "small", "no index", "flood", "other bytes"])
def test_a_doorbell_that_is_none_is_not_rung(what):
    """The liar says that its bell is there, and sends something else: its loss, and no descriptor is kept."""
    transport = RingTransport(capacity_bytes=CAPACITY)
    here, there = transport.pair()
    with contextlib.closing(transport.open(here)) as victim, contextlib.closing(Liar(there)) as liar:
        before = len(os.listdir("/proc/self/fd"))
        good = struct.pack("<IBBHI", 0x31525753, 2, 0, 0, 3)
        descriptors = list(os.pipe()) if what == "pipe" else [memory(BELL_BYTES)]
        if what == "pipe":
            socket.send_fds(liar.socket, [good], descriptors[1:])
        elif what == "small":
            socket.send_fds(liar.socket, [good], [liar.descriptor])
        elif what == "no index":
            socket.send_fds(liar.socket, [good[:8] + struct.pack("<I", 4096)], descriptors)
        elif what == "flood":
            many = array.array("i", descriptors * 100)
            liar.socket.sendmsg([good], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, many)])
        else:
            liar.socket.send(b"x" * 60_000)
        for descriptor in descriptors:
            os.close(descriptor)
        struct.pack_into("<I", liar.memory, (liar.role ^ 1) * LANE + 136, 1)  # "opened"
        for _ in range(3):
            victim.send([b"x"])
        assert liar.get(1, HEAD) == 48
        assert len(os.listdir("/proc/self/fd")) == before
        liar.write(0, struct.pack("<Q", 0))
        liar.put(0, HEAD, 8)
        assert victim.receive(timeout_s=1) == b""


def test_a_flood_through_the_socket_does_not_keep_an_event_loop():
    transport = RingTransport(capacity_bytes=CAPACITY)
    here, there = transport.pair()
    with contextlib.closing(transport.open(here)) as victim, contextlib.closing(Liar(there)) as liar:
        victim.fileno()
        liar.socket.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                liar.socket.send(b"x")
        start = time.monotonic()
        assert victim.receive(timeout_s=0) is None
        assert time.monotonic() - start < 1


def test_an_endpoint_can_wait_in_a_socket_and_be_given_up():
    before = len(list(Path("/proc/self/fd").iterdir()))
    transport = RingTransport()
    pairs = [transport.pair() for _ in range(20)]
    for here, there in pairs:
        transport.dispose(here)
        transport.dispose(there)
    assert len(list(Path("/proc/self/fd").iterdir())) == before

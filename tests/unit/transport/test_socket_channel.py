"""What is special to the socket transport; what all transports promise is in the conformance suite."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from shardwright.errors import ChannelClosed
from shardwright.model.endpoint import Endpoint
from shardwright.transport.socket import SocketTransport


@pytest.fixture
def channels():
    transport = SocketTransport()
    first, second = map(transport.open, transport.pair())
    with contextlib.closing(first), contextlib.closing(second):
        yield first, second


def _run(script: str) -> str:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script], env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_endpoints_are_one_descriptor_closed_on_exec():
    transport = SocketTransport()
    for endpoint in transport.pair():
        (descriptor,) = endpoint.descriptors
        assert not os.get_inheritable(descriptor)
        os.set_inheritable(descriptor, True)
        channel = transport.open(endpoint)
        assert not os.get_inheritable(descriptor), "a descriptor that came inheritable must not stay so"
        channel.close()
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(descriptor)


@pytest.mark.parametrize(
    ("family", "kind"), [(socket.AF_UNIX, socket.SOCK_DGRAM), (socket.AF_INET, socket.SOCK_STREAM)]
)
def test_other_sockets_are_refused_and_closed(family, kind):
    descriptor = socket.socket(family, kind).detach()
    with pytest.raises(ChannelClosed, match="not a Unix stream socket"):
        SocketTransport().open(Endpoint("socket", (descriptor,)))
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


def test_a_foreign_endpoint_is_refused_with_a_remedy():
    with pytest.raises(ChannelClosed, match="transport that it names"):
        SocketTransport().open(Endpoint("shm", ()))
    with pytest.raises(ChannelClosed, match="cannot be opened"):
        SocketTransport().open(Endpoint("socket", (-1,)))


@pytest.mark.parametrize("bound", [-1, 2**32])
def test_a_bound_that_the_frame_cannot_carry_is_refused(bound):
    with pytest.raises(ValueError, match="max_message_bytes"):
        SocketTransport(max_message_bytes=bound)


def test_messages_are_writable_and_not_shared(channels):
    first, second = channels
    first.send([b"one"])
    first.send([b"two"])
    one, two = second.receive(), second.receive()
    one[:] = b"!!!"
    assert two == b"two"


def test_a_default_timeout_of_the_program_changes_nothing(channels):
    socket.setdefaulttimeout(0.01)
    try:
        transport = SocketTransport()
        first, second = map(transport.open, transport.pair())
    finally:
        socket.setdefaulttimeout(None)
    with contextlib.closing(first), contextlib.closing(second):
        answer = threading.Timer(0.1, first.send, ([b"late"],))
        answer.start()
        assert second.receive() == b"late"
        answer.join()


def test_o_nonblock_set_by_others_changes_nothing():
    transport = SocketTransport()
    here, there = transport.pair()
    for endpoint in (here, there):
        flags = fcntl.fcntl(endpoint.descriptors[0], fcntl.F_GETFL)
        assert not flags & os.O_NONBLOCK
    first, second = transport.open(here), transport.open(there)
    with contextlib.closing(first), contextlib.closing(second):
        for endpoint in (here, there):
            fcntl.fcntl(endpoint.descriptors[0], fcntl.F_SETFL, os.O_NONBLOCK | os.O_RDWR)
        sender = threading.Thread(target=first.send, args=([bytes(4_000_000)],))
        sender.start()
        assert len(second.receive()) == 4_000_000
        sender.join()


def test_asyncio_can_watch_it(channels):
    first, second = channels

    async def main():
        loop = asyncio.get_running_loop()
        got, done = [], asyncio.Event()

        def readable():
            got.append(bytes(second.receive(timeout_s=0)))
            if len(got) == 3:
                done.set()

        loop.add_reader(second.fileno(), readable)
        try:
            for number in range(3):
                first.send([bytes((number,))])
            await asyncio.wait_for(done.wait(), 5)
        finally:
            loop.remove_reader(second.fileno())
        return got

    assert asyncio.run(main()) == [b"\0", b"\1", b"\2"]


def test_the_descriptor_of_a_closed_channel_is_not_given_out(channels):
    first, _ = channels
    first.close()
    with pytest.raises(ChannelClosed, match="this side"):
        first.fileno()
    assert "closed by this side" in repr(first)


def test_interrupts_never_break_the_framing(channels):
    """Ctrl-C, as fast as it can come, in the middle of receive: messages may go, but none is ever damaged."""
    first, second = channels

    class Interrupt(BaseException):
        pass

    def interrupt(signum, frame):
        raise Interrupt

    def stream():
        number = 0
        with contextlib.suppress(ChannelClosed):
            while True:
                first.send([number.to_bytes(4, "little"), bytes((number % 251,)) * (number * 7919 % 50_000)])
                number += 1

    thread = threading.Thread(target=stream)
    thread.start()
    previous = signal.signal(signal.SIGALRM, interrupt)
    interrupts, last = 0, -1

    def receive_next():
        nonlocal last
        message = second.receive(timeout_s=timeouts[interrupts % 2])
        number = int.from_bytes(message[:4], "little")
        assert number > last
        assert bytes(message[4:]) == bytes((number % 251,)) * (number * 7919 % 50_000)
        last = number

    timeouts = (None, 5.0)
    try:
        while interrupts < 300:
            try:
                signal.setitimer(signal.ITIMER_REAL, 0.0002)
                while True:
                    receive_next()
            except Interrupt:
                interrupts += 1
        timeouts = (5.0, 5.0)
        for _ in range(20):  # no lock stayed behind
            receive_next()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
        second.close()
        thread.join(5)


def test_an_interrupted_send_is_whole_or_ends_the_channel():
    class Interrupt(BaseException):
        pass

    def interrupt(signum, frame):
        raise Interrupt

    transport = SocketTransport()
    previous = signal.signal(signal.SIGALRM, interrupt)
    endings = set()
    try:
        for attempt in range(60):
            first, second = map(transport.open, transport.pair())
            received = []

            def receive(channel=second, received=received):
                with contextlib.suppress(ChannelClosed):
                    while True:
                        received.append(bytes(channel.receive()))

            thread = threading.Thread(target=receive)
            thread.start()
            try:
                signal.setitimer(signal.ITIMER_REAL, 0.0005 + attempt * 0.00001)
                while True:
                    first.send([b"x" * 1_000_000])
            except Interrupt:
                endings.add(first.closed)
            if not first.closed:
                # an interrupt may strike while the channel is being ended: the next send finishes that, and says so
                with contextlib.suppress(ChannelClosed):
                    first.send([b"x" * 1_000_000], deadline_ns=time.monotonic_ns() + 5 * 10**9)
            first.close()
            thread.join(5)
            second.close()
            assert all(message == b"x" * 1_000_000 for message in received)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
    assert endings


def test_a_dead_peer_raises_no_signal_even_where_sigpipe_kills():
    script = """
import signal
from shardwright.errors import ChannelClosed
from shardwright.transport.socket import SocketTransport
signal.signal(signal.SIGPIPE, signal.SIG_DFL)
transport = SocketTransport()
here, there = transport.pair()
transport.dispose(there)
channel = transport.open(here)
for message in ([b"small"], [bytes(1_000_000), b"large"]):
    try:
        channel.send(message)
    except ChannelClosed:
        print("closed")
channel.close()
"""
    assert _run(script).split() == ["closed", "closed"]


def test_closing_in_a_forked_child_leaves_the_conversation_alone():
    script = """
import os
from shardwright.transport.socket import SocketTransport
transport = SocketTransport()
first, second = map(transport.open, transport.pair())
child = os.fork()
if child == 0:
    first.close()
    second.close()
    assert first.closed
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
first.send([b"still here"])
print(bytes(second.receive(timeout_s=5)).decode())
first.close()
second.close()
"""
    assert _run(script).strip() == "still here"

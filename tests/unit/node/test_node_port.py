"""The node's end of a guest: events in order, violations end it, nothing it sends or leaves lying fills the node."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest

from shardwright.errors import ProtocolViolation
from shardwright.guest import (
    HEADER,
    VERSION,
    Bind,
    Bound,
    Failed,
    Finished,
    Forked,
    Hello,
    Note,
    Ready,
    Unbind,
    decode_from_guest,
    frame,
)
from shardwright.model.endpoint import Endpoint, Peer
from shardwright.model.ids import ComponentName, ShardId
from shardwright.node._frames import control_pair
from shardwright.node._port import (
    MANY_WAITING_DESCRIPTORS,
    MAX_UNHEARD,
    MAX_WAITING_DESCRIPTORS,
    GuestPort,
)


class Events:
    def __init__(self) -> None:
        self.seen: list[Any] = []
        self.gone: list[str] = []

    def on_bind(self, port: Any, message: Bind) -> None:
        self.seen.append(message)

    def on_unbind(self, port: Any, message: Unbind) -> None:
        self.seen.append(message)

    def on_finished(self, port: Any, message: Finished) -> None:
        self.seen.append(message)

    def on_note(self, port: Any, message: Note) -> None:
        self.seen.append(message)

    def on_gone(self, port: Any, reason: str) -> None:
        self.gone.append(reason)


def talk(conversation: Callable[[GuestPort, socket.socket, Events], Awaitable[None]]) -> None:
    """Run a conversation between a port and the bare socket of its guest."""

    async def run() -> None:
        ours, theirs = control_pair()
        port = GuestPort(ShardId("web-00000001"), ComponentName("web"), ours)
        with theirs:
            try:
                async with asyncio.timeout(20):
                    await conversation(port, theirs, Events())
            finally:
                port.close("the test is over")

    asyncio.run(run())


async def until(holds: Callable[[], bool]) -> None:
    while not holds():
        await asyncio.sleep(0.001)


def test_what_came_before_attach_is_heard_first() -> None:
    async def conversation(port: GuestPort, guest: socket.socket, events: Events) -> None:
        guest.sendall(frame(Hello(VERSION)) + frame(Ready(0.5)) + frame(Bind(1, "bank", 0)) + frame(Note("a", "b")))
        assert isinstance(await port.next_message(), Hello)
        assert port.pid == os.getpid()
        assert isinstance(await port.next_message(), Ready)
        await until(lambda: port._inbox.qsize() == 2)
        port.attach(events)
        guest.sendall(frame(Unbind("bank", "x")) + frame(Finished(0)))
        await until(lambda: len(events.seen) == 4)
        assert [type(m) for m in events.seen] == [Bind, Note, Unbind, Finished]
        guest.close()
        await until(lambda: bool(events.gone))
        assert events.gone == ["it ended"] and not port.alive()

    talk(conversation)


WRONG = {
    "another's message": frame(Bound(1)),
    "out of turn": frame(Ready(0.1)),
    "no message": HEADER.pack(1, 0) + b"\xc1",
    "an unknown message": HEADER.pack(10, 0) + msgspec.msgpack.encode({"t": "magic"})[:10].ljust(10),
    "a wrong type": frame(Note("a", "b")).replace(b"\xa1b", b"\x01\x01"),
    "a huge length": HEADER.pack(2**31, 0),
    "descriptors": HEADER.pack(0, 3),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_violation_ends_the_conversation_and_is_told_once(what: str) -> None:
    async def conversation(port: GuestPort, guest: socket.socket, events: Events) -> None:
        port.attach(events)
        guest.sendall(WRONG[what] + frame(Note("after", "it")) * 3)
        await until(lambda: bool(events.gone))
        assert "broke the control protocol" in events.gone[0] or "out of turn" in events.gone[0]
        assert not [m for m in events.seen if isinstance(m, Note)]
        port.close("again")
        assert len(events.gone) == 1

    talk(conversation)


def test_a_guest_that_talks_to_nobody_is_stopped() -> None:
    async def conversation(port: GuestPort, guest: socket.socket, events: Events) -> None:
        flood = frame(Forked("x")) * 100
        guest.setblocking(False)
        while not port.closed:
            try:
                guest.send(flood)
            except (BlockingIOError, BrokenPipeError, ConnectionResetError):
                pass
            await asyncio.sleep(0)
        assert "more messages than anybody asked for" in port.closed
        assert port._inbox.qsize() <= MAX_UNHEARD + 2

    talk(conversation)


def test_a_guest_that_does_not_read_holds_few_descriptors_and_none_leak() -> None:
    async def conversation(port: GuestPort, guest: socket.socket, events: Events) -> None:
        port.attach(events)
        before = len(os.listdir("/proc/self/fd"))
        peer = Peer(ComponentName("bank"), ShardId("bank-00000001"))
        most = 0
        for _ in range(5 * MAX_WAITING_DESCRIPTORS):
            port.accept(peer, Endpoint("socket", (os.open("/dev/null", os.O_RDONLY),)))
            most = max(most, len(os.listdir("/proc/self/fd")) - before) if port._waiting_descriptors % 64 == 0 else most
        assert "does not read" in port.closed
        assert most <= MAX_WAITING_DESCRIPTORS + 64
        guest.close()
        assert len(os.listdir("/proc/self/fd")) <= before
        assert events.gone == [port.closed]

    talk(conversation)


def test_a_guest_that_reads_slowly_gets_everything() -> None:
    async def conversation(port: GuestPort, guest: socket.socket, events: Events) -> None:
        port.attach(events)
        for number in range(2000):
            port.bound(Bound(number, "x" * 1000))

        def read() -> int:
            data = bytearray()
            count = 0
            while count < 2000:
                data += guest.recv(1000)
                while len(data) >= HEADER.size and len(data) >= HEADER.size + HEADER.unpack_from(data)[0]:
                    size = HEADER.size + HEADER.unpack_from(data)[0]
                    assert msgspec.msgpack.decode(data[HEADER.size : size])["request"] == count
                    del data[:size]
                    count += 1
            return count

        assert await asyncio.get_running_loop().run_in_executor(None, read) == 2000
        assert port._unread == 0 and not port._outbox

    talk(conversation)


def test_what_a_guest_sends_is_checked_to_the_last_field() -> None:
    for message in (
        Bind(1, "a", 2, "k", "s"),
        Note("a", "b"),
        Failed("m", "t"),
        Ready(1.0, False, "r"),
        Finished(3, "t"),
    ):
        assert decode_from_guest(frame(message)[HEADER.size :]) == message
    for body in (b"", b"\xc0", b"\x80", b"\x91" * 5000, frame(Bind(1, "a", 2))[HEADER.size : -1]):
        with pytest.raises(ProtocolViolation):
            decode_from_guest(body)


@pytest.mark.parametrize("unread", [MANY_WAITING_DESCRIPTORS - 1, MANY_WAITING_DESCRIPTORS])
def test_who_leaves_many_descriptors_unread_is_cut_off_when_they_run_out(unread: int) -> None:
    async def conversation(port: GuestPort, guest: socket.socket, events: Events) -> None:
        while not port._waiting_descriptors:  # the socket takes some hundreds
            port.send(Bound(1), (os.dup(0),))
        while port._waiting_descriptors < unread:
            port.send(Bound(1), (os.dup(0),))
        port.stop_hoarding()
        assert bool(port.closed) == (unread >= MANY_WAITING_DESCRIPTORS)
        assert "does not read its control messages" in port.closed or not port.closed

    before = len(os.listdir("/proc/self/fd"))
    talk(conversation)
    assert len(os.listdir("/proc/self/fd")) == before

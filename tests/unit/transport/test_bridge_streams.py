"""Streams through two bridges: descriptors become streams, each has its own credit, and ends are told at once."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from shardwright.transport.bridge import Bridge

WINDOW = 8192
PATIENCE_S = 20.0


class Crossed:
    """Two bridges in threads of this process; ``hand`` passes a descriptor over, and gives what it is over there."""

    def __init__(self, **how: float) -> None:
        self.between = socket.socketpair()
        self.near, first = socket.socketpair()
        self._hand, hand = socket.socketpair()
        for each in (self.near, self._hand):
            each.settimeout(PATIENCE_S)
        self.ended: dict[int, str] = {}
        self._pairs: list[tuple[socket.socket, socket.socket]] = []

        def arrived(descriptor: int) -> None:
            socket.send_fds(hand, [b"+"], [descriptor])
            os.close(descriptor)
            hand.close()

        near, far = (os.dup(each.fileno()) for each in self.between)
        for each in self.between:
            each.close()
        self.bridges = (
            Bridge(near, first=first.detach(), window=WINDOW, **how),  # type: ignore[arg-type]
            Bridge(far, arrived=arrived, window=WINDOW, **how),  # type: ignore[arg-type]
        )
        self.threads = [threading.Thread(target=self._run, args=(side,)) for side in (0, 1)]
        for thread in self.threads:
            thread.start()
        _, found, _, _ = socket.recv_fds(self._hand, 1, 1)
        self.far = socket.socket(fileno=found[0])
        self.far.settimeout(PATIENCE_S)

    def _run(self, side: int) -> None:
        self.ended[side] = self.bridges[side].run()

    def hand(self, *descriptors: int) -> list[int]:
        socket.send_fds(self.near, [b"+"], descriptors)
        for descriptor in descriptors:
            os.close(descriptor)
        data, found, _, _ = socket.recv_fds(self.far, 1, len(descriptors))
        assert data == b"+" and len(found) == len(descriptors)
        return found

    def pair(self) -> tuple[socket.socket, socket.socket]:
        """Both ends of a stream."""
        ours, theirs = socket.socketpair()
        (there,) = self.hand(theirs.detach())
        found = ours, socket.socket(fileno=there)
        for each in found:
            each.settimeout(PATIENCE_S)
        self._pairs.append(found)
        return found

    def close(self) -> None:
        for pair in self._pairs:  # of a test that failed: the next one is not to be told of them
            for each in pair:
                each.close()
        self.near.close()
        self.far.close()
        self._hand.close()
        for bridge in self.bridges:
            try:
                with socket.socket(fileno=os.dup(bridge._bytes)) as ended:
                    ended.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        for thread in self.threads:
            thread.join(PATIENCE_S)
            assert not thread.is_alive()


@pytest.fixture
def crossed() -> Iterator[Crossed]:
    made = Crossed()
    try:
        yield made
    finally:
        made.close()


def _all(sock: socket.socket) -> bytes:
    found = b""
    while piece := sock.recv(65536):
        found += piece
    return found


def _soon(true: Callable[[], bool]) -> None:
    """An end is told by one side and heeded by the other when it comes to it, after our own ``close`` returned."""
    until = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < until
        time.sleep(0.002)


def test_many_descriptors_become_streams_and_leave_nothing(crossed: Crossed) -> None:
    for end in crossed.pair():
        end.close()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        ends = [crossed.pair() for _ in range(5)]
        for number, (here, there) in enumerate(ends):
            here.sendall(bytes([number]) * 3000)
            there.sendall(bytes([number + 100]) * 3000)
        for number, (here, there) in enumerate(ends):
            here.shutdown(socket.SHUT_WR)
            assert _all(there) == bytes([number]) * 3000
            here.close()
            there.close()
    _soon(lambda: [each.streams for each in crossed.bridges] == [1, 1])
    assert len(os.listdir("/proc/self/fd")) <= before


def test_a_stream_that_nobody_reads_holds_up_no_other_and_is_not_buffered(crossed: Crossed) -> None:
    slow, unread = crossed.pair()
    slow.setblocking(False)
    taken = 0
    quick, other = crossed.pair()
    for number in range(200):  # the slow one is full long before the end
        try:
            taken += slow.send(bytes(20_000))
        except BlockingIOError:
            pass
        quick.sendall(b"%03d" % number)
        assert other.recv(3, socket.MSG_WAITALL) == b"%03d" % number
    room = sum(each.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) for each in (slow, unread))
    assert 20_000 < taken <= room + 2 * WINDOW, "no more than two sockets and a window hold"
    slow.shutdown(socket.SHUT_WR)
    assert len(_all(unread)) == taken, "and all of it comes, once somebody reads"
    for each in (slow, unread, quick, other):
        each.close()


@pytest.mark.parametrize("side", [0, 1])
def test_what_was_sent_before_an_end_arrives_and_the_other_side_cannot_send_any_more(
    crossed: Crossed, side: int
) -> None:
    ends = crossed.pair()
    dead, alive = ends[side], ends[1 - side]
    dead.sendall(b"x" * 50_000)  # more than a window
    alive.setblocking(False)
    with pytest.raises(BlockingIOError):
        while True:
            alive.send(bytes(10_000))
    alive.settimeout(PATIENCE_S)
    dead.close()
    with pytest.raises(BrokenPipeError):
        while True:
            alive.send(b"y")
    assert _all(alive) == b"x" * 50_000
    alive.close()


def test_pipes_have_one_direction_and_both_kinds_of_end(crossed: Crossed) -> None:
    output, theirs = os.pipe()
    source, ours = os.pipe()
    inside = crossed.hand(theirs, source)
    os.write(ours, b"input")
    os.close(ours)
    with open(inside[1], "rb") as file:
        assert file.read() == b"input"
    os.write(inside[0], b"output")
    assert os.read(output, 100) == b"output"
    os.close(output)
    with pytest.raises(BrokenPipeError):
        while True:
            os.write(inside[0], b"nobody reads")
    os.close(inside[0])


def test_files_and_what_cannot_cross(crossed: Crossed, tmp_path) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "file"
    path.write_bytes(b"z" * 100_000)
    datagrams = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    inside = crossed.hand(
        os.open(path, os.O_RDONLY), os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT), datagrams.detach()
    )
    with open(inside[0], "rb") as file:
        assert file.read() == b"z" * 100_000
    os.write(inside[1], b"written")
    os.close(inside[1])
    _soon(lambda: (tmp_path / "log").read_bytes() == b"written")
    with pytest.raises(BrokenPipeError):
        while True:
            os.write(inside[2], b"nobody is there")
    os.close(inside[2])


def test_descriptors_are_carried_no_further_than_the_node_passes_them(crossed: Crossed) -> None:
    control, inner = crossed.pair()
    ours, theirs = socket.socketpair()
    socket.send_fds(control, [b"+"], [theirs.fileno()])  # as the node does, over a shard's control socket
    theirs.close()
    data, found, _, _ = socket.recv_fds(inner, 1, 4)
    assert data == b"+" and len(found) == 1
    link = socket.socket(fileno=found[0])
    stray, other = socket.socketpair()
    socket.send_fds(ours, [b"!"], [other.fileno()])  # as a hostile peer might
    other.close()
    data, found, _, _ = socket.recv_fds(link, 1, 4)
    assert data == b"!" and not found
    socket.send_fds(inner, [b"?"], [link.fileno()])  # as a hostile guest might
    data, found, _, _ = socket.recv_fds(control, 1, 4)
    assert data == b"?" and not found
    assert stray.recv(1) == b"", "the kernel has closed it"
    for each in (control, inner, ours, link, stray):
        each.close()


def test_when_the_other_side_falls_silent_all_streams_end() -> None:
    made = Crossed(keep_alive_s=0.1)
    try:
        here, there = made.pair()
        far = made.bridges[1]
        here.sendall(b"alive")
        assert there.recv(5, socket.MSG_WAITALL) == b"alive"
        threading.Event().wait(0.6)  # more than is allowed, and nothing to say but that
        here.sendall(b"still")
        assert there.recv(5, socket.MSG_WAITALL) == b"still"
        far._send = lambda data: None  # type: ignore[method-assign]  # it hears, and says nothing any more
        assert here.recv(1) == b""
        made.threads[0].join(PATIENCE_S)
        assert "silent for too long" in made.ended[0]
        here.close()
        there.close()
    finally:
        made.close()

"""Frames of the control protocol: whole or refused, and descriptors never leak."""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Iterator

import pytest

from shardwright.errors import ProtocolViolation
from shardwright.guest import HEADER
from shardwright.node._frames import FrameReader


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with ours, theirs:
        yield ours, theirs


def frame(body: bytes, count: int = 0) -> bytes:
    return HEADER.pack(len(body), count) + body


def test_frames_come_whole_however_they_are_cut(ends: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = ends
    chance = random.Random(4)
    bodies = [bytes(chance.randrange(256) for _ in range(chance.choice([0, 1, 7, 300]))) for _ in range(60)]
    wire = b"".join(map(frame, bodies))
    reader = FrameReader(ours, limit=1000, descriptors=False)
    got: list[bytes] = []
    while wire:
        cut = chance.randrange(1, 200)
        theirs.send(wire[:cut])
        wire = wire[cut:]
        assert reader.gulp()
        got += [body for body, _ in reader.frames()]
    assert got == bodies
    theirs.close()
    assert not reader.gulp()


def test_nothing_to_read_is_said(ends: tuple[socket.socket, socket.socket]) -> None:
    with pytest.raises(BlockingIOError):
        FrameReader(ends[0], limit=10, descriptors=False).gulp()


@pytest.mark.parametrize("wire", [frame(b"x" * 11), HEADER.pack(2**32 - 1, 0), frame(b"x", 1), frame(b"", 65535)])
def test_a_frame_that_lies_is_refused_before_its_body_is_there(
    ends: tuple[socket.socket, socket.socket], wire: bytes
) -> None:
    reader = FrameReader(ends[0], limit=10, descriptors=False)
    ends[1].send(wire)
    reader.gulp()
    with pytest.raises(ProtocolViolation):
        reader.frames()


def test_descriptors_that_nobody_wants_are_closed(ends: tuple[socket.socket, socket.socket]) -> None:
    reader = FrameReader(ends[0], limit=10, descriptors=False)
    read, write = os.pipe()
    socket.send_fds(ends[1], [frame(b"a")], [read] * 20)
    os.close(read)
    assert reader.gulp() and reader.frames() == [(b"a", [])]
    with pytest.raises(BrokenPipeError):
        os.write(write, b"x")
    os.close(write)


def test_descriptors_go_with_their_frames_and_what_is_left_is_closed(ends: tuple[socket.socket, socket.socket]) -> None:
    reader = FrameReader(ends[0], limit=10, descriptors=True)
    pipes = [os.pipe() for _ in range(3)]
    socket.send_fds(ends[1], [frame(b"a", 1) + frame(b"b") + frame(b"c", 1)], [read for read, _ in pipes])
    for read, _ in pipes:
        os.close(read)
    reader.gulp()
    (_, one), (_, none), (_, other) = reader.frames()
    assert len(one) == len(other) == 1 and none == []
    for descriptor, (_, write) in ((one[0], pipes[0]), (other[0], pipes[1])):
        os.write(write, b"hello")
        assert os.read(descriptor, 9) == b"hello"
        os.close(descriptor)
    reader.close()  # the third was never announced
    with pytest.raises(BrokenPipeError):
        os.write(pipes[2][1], b"x")
    for _, write in pipes:
        os.close(write)


def test_the_kernel_says_who_speaks(ends: tuple[socket.socket, socket.socket]) -> None:
    ends[0].setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    reader = FrameReader(ends[0], limit=10, descriptors=False)
    ends[1].send(frame(b"a"))
    reader.gulp()
    assert reader.pid == os.getpid()

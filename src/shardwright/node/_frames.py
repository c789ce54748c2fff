"""Frames with descriptors over a Unix stream socket: ``u32 length, u16 descriptors``, body (see ``guest._control``)."""

from __future__ import annotations

import array
import contextlib
import errno
import os
import socket
from collections import deque
from collections.abc import Sequence

from shardwright.errors import ProtocolViolation
from shardwright.guest import HEADER

_MAX_DESCRIPTORS = 32
AGAIN_S = 0.05
TOO_MANY_PASSED = "end the process of this user that leaves many descriptors unread in sockets, or raise `ulimit -n`"
# What the kernel has too little of at the moment; the peer is there. The first is a limit of the whole user, which a
# shard may use up when it runs as the node's.
_SCARCE = frozenset({errno.ETOOMANYREFS, errno.ENOBUFS, errno.ENOMEM, errno.EMFILE, errno.ENFILE})


def control_pair() -> tuple[socket.socket, socket.socket]:
    """The node's and the guest's end; the kernel tells the node who speaks."""
    ours, theirs = socket.socketpair()
    with contextlib.suppress(OSError):
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    return ours, theirs


def scarce(error: OSError) -> bool:
    """Whether sending failed for want of something, and says nothing of the peer. Nothing was sent."""
    return error.errno in _SCARCE


def send_with(sock: socket.socket, data: bytes | memoryview, descriptors: Sequence[int]) -> int:
    """Send as much of ``data`` as goes, the descriptors with its first byte; how much. A peer that is gone is an error,
    and no signal: the node lives in other people's processes."""
    ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
    return sock.sendmsg([data], ancillary, socket.MSG_NOSIGNAL)


class FrameReader:
    """Takes frames out of a non-blocking or blocking socket; never reads more than one gulp at a time.

    ``descriptors`` False: any that come are closed (a guest has none to give). ``limit`` bounds a frame.
    """

    def __init__(self, sock: socket.socket, *, limit: int, descriptors: bool) -> None:
        self._socket = sock
        self._limit = limit
        self._wants = descriptors
        self._buffer = bytearray()
        self._received: deque[int] = deque()
        self._truncated = False  # descriptors did not arrive
        self.pid: int | None = None  # of the latest sender, vouched for by the kernel where SO_PASSCRED is set

    def gulp(self) -> bool:
        """Read once. False at the end. Raises BlockingIOError when there is nothing."""
        space = socket.CMSG_SPACE(12) + socket.CMSG_SPACE(4 * _MAX_DESCRIPTORS)
        chunk, ancillary, flags, _ = self._socket.recvmsg(65536, space, socket.MSG_CMSG_CLOEXEC)
        for level, kind, value in ancillary:
            if level != socket.SOL_SOCKET:
                continue
            if kind == socket.SCM_RIGHTS:
                count = len(value) // 4
                for index in range(count):
                    descriptor = int.from_bytes(value[4 * index : 4 * index + 4], "little")
                    if self._wants:
                        self._received.append(descriptor)
                    else:
                        os.close(descriptor)
            elif kind == socket.SCM_CREDENTIALS:
                self.pid = int.from_bytes(value[:4], "little")
        if flags & socket.MSG_CTRUNC and self._wants:
            self._truncated = True
            while self._received:
                os.close(self._received.popleft())
        self._buffer += chunk
        return bool(chunk)

    def frames(self) -> list[tuple[bytes, list[int]]]:
        """All whole frames so far. Raises ProtocolViolation. A frame whose descriptors found no room comes without any."""
        found: list[tuple[bytes, list[int]]] = []
        while len(self._buffer) >= HEADER.size:
            length, count = HEADER.unpack_from(self._buffer)
            if length > self._limit:
                raise ProtocolViolation(f"a control frame of {length} bytes; {self._limit} are permitted")
            if len(self._buffer) < HEADER.size + length:
                break
            body = bytes(self._buffer[HEADER.size : HEADER.size + length])
            del self._buffer[: HEADER.size + length]
            if count and self._truncated:  # this process has no room for them: not the sender's fault
                self._truncated = False
                found.append((body, []))
                continue
            if count > (len(self._received) if self._wants else 0):
                raise ProtocolViolation("descriptors that were announced did not come")
            found.append((body, [self._received.popleft() for _ in range(count)]))
        return found

    def close(self) -> None:
        while self._received:
            os.close(self._received.popleft())

"""The local end of a stream: a Unix stream socket, or one end of a pipe, read and written without ever waiting.

O_NONBLOCK belongs to the description, which others may hold too: sockets are asked with MSG_DONTWAIT; a pipe is read when it
polls readable, and written at most 4 KiB at a time when it polls writable, which does not block (pipe(7)).
"""

from __future__ import annotations

import array
import contextlib
import fcntl
import os
import select
import socket
import stat

from shardwright.transport.bridge._frames import MOST_CARRIED, Shape

_NONE_WAITS = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL
_RIGHTS = socket.CMSG_SPACE(MOST_CARRIED * array.array("i").itemsize)
_PIPE_BYTES = 4096


class LocalEnd:
    """What a bridge reads from and writes to for one stream. It owns its descriptor.

    ``carries``: descriptors that come with data are taken, and travel on; else the kernel discards them.
    """

    __slots__ = ("_socket", "carries", "descriptor", "reads", "writes")

    def __init__(self, descriptor: int, *, reads: bool, writes: bool, carries: bool = False) -> None:
        self.descriptor = descriptor
        self.reads = reads
        self.writes = writes
        self.carries = carries
        self._socket = socket.socket(fileno=descriptor) if reads and writes else None

    def read(self, most: int) -> tuple[bytes, list[int]]:
        """What is there, and the descriptors that came with it; nothing at its end. Raises BlockingIOError, OSError."""
        if self._socket is None:
            if not select.select([self.descriptor], [], [], 0)[0]:
                raise BlockingIOError
            return os.read(self.descriptor, most), []
        if not self.carries:
            return self._socket.recv(most, socket.MSG_DONTWAIT), []
        data, rights, _, _ = self._socket.recvmsg(most, _RIGHTS, socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC)
        found = array.array("i")
        for level, kind, raw in rights:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                found.frombytes(raw[: len(raw) - len(raw) % found.itemsize])
        return data, list(found)

    def write(self, data: memoryview, descriptors: list[int]) -> int:
        """How much of it went; ``descriptors`` go with its first byte. Raises BlockingIOError, OSError."""
        if self._socket is None:
            if not select.select([], [self.descriptor], [], 0)[1]:
                raise BlockingIOError
            return os.write(self.descriptor, data[:_PIPE_BYTES])
        if descriptors:
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))]
            return self._socket.sendmsg((data,), rights, _NONE_WAITS)
        return self._socket.send(data, _NONE_WAITS)

    def refuse(self) -> None:
        """Nobody reads what is written at the other end any more: who waits there is told."""
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RD)
                while self._socket.recv(2**16, socket.MSG_DONTWAIT):
                    pass  # what was written already; making room wakes who waits for it

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
        else:
            os.close(self.descriptor)


def near_end(descriptor: int, *, carries: bool) -> tuple[LocalEnd, Shape] | None:
    """The node's side of a descriptor that is to reach into the guest; None for what cannot. Uses it up."""
    kind = os.fstat(descriptor).st_mode
    if stat.S_ISSOCK(kind):
        looked = socket.socket(fileno=descriptor)
        fits = looked.family == socket.AF_UNIX and looked.type == socket.SOCK_STREAM
        looked.detach()
        if fits:
            return LocalEnd(descriptor, reads=True, writes=True, carries=carries), Shape.SOCKET
    elif (mode := fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE) == os.O_RDONLY:
        return LocalEnd(descriptor, reads=True, writes=False), Shape.TO_GUEST
    elif mode == os.O_WRONLY or stat.S_ISCHR(kind):  # of a terminal, what is shown
        return LocalEnd(descriptor, reads=False, writes=True), Shape.FROM_GUEST
    os.close(descriptor)
    return None


def far_end(shape: Shape) -> tuple[LocalEnd, int]:
    """The guest's side: what the bridge keeps, and the descriptor that the program there will hold. Raises OSError."""
    if shape is Shape.SOCKET:
        ours, theirs = socket.socketpair()
        return LocalEnd(ours.detach(), reads=True, writes=True), theirs.detach()
    reader, writer = os.pipe2(os.O_CLOEXEC)
    if shape is Shape.FROM_GUEST:
        return LocalEnd(reader, reads=True, writes=False), writer
    return LocalEnd(writer, reads=False, writes=True), reader

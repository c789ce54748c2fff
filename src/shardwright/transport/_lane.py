"""DescriptorLane: how descriptors travel beside the messages of a channel, whatever carries these.

It is a Unix socket of packets of its own. A packet is a serial number with one descriptor; the message that needs it names
the serial and is sent after it, so that it is there when the message is read. A lane never makes anybody wait: where it is
full, the sender sends its bytes in the message instead.
"""

from __future__ import annotations

import array
import contextlib
import os
import socket
import struct
import threading

from shardwright.contracts.transport import Lane
from shardwright.errors import ProtocolViolation

__all__ = ["DescriptorLane", "lane_pair"]

_SERIAL = struct.Struct("<I")
_MOST_WAITING = 64  # descriptors that came and that no message asked for yet
_SERIALS = 1 << 31
_ONE = socket.CMSG_SPACE(array.array("i").itemsize)


class DescriptorLane(Lane):
    """One end of a lane; it owns its socket. Any thread."""

    def __init__(self, descriptor: int) -> None:
        """Uses the descriptor up. Raises OSError when it is no socket."""
        try:
            self._socket = socket.socket(fileno=descriptor)
        except OSError:
            with contextlib.suppress(OSError):
                os.close(descriptor)
            raise
        self._sending = threading.Lock()
        self._taking = threading.Lock()
        self._last = 0
        self._waiting: dict[int, int] = {}

    def offer(self, descriptor: int) -> int | None:
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", (descriptor,)))]
        with self._sending:
            serial = self._last = (self._last + 1) % _SERIALS
            try:
                self._socket.sendmsg((_SERIAL.pack(serial),), rights, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
            except OSError:  # full, or the peer is gone: the channel itself will say that
                return None
        return serial

    def claim(self, serial: int) -> int:
        with self._taking:
            while (descriptor := self._waiting.pop(serial, None)) is None:
                came = self._receive()
                if came is None:
                    raise ProtocolViolation(f"a message names descriptor {serial}, which did not come")
                number, descriptor = came
                if number == serial:
                    return descriptor
                self._keep(number, descriptor)
            return descriptor

    def _keep(self, serial: int, descriptor: int) -> None:
        """For a message that is still to come. One that could not be sent never comes, so the oldest are given up."""
        replaced = self._waiting.pop(serial, None)
        if replaced is None and len(self._waiting) >= _MOST_WAITING:
            replaced = self._waiting.pop(next(iter(self._waiting)))
        if replaced is not None:
            os.close(replaced)
        self._waiting[serial] = descriptor

    def _receive(self) -> tuple[int, int] | None:
        """The next packet's serial and descriptor. What else a peer attaches, the kernel drops."""
        flags = socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC
        try:
            raw, rights, _, _ = self._socket.recvmsg(_SERIAL.size + 1, _ONE, flags)
        except OSError:
            return None
        found = array.array("i")
        for level, kind, data in rights:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                found.frombytes(data[: len(data) - len(data) % found.itemsize])
        if not raw and not found:
            return None
        if len(raw) != _SERIAL.size or len(found) != 1:
            for descriptor in found:
                os.close(descriptor)
            raise ProtocolViolation("a packet that is not one serial number with one descriptor")
        return _SERIAL.unpack(raw)[0], found[0]

    def close(self) -> None:
        """Idempotent. Descriptors that no message asked for are closed too."""
        with self._sending, self._taking:
            self._socket.close()
            for descriptor in self._waiting.values():
                os.close(descriptor)
            self._waiting.clear()


def lane_pair() -> tuple[int, int]:
    """The descriptors of two connected lanes."""
    first, second = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    return first.detach(), second.detach()

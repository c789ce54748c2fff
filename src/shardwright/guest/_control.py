"""The framing of the control conversation between the node and what runs inside a wall.

A frame is ``u32 length, u16 descriptors`` and a msgpack body; descriptors travel by SCM_RIGHTS with the first byte of
their frame. Only the node sends descriptors; any that a guest sends are closed unread. Every message (``_control_messages``)
is typed and checked on arrival, so that a lying guest is found out by the parser: it gets ProtocolViolation, never code.
"""

from __future__ import annotations

import array
import os
import select
import socket
import struct
import threading
from collections import deque
from typing import Any

import msgspec

from shardwright.errors import ChannelClosed, ProtocolViolation
from shardwright.guest._control_messages import FromGuest, FromNode
from shardwright.guest._testing import Patch, Patched

HEADER = struct.Struct("<IH")
MAX_FROM_GUEST = 256 * 1024
MAX_FROM_NODE = 256 * 1024 * 1024
_MAX_DESCRIPTORS = 32
_SPACE = socket.CMSG_LEN(4 * _MAX_DESCRIPTORS)

_encoder = msgspec.msgpack.Encoder()
_from_node: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder(FromNode | Patch)
_from_guest: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder(FromGuest | Patched)
VERSION = 1


def frame(message: Any, descriptors: int = 0) -> bytes:
    """The bytes of one message."""
    body = _encoder.encode(message)
    return HEADER.pack(len(body), descriptors) + body


def decode_from_guest(body: bytes | memoryview) -> Any:
    """Raises ProtocolViolation."""
    try:
        return _from_guest.decode(body)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:  # ValueError: text that is no UTF-8
        raise ProtocolViolation(f"the guest sent a message that the control protocol forbids: {error!s:.300}") from None


class ControlSocket:
    """The guest's blocking end. ``send`` from any thread; ``receive`` from one."""

    def __init__(self, descriptor: int) -> None:
        self._socket = socket.socket(fileno=descriptor)
        self._socket.setblocking(True)
        self._buffer = bytearray()
        self._descriptors: deque[int] = deque()
        self._mutex = threading.Lock()

    def fileno(self) -> int:
        return self._socket.fileno()

    def send(self, message: Any) -> None:
        """Raises ChannelClosed."""
        try:
            with self._mutex:
                self._socket.sendall(frame(message))
        except OSError as error:
            raise ChannelClosed(f"the node is gone: {error}") from None

    def receive(self) -> tuple[Any, list[int]]:
        """The next message and its descriptors. Raises ChannelClosed."""
        while (found := self._take()) is None:
            self._gulp(0)
        return found

    def quiet(self, within_s: float) -> bool:
        """Whether nothing came within that time, and nothing is here."""
        if self._buffer:
            return False
        waiting = select.poll()
        waiting.register(self._socket, select.POLLIN)
        return not waiting.poll(within_s * 1000)

    def arrived(self) -> list[tuple[Any, list[int]]]:
        """All messages that are here, without waiting; for an event loop, when it is readable. Raises ChannelClosed."""
        try:
            self._gulp(socket.MSG_DONTWAIT)
        except BlockingIOError:
            pass
        found = []
        while (message := self._take()) is not None:
            found.append(message)
        return found

    def send_some(self, data: memoryview) -> int:
        """Send as much of it as goes at once; how much. Raises ChannelClosed. For an event loop."""
        try:
            return self._socket.send(data, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise ChannelClosed(f"the node is gone: {error}") from None

    def close(self) -> None:
        self._socket.close()
        while self._descriptors:
            os.close(self._descriptors.popleft())

    def shutdown(self) -> None:
        """Wake the thread that receives."""
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass

    def _take(self) -> tuple[Any, list[int]] | None:
        """The first whole message of what was read."""
        if len(self._buffer) < HEADER.size:
            return None
        length, count = HEADER.unpack_from(self._buffer)
        if length > MAX_FROM_NODE or count > _MAX_DESCRIPTORS:
            raise ProtocolViolation("the node sent a frame of an impossible size")
        if len(self._buffer) < HEADER.size + length:
            return None
        if count > len(self._descriptors):
            raise ProtocolViolation("descriptors that were announced did not come")
        body = bytes(self._buffer[HEADER.size : HEADER.size + length])
        del self._buffer[: HEADER.size + length]
        return _from_node.decode(body), [self._descriptors.popleft() for _ in range(count)]

    def _gulp(self, flags: int) -> None:
        """Read once. Raises ChannelClosed, and BlockingIOError where ``flags`` say not to wait."""
        try:
            # socket.recv_fds would do, but it drops the flags that it is given
            chunk, ancillary, _, _ = self._socket.recvmsg(65536, _SPACE, socket.MSG_CMSG_CLOEXEC | flags)
        except BlockingIOError:
            raise
        except OSError as error:
            raise ChannelClosed(f"the node is gone: {error}") from None
        for level, kind, value in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                numbers = array.array("i")
                numbers.frombytes(value[: len(value) - len(value) % numbers.itemsize])
                self._descriptors.extend(numbers)
        if not chunk:
            raise ChannelClosed("the node is gone")
        self._buffer += chunk


def rights(descriptors: list[int]) -> list[tuple[int, int, array.array[int]]]:
    """Ancillary data that passes descriptors."""
    if not descriptors:
        return []
    return [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))]

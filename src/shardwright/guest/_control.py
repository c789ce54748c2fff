"""The control conversation between the node and what runs inside a wall: messages, and their framing.

A frame is ``u32 length, u16 descriptors`` and a msgpack body; descriptors travel by SCM_RIGHTS with the first byte of
their frame. Only the node sends descriptors; any that a guest sends are closed unread. Every message is typed and checked
on arrival, so that a lying guest is found out by the parser: it gets ProtocolViolation, never code.
"""

from __future__ import annotations

import array
import os
import socket
import struct
import threading
from collections import deque
from typing import Any, ClassVar

import msgspec

from shardwright.errors import ChannelClosed, ProtocolViolation

HEADER = struct.Struct("<IH")
MAX_FROM_GUEST = 256 * 1024
MAX_FROM_NODE = 256 * 1024 * 1024
_MAX_DESCRIPTORS = 32


class _Message(msgspec.Struct, frozen=True, tag_field="t", omit_defaults=True):
    descriptors: ClassVar[int] = 0


# -- node to guest ---------------------------------------------------------------------------------------------


class Init(_Message, frozen=True, tag="init"):
    """Who you are, and the plan (msgpack of ShardPlan). ``role`` is "template" or "shard"."""

    plan: bytes
    component: str
    role: str
    paths: tuple[str, ...]
    argv: tuple[str, ...]


class Fork(_Message, frozen=True, tag="fork"):
    """To a template: fork a shard whose control socket is the descriptor."""

    shard: str


class Enter(_Message, frozen=True, tag="enter"):
    """To a shard: begin. Descriptors: its log; with ``terminal``, standard input, output and error instead."""

    shard: str
    secrets: dict[str, str] = {}
    terminal: bool = False


class SessionBegins(_Message, frozen=True, tag="session+"):
    session: int
    name: str


class SessionEnds(_Message, frozen=True, tag="session-"):
    session: int


class Accept(_Message, frozen=True, tag="accept"):
    """Serve a caller over the channel whose end is the descriptor. ``sessions`` None: any."""

    component: str
    shard: str
    transport: str
    sessions: tuple[int, ...] | None = None


class Offer(_Message, frozen=True, tag="offer"):
    """One link of an answer to Bind: the descriptor is its channel's end. ``request`` 0: a further shard of a binding."""

    request: int
    component: str
    shard: str
    transport: str


class Bound(_Message, frozen=True, tag="bound"):
    """All offers of a request were sent; or why there are none."""

    request: int
    error: str = ""
    code: str = ""
    remedy: str = ""
    outcome: str = "not started"


class Because(_Message, frozen=True, tag="because"):
    """How the shard that was asked about ended; empty when the node does not know, or the asker may not."""

    request: int
    reason: str


class Forget(_Message, frozen=True, tag="forget"):
    """The binding of that component and session is no longer; the next call asks anew."""

    component: str
    session: int


class RunMain(_Message, frozen=True, tag="main"):
    """To the entry shard: run ``module:function`` in that session and report its exit status."""

    target: str
    session: int


class AskLoad(_Message, frozen=True, tag="load?"):
    """Answer with a Load of the same number."""

    request: int


class Stop(_Message, frozen=True, tag="stop"):
    """Finish what runs, for at most ``grace_s``, and exit."""

    grace_s: float = 0.0


# -- guest to node ---------------------------------------------------------------------------------------------


class Hello(_Message, frozen=True, tag="hello"):
    """The first message; the kernel vouches for the sender's pid."""

    version: int


class Ready(_Message, frozen=True, tag="ready"):
    """Import done. ``forkable`` False with a ``reason``: shards of this component must be spawned."""

    import_s: float
    forkable: bool = True
    reason: str = ""


class Failed(_Message, frozen=True, tag="failed"):
    """Import failed; ``traceback`` is the user's alone."""

    message: str
    traceback: str = ""


class Forked(_Message, frozen=True, tag="forked"):
    shard: str
    error: str = ""


class Ended(_Message, frozen=True, tag="ended"):
    """From a template: a shard that it had forked ended so (exit status, or minus the signal)."""

    shard: str
    status: int


class Bind(_Message, frozen=True, tag="bind"):
    request: int
    component: str
    session: int
    key: str | None = None
    shard: str | None = None
    lost: tuple[str, ...] = ()


class Unbind(_Message, frozen=True, tag="unbind"):
    """The shard of request scope has served its request."""

    component: str
    shard: str


class Why(_Message, frozen=True, tag="why"):
    """How did that shard end? Answered by Because."""

    request: int
    component: str
    shard: str


class Load(_Message, frozen=True, tag="load"):
    """Calls that run or wait here, and for how many seconds there have been none."""

    request: int
    running: int
    idle_s: float


class Finished(_Message, frozen=True, tag="finished"):
    """The entry function ended; ``traceback`` when by an exception."""

    status: int
    traceback: str = ""


class Note(_Message, frozen=True, tag="note"):
    """Something the journal should know."""

    kind: str
    message: str


Fork.descriptors = 1
Accept.descriptors = 1
Offer.descriptors = 1

FromNode = (
    Init
    | Fork
    | Enter
    | SessionBegins
    | SessionEnds
    | Accept
    | Offer
    | Bound
    | Because
    | Forget
    | RunMain
    | AskLoad
    | Stop
)
FromGuest = Hello | Ready | Failed | Forked | Ended | Bind | Unbind | Why | Load | Finished | Note

_encoder = msgspec.msgpack.Encoder()
_from_node: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder(FromNode)
_from_guest: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder(FromGuest)
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
        header = self._exactly(HEADER.size)
        length, count = HEADER.unpack(header)
        if length > MAX_FROM_NODE or count > _MAX_DESCRIPTORS:
            raise ProtocolViolation("the node sent a frame of an impossible size")
        body = self._exactly(length)
        if count > len(self._descriptors):
            raise ProtocolViolation("descriptors that were announced did not come")
        return _from_node.decode(body), [self._descriptors.popleft() for _ in range(count)]

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

    def _exactly(self, length: int) -> bytes:
        while len(self._buffer) < length:
            try:
                chunk, descriptors, _, _ = socket.recv_fds(
                    self._socket, 65536, _MAX_DESCRIPTORS, socket.MSG_CMSG_CLOEXEC
                )
            except OSError as error:
                raise ChannelClosed(f"the node is gone: {error}") from None
            self._descriptors.extend(descriptors)
            if not chunk:
                raise ChannelClosed("the node is gone")
            self._buffer += chunk
        taken = bytes(self._buffer[:length])
        del self._buffer[:length]
        return taken


def rights(descriptors: list[int]) -> list[tuple[int, int, array.array[int]]]:
    """Ancillary data that passes descriptors."""
    if not descriptors:
        return []
    return [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))]

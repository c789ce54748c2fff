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
from shardwright.guest._testing import Patch, Patched, Testing

HEADER = struct.Struct("<IH")
MAX_FROM_GUEST = 256 * 1024
MAX_FROM_NODE = 256 * 1024 * 1024
_MAX_DESCRIPTORS = 32
_SPACE = socket.CMSG_LEN(4 * _MAX_DESCRIPTORS)


class _Message(msgspec.Struct, frozen=True, tag_field="t", omit_defaults=True):
    descriptors: ClassVar[int] = 0


# -- node to guest ---------------------------------------------------------------------------------------------


class Init(_Message, frozen=True, tag="init"):
    """Who you are, and the plan (msgpack of ShardPlan). ``role`` is "template" or "shard".

    ``testing``: a test run started this node; only then may it send Patch.
    """

    plan: bytes
    component: str
    role: str
    paths: tuple[str, ...]
    argv: tuple[str, ...]
    testing: Testing | None = None


class Fork(_Message, frozen=True, tag="fork"):
    """To a template: fork a shard whose control socket is the descriptor."""

    shard: str


class Enter(_Message, frozen=True, tag="enter"):
    """To a shard: begin. Descriptors: its log; with ``terminal``, standard input, output and error instead.

    To a gateway also its settings (msgpack of ``GatewaySettings``), and further descriptors: the sockets to listen on.
    """

    shard: str
    secrets: dict[str, str] = {}
    terminal: bool = False
    gateway: bytes = b""


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


class SessionBegun(_Message, frozen=True, tag="begun"):
    """The answer to BeginSession: its number; or 0, and why not."""

    request: int
    session: int = 0
    error: str = ""
    code: str = ""
    remedy: str = ""


class NodeTold(_Message, frozen=True, tag="told"):
    """The answer to AskNode: whether the node can go on, whether it serves all that it should and what lacks; its numbers
    (msgpack of families), where they were asked for."""

    request: int
    alive: bool = True
    ready: bool = True
    reasons: tuple[str, ...] = ()
    numbers: bytes = b""


class RunMain(_Message, frozen=True, tag="main"):
    """To the entry shard: run ``module:function`` in that session and report its exit status."""

    target: str
    session: int


class AskLoad(_Message, frozen=True, tag="load?"):
    """Answer with a Load of the same number."""

    request: int


class AskCounts(_Message, frozen=True, tag="counts?"):
    """Answer with Counts of the same number."""

    request: int


class Retire(_Message, frozen=True, tag="retire"):
    """That shard is replaced: begin no call there any more, let those in flight end, then close the links to it.

    ``lost``: with it goes the state that sessions had there, and they are to be told.
    """

    component: str
    shard: str
    lost: bool = False


class StacksTo(_Message, frozen=True, tag="stacks>"):
    """Where the interpreter writes its stacks when the node sends ``STACKS_SIGNAL``: a file, the descriptor."""


class AskStacks(_Message, frozen=True, tag="stacks?"):
    """Answer with Stacks of the same number."""

    request: int


class Attach(_Message, frozen=True, tag="attach"):
    """Let a terminal, the descriptor, debug this shard; answer with Attached. ``at``: MODULE:FUNCTION or FILE:LINE."""

    request: int
    at: str = ""
    now: bool = False
    debugpy: bool = False


class BreakIn(_Message, frozen=True, tag="attach!"):
    """Whoever is attached wants the program to stop at its next line."""


class Detach(_Message, frozen=True, tag="attach-"):
    """The terminal of that Attach is ``lost``, or wants to go unless it stands at the prompt, which hears it by itself."""

    request: int
    lost: bool = True


class Stop(_Message, frozen=True, tag="stop"):
    """Finish what runs, for at most ``grace_s``, and exit. ``drain``: not before every caller has closed its links."""

    grace_s: float = 0.0
    drain: bool = False


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


class Counts(_Message, frozen=True, tag="counts"):
    """What happened here so far: calls begun and made; refused and failed by the code of the error. ``request`` 0: unasked,
    for this shard ends now. ``cpu_s`` is the processor time that it took."""

    request: int
    received: int = 0
    made: int = 0
    refused: dict[str, int] = {}
    failed: dict[str, int] = {}
    running: int = 0
    queued: int = 0
    cpu_s: float = 0.0


class FrameLine(msgspec.Struct, frozen=True, array_like=True):
    """One frame of a stack; ``source`` is that line of its file. ``ours``: Shardwright's own."""

    file: str
    line: int
    function: str
    source: str = ""
    ours: bool = False


class Stack(msgspec.Struct, frozen=True, array_like=True):
    """One thread or asyncio task, its innermost frame last. ``says`` is what it does, in words, where that is known."""

    name: str
    frames: tuple[FrameLine, ...]
    says: str = ""
    native_id: int = 0


class Stacks(_Message, frozen=True, tag="stacks"):
    request: int
    threads: tuple[Stack, ...]
    tasks: tuple[Stack, ...] = ()


class Attached(_Message, frozen=True, tag="attached"):
    """Whether that terminal debugs this shard now; why not, where it does not."""

    request: int
    error: str = ""
    remedy: str = ""


class Finished(_Message, frozen=True, tag="finished"):
    """The entry function ended; ``traceback`` when by an exception."""

    status: int
    traceback: str = ""


class BeginSession(_Message, frozen=True, tag="begin"):
    """From a gateway alone, as those that follow: begin the session of that name, or find it alive."""

    request: int
    name: str


class EndSession(_Message, frozen=True, tag="end"):
    name: str


class UseSessions(_Message, frozen=True, tag="used"):
    """These sessions had requests since the last message of this kind, or have some that run."""

    sessions: tuple[int, ...]


class AskNode(_Message, frozen=True, tag="node?"):
    """How is the node; with ``numbers``: and what are its numbers? Answered with NodeTold."""

    request: int
    numbers: bool = False


class Note(_Message, frozen=True, tag="note"):
    """Something the journal should know."""

    kind: str
    message: str


Fork.descriptors = 1
Accept.descriptors = 1
Offer.descriptors = 1
StacksTo.descriptors = 1
Attach.descriptors = 1

FromNode = (
    Init
    | Fork
    | Enter
    | SessionBegins
    | SessionEnds
    | SessionBegun
    | NodeTold
    | Accept
    | Offer
    | Bound
    | Because
    | Forget
    | RunMain
    | AskLoad
    | AskCounts
    | Retire
    | StacksTo
    | AskStacks
    | Attach
    | BreakIn
    | Detach
    | Stop
)
FromGateway = BeginSession | EndSession | UseSessions | AskNode
Looks = Stacks | Attached
FromGuest = (
    Hello
    | Ready
    | Failed
    | Forked
    | Ended
    | Bind
    | Unbind
    | Why
    | Load
    | Counts
    | Finished
    | Note
    | FromGateway
    | Looks
)

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

"""What a gateway's backend talks to, played by a test: its node over a real control socket, and shards over real sockets.

All of it runs on the test's own event loop, so that a test decides what comes when.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator
from typing import Any

from shardwright.errors import ChannelClosed
from shardwright.gateway._shards import ShardBackend
from shardwright.gateway._talk import NodeTalk
from shardwright.guest import (
    BeginSession,
    Bind,
    Bound,
    ControlSocket,
    EndSession,
    Failure,
    FunctionReply,
    Note,
    SessionBegun,
    Unbind,
    UseSessions,
    decode_asked,
    encode_web,
)
from shardwright.model.endpoint import Endpoint, Peer
from shardwright.model.envelope import Envelope, Kind, PayloadCodec
from shardwright.model.ids import ComponentName, MethodId, SessionNumber, ShardId
from shardwright.model.limits import Limits
from shardwright.model.scope import Scope, ScopeKind, Start, StateKind
from shardwright.model.shard import (
    CodeSegment,
    EntryKind,
    EntryPoint,
    KeyArgument,
    RouteTarget,
    ShardDefinition,
    ShardPlan,
)
from shardwright.node._frames import control_pair
from shardwright.node._port import GuestPort
from shardwright.transport import pack, unpack

PATIENCE_S = 20.0
LENGTH = struct.Struct("<I")


def definition(name: str, kind: ScopeKind, state: StateKind = StateKind.NONE) -> ShardDefinition:
    key = KeyArgument("world", 0, annotation="int") if kind is ScopeKind.KEY else None
    entry = EntryPoint(MethodId(0), "run", name, "run", EntryKind.FUNCTION, key=key)
    scope = Scope(kind, "world" if key is not None else "")
    return ShardDefinition(
        ComponentName(name), CodeSegment(name, (name,)), (entry,), scope, state, Limits(), "auto", Start.AUTO, ()
    )


PLAN = ShardPlan(
    "app", "/", "",
    (
        definition("pure", ScopeKind.SHARED),
        definition("memory", ScopeKind.SHARED, StateKind.MEMORY),
        definition("cart", ScopeKind.SESSION, StateKind.MEMORY),
        definition("worlds", ScopeKind.KEY, StateKind.MEMORY),
        definition("once", ScopeKind.REQUEST),
    ),
    (), (), (), (), (),
)  # fmt: skip


def route(component: str, *, path: str = "/", application: bool = False) -> RouteTarget:
    found = PLAN.definition(component)
    kind = EntryKind.APPLICATION if application else EntryKind.FUNCTION
    key = found.entry_points[0].key
    name = f"{component}.run"
    return RouteTarget(path, (), found.component, MethodId(0), name, kind, found.scope.kind, key=key)


class ShardEnd:
    """The other end of one link. It may say whatever it likes."""

    def __init__(self, shard: ShardId, descriptor: int) -> None:
        self.shard = shard
        self.connection = self._socket = socket.socket(fileno=descriptor)
        self._socket.setblocking(False)
        self._read = bytearray()

    async def receive(self) -> Envelope:
        """The next message. Raises ChannelClosed when the gateway has closed the link."""
        loop = asyncio.get_running_loop()
        while True:
            if len(self._read) >= 4:
                (size,) = LENGTH.unpack_from(self._read)
                if len(self._read) >= 4 + size:
                    frame = bytes(self._read[4 : 4 + size])
                    del self._read[: 4 + size]
                    return unpack(memoryview(frame))
            try:
                async with asyncio.timeout(PATIENCE_S):
                    chunk = await loop.sock_recv(self._socket, 2**18)
            except ConnectionError:
                chunk = b""
            if not chunk:
                raise ChannelClosed("the gateway closed the link")
            self._read += chunk

    async def closed(self) -> list[Envelope]:
        """Everything up to the end of the link."""
        found = []
        with contextlib.suppress(ChannelClosed):
            while True:
                found.append(await self.receive())
        return found

    async def send(self, envelope: Envelope) -> None:
        data = b"".join(map(bytes, pack(envelope)))
        await self.send_raw(LENGTH.pack(len(data)) + data)

    async def send_raw(self, data: bytes) -> None:
        """Ends quietly when the link is closed meanwhile."""
        with contextlib.suppress(ConnectionError):
            async with asyncio.timeout(PATIENCE_S):
                await asyncio.get_running_loop().sock_sendall(self._socket, data)

    async def reply(self, call: Envelope, body: bytes) -> None:
        payload = encode_web(FunctionReply(200, body))
        await self.send(Envelope(Kind.RESULT, call.call_id, codec=PayloadCodec.WEB, payload=payload))

    async def fail(self, call: Envelope, failure: Failure) -> None:
        await self.send(Envelope(Kind.ERROR, call.call_id, codec=PayloadCodec.WEB, payload=encode_web(failure)))

    async def serve(self) -> None:
        """Answer calls of functions with their own query, until the link is closed."""
        with contextlib.suppress(ChannelClosed):
            while True:
                call = await self.receive()
                if call.kind is Kind.CALL:
                    asked: Any = decode_asked(call.payload)
                    await self.reply(call, f"{call.session}:{dict(asked.query).get('q', '')}".encode())

    def close(self) -> None:
        self._socket.close()


class NodeEnd:
    """The node: gives out links and sessions, and keeps what it was told."""

    def __init__(self, sock: socket.socket) -> None:
        self.port = GuestPort(ShardId("gateway-1"), ComponentName("gateway"), sock)
        self.port.attach(self)
        self.binds: list[Bind] = []
        self.unbinds: list[Unbind] = []
        self.notes: list[Note] = []
        self.used: list[tuple[int, ...]] = []
        self.numbers: dict[str, int] = {}
        self.refusal: Bound | None = None  # what every Bind is answered, in place of links
        self.instances = 1
        self.hold: asyncio.Event | None = None  # binds are answered once it is set
        self._links: asyncio.Queue[ShardEnd] = asyncio.Queue()
        self._ends: list[ShardEnd] = []
        self._count = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def link(self) -> ShardEnd:
        """The shard's end of the next link that was given out."""
        async with asyncio.timeout(PATIENCE_S):
            return await self._links.get()

    def give(self, request: int, component: str, shard: str | None = None) -> ShardEnd:
        """Offer one more link."""
        self._count += 1
        ours, theirs = socket.socketpair()
        peer = Peer(ComponentName(component), ShardId(shard or f"{component}-{self._count}"))
        self.port.offer(request, peer, Endpoint("socket", (ours.detach(),)))
        end = ShardEnd(peer.shard, theirs.detach())
        self._ends.append(end)
        return end

    def end_session(self, name: str) -> None:
        self.port.session_ends(SessionNumber(self.numbers.pop(name)))

    def close(self) -> None:
        self.port.close("the test is over")
        for end in self._ends:
            end.close()

    # -- PortEvents --------------------------------------------------------------------------------------------

    def on_bind(self, port: Any, bind: Bind) -> None:
        self.binds.append(bind)
        task = asyncio.get_running_loop().create_task(self._answer(bind))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(self, bind: Bind) -> None:
        if self.hold is not None:
            await self.hold.wait()
        if self.refusal is not None:
            refused = self.refusal
            self.port.bound(Bound(bind.request, refused.error, refused.code, refused.remedy, refused.outcome))
            return
        if bind.shard is None:  # else the caller has a link already, and one more session may use it
            for _ in range(self.instances):
                self._links.put_nowait(self.give(bind.request, bind.component))
        self.port.bound(Bound(bind.request))

    def on_unbind(self, port: Any, unbind: Unbind) -> None:
        self.unbinds.append(unbind)

    def on_note(self, port: Any, note: Note) -> None:
        self.notes.append(note)

    def on_ask(self, port: Any, message: Any) -> None:
        match message:
            case BeginSession() if message.name.startswith("no"):
                port.begun(SessionBegun(message.request, 0, "there is no room", "SW601", "come later"))
            case BeginSession():
                number = self.numbers.setdefault(message.name, len(self.numbers) + 1)
                port.session_begins(SessionNumber(number), message.name)
                port.begun(SessionBegun(message.request, number))
            case EndSession():
                self.end_session(message.name)
            case UseSessions():
                self.used.append(message.sessions)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("on_"):
            return lambda *args: None
        raise AttributeError(name)


@contextlib.asynccontextmanager
async def gateway(**options: Any) -> AsyncIterator[tuple[ShardBackend, NodeEnd]]:
    """A backend and its node."""
    ours, theirs = control_pair()
    node = NodeEnd(ours)
    talk = NodeTalk(ControlSocket(theirs.detach()), lambda reason: None)
    backend = ShardBackend(PLAN, talk, **options)
    talk.open(backend.obey)
    try:
        yield backend, node
    finally:
        backend.close()
        talk.close()
        node.close()
        await asyncio.sleep(0)

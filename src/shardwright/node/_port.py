"""The node's end of a running shard or template: what it may be told, and what it may ask."""

from __future__ import annotations

import asyncio
import os
import socket
from abc import ABC, abstractmethod
from collections import deque
from typing import Any, Protocol

from shardwright.errors import ProtocolViolation
from shardwright.guest import (
    MAX_FROM_GUEST,
    Accept,
    AskCounts,
    AskLoad,
    AskNode,
    Attached,
    Because,
    BeginSession,
    Bind,
    Bound,
    Counts,
    EndSession,
    Finished,
    Forget,
    FromGateway,
    Load,
    NodeTold,
    Note,
    Offer,
    Patch,
    Patched,
    RunMain,
    SessionBegins,
    SessionBegun,
    SessionEnds,
    Stacks,
    Stop,
    Unbind,
    Unsaid,
    UseSessions,
    Why,
    decode_from_guest,
    frame,
)
from shardwright.model.endpoint import Endpoint, Peer
from shardwright.model.ids import ComponentName, SessionNumber, ShardId
from shardwright.node._frames import AGAIN_S, FrameReader, scarce, send_with

MAX_UNREAD = 64 * 1024 * 1024  # a guest that lets more than this of its control messages lie is ended,
MAX_WAITING_DESCRIPTORS = 512  # or so many descriptors that were sent with them
MANY_WAITING_DESCRIPTORS = 32  # beyond what its socket holds, some hundreds: too many when the user's last are in use
MAX_UNHEARD = 1024  # messages that may wait for a node that does not listen yet


class PortEvents(Protocol):
    """Who listens: the node. Called on its event loop."""

    def on_bind(self, port: ShardPort, bind: Bind) -> None: ...

    def on_unbind(self, port: ShardPort, unbind: Unbind) -> None: ...

    def on_why(self, port: ShardPort, why: Why) -> None: ...

    def on_load(self, port: ShardPort, load: Load) -> None: ...

    def on_counts(self, port: ShardPort, counts: Counts) -> None: ...

    def on_unsaid(self, port: ShardPort, unsaid: Unsaid) -> None: ...

    def on_finished(self, port: ShardPort, finished: Finished) -> None: ...

    def on_note(self, port: ShardPort, note: Note) -> None: ...

    def on_patched(self, port: ShardPort, patched: Patched) -> None: ...

    def on_look(self, port: ShardPort, answer: Stacks | Attached) -> None: ...

    def on_ask(self, port: ShardPort, message: FromGateway) -> None: ...

    def on_gone(self, port: ShardPort, reason: str) -> None: ...


class ShardPort(ABC):
    """A running shard as the node sees it. Endpoints that are given away are used up, whatever happens."""

    shard: ShardId
    component: ComponentName
    pid: int

    def alive(self) -> bool:
        """Whether it still runs. False: it has ended, and ``on_gone`` was or is being told."""
        return True

    @abstractmethod
    def stop_hoarding(self) -> None:
        """Descriptors have run out: it is cut off if many that were sent to it lie unread."""

    @abstractmethod
    def attach(self, events: PortEvents) -> None:
        """From now on what it says are events; what it said before, first."""

    @abstractmethod
    def accept(self, peer: Peer, endpoint: Endpoint) -> None:
        """Serve ``peer`` over this endpoint."""

    @abstractmethod
    def offer(self, request: int, peer: Peer, endpoint: Endpoint) -> None:
        """One link of the answer to a Bind."""

    @abstractmethod
    def bound(self, answer: Bound) -> None: ...

    @abstractmethod
    def because(self, answer: Because) -> None: ...

    @abstractmethod
    def session_begins(self, number: SessionNumber, name: str) -> None: ...

    @abstractmethod
    def session_ends(self, number: SessionNumber) -> None: ...

    @abstractmethod
    def forget(self, component: ComponentName, session: SessionNumber) -> None: ...

    @abstractmethod
    def ask_load(self, request: int) -> None:
        """Ask what runs there; a Load of that number comes later, as an event, or never."""

    @abstractmethod
    def ask_counts(self, request: int) -> None:
        """Ask what happened there so far; Counts of that number come later, as an event, or never."""

    @abstractmethod
    def patch(self, patch: Patch) -> None:
        """Change something for a test; a Patched of its number comes later. Only when the node is under test."""

    def told(self, answer: NodeTold) -> None:  # noqa: B027 - as for ``begun``
        """The answer to AskNode."""

    def begun(self, answer: SessionBegun) -> None:  # noqa: B027 - only a gateway asks, and not every port leads to one
        """The answer to a BeginSession."""

    @abstractmethod
    def run_main(self, target: str, session: SessionNumber) -> None: ...

    @abstractmethod
    def stop(self, grace_s: float, *, drain: bool = False) -> None:
        """Finish what runs, within the grace; with ``drain`` also what comes until every caller has closed its links."""

    @abstractmethod
    def tell(self, message: Any, descriptors: tuple[int, ...] = ()) -> None:
        """A message for looking on, or for being replaced: Retire, StacksTo, AskStacks, Attach, BreakIn, Detach.

        Uses the descriptors up.
        """

    @abstractmethod
    def close(self, reason: str) -> None:
        """End the conversation; the node hears of it once, through ``on_gone``, and ends what still runs."""


class GuestPort(ShardPort):
    """A guest in a process of its own, over its control socket. Use from the node's event loop alone.

    Before ``attach``, messages wait for ``next_message``; after it they go to the node as events.
    """

    def __init__(self, shard: ShardId, component: ComponentName, sock: socket.socket) -> None:
        self.shard = shard
        self.component = component
        self.forked_as: ShardId | None = None  # by what name its template knows it, if one forked it
        self.pid = 0
        self._socket = sock
        sock.setblocking(False)
        self._loop = asyncio.get_running_loop()
        self._frames = FrameReader(sock, limit=MAX_FROM_GUEST, descriptors=False)
        self._outbox: deque[tuple[memoryview, tuple[int, ...]]] = deque()
        self._unread = 0
        self._waiting_descriptors = 0
        self._waits_for_room = False  # whether the loop watches for it
        self._inbox: asyncio.Queue[Any] = asyncio.Queue()
        self._events: PortEvents | None = None
        self._closed = ""
        self._again: asyncio.TimerHandle | None = None
        self._loop.add_reader(sock, self._readable)

    def __repr__(self) -> str:
        return f"<GuestPort {self.shard} pid {self.pid}{' closed: ' + self._closed if self._closed else ''}>"

    @property
    def closed(self) -> str:
        """Why it is closed; empty while it is open."""
        return self._closed

    def alive(self) -> bool:
        if not self._closed:
            try:
                if self._socket.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b"":
                    self.close("it ended")
            except BlockingIOError:
                pass
            except OSError as error:
                self.close(f"its control socket broke: {error}")
        return not self._closed

    async def next_message(self) -> Any:
        """The next message before ``attach``; None when the guest is gone."""
        return await self._inbox.get()

    def attach(self, events: PortEvents) -> None:
        """From now on messages are events; what came already, first."""
        self._events = events
        while not self._inbox.empty():
            self._dispatch(self._inbox.get_nowait())

    def send(self, message: Any, descriptors: tuple[int, ...] = ()) -> None:
        """Send soon; uses the descriptors up."""
        if self._closed:
            for descriptor in descriptors:
                os.close(descriptor)
            return
        data = frame(message, len(descriptors))
        self._unread += len(data)
        self._waiting_descriptors += len(descriptors)
        self._outbox.append((memoryview(data), descriptors))
        self._flush()
        if self._unread > MAX_UNREAD or self._waiting_descriptors > MAX_WAITING_DESCRIPTORS:
            self.close("it does not read its control messages")

    def close(self, reason: str) -> None:
        """End the conversation; the node hears of it once, through ``on_gone``."""
        if self._closed:
            return
        self._closed = reason
        if self._again is not None:
            self._again.cancel()
        self._loop.remove_reader(self._socket)
        self._loop.remove_writer(self._socket)
        self._socket.close()
        self._frames.close()
        for _, descriptors in self._outbox:
            for descriptor in descriptors:
                os.close(descriptor)
        self._outbox.clear()
        self._dispatch(None)

    def stop_hoarding(self) -> None:
        if self._waiting_descriptors >= MANY_WAITING_DESCRIPTORS:
            self.close("it does not read its control messages, and no more descriptors can be passed")

    # -- ShardPort ---------------------------------------------------------------------------------------------

    def accept(self, peer: Peer, endpoint: Endpoint) -> None:
        sessions = None if peer.sessions is None else tuple(peer.sessions)
        self.send(Accept(peer.component, peer.shard, endpoint.transport, sessions), endpoint.descriptors)

    def offer(self, request: int, peer: Peer, endpoint: Endpoint) -> None:
        self.send(Offer(request, peer.component, peer.shard, endpoint.transport), endpoint.descriptors)

    def bound(self, answer: Bound) -> None:
        self.send(answer)

    def because(self, answer: Because) -> None:
        self.send(answer)

    def session_begins(self, number: SessionNumber, name: str) -> None:
        self.send(SessionBegins(number, name))

    def session_ends(self, number: SessionNumber) -> None:
        self.send(SessionEnds(number))

    def forget(self, component: ComponentName, session: SessionNumber) -> None:
        self.send(Forget(component, session))

    def ask_load(self, request: int) -> None:
        self.send(AskLoad(request))

    def ask_counts(self, request: int) -> None:
        self.send(AskCounts(request))

    def patch(self, patch: Patch) -> None:
        self.send(patch)

    def told(self, answer: NodeTold) -> None:
        self.send(answer)

    def begun(self, answer: SessionBegun) -> None:
        self.send(answer)

    def run_main(self, target: str, session: SessionNumber) -> None:
        self.send(RunMain(target, session))

    def stop(self, grace_s: float, *, drain: bool = False) -> None:
        self.send(Stop(grace_s, drain))

    def tell(self, message: Any, descriptors: tuple[int, ...] = ()) -> None:
        self.send(message, descriptors)

    # -- the event loop ----------------------------------------------------------------------------------------

    def _flush(self) -> None:
        while self._outbox:
            data, descriptors = self._outbox[0]
            try:
                sent = send_with(self._socket, data, descriptors)
            except BlockingIOError:
                self._watch(True)
                return
            except OSError as error:
                if scarce(error):
                    self._watch(False)
                    self._again = self._again or self._loop.call_later(AGAIN_S, self._once_more)
                else:
                    self.close(f"its control socket broke: {error}")
                return
            self._unread -= sent
            self._waiting_descriptors -= len(descriptors)
            for descriptor in descriptors:
                os.close(descriptor)
            if sent == len(data):
                self._outbox.popleft()
            else:
                self._outbox[0] = (data[sent:], ())
        self._watch(False)

    def _watch(self, room: bool) -> None:
        """Have the loop say when there is room for more."""
        if room and not self._waits_for_room:
            self._loop.add_writer(self._socket, self._flush)
        elif self._waits_for_room and not room:
            self._loop.remove_writer(self._socket)
        self._waits_for_room = room

    def _once_more(self) -> None:
        self._again = None
        if not self._closed:
            self._flush()

    def _readable(self) -> None:
        try:
            if not self._frames.gulp():
                self.close("it ended")
                return
            if not self.pid and self._frames.pid:
                self.pid = self._frames.pid
            for body, _ in self._frames.frames():
                if self._closed:
                    return
                self._dispatch(decode_from_guest(body))
        except BlockingIOError:
            pass
        except ProtocolViolation as violation:
            self.close(f"it broke the control protocol: {violation}")
        except OSError as error:
            self.close(f"its control socket broke: {error}")

    def _dispatch(self, message: Any) -> None:
        events = self._events
        if events is None:
            self._inbox.put_nowait(message)
            if self._inbox.qsize() > MAX_UNHEARD:
                self.close("it sent more messages than anybody asked for")
            return
        match message:
            case None:
                events.on_gone(self, self._closed)
            case Bind():
                events.on_bind(self, message)
            case Unbind():
                events.on_unbind(self, message)
            case Why():
                events.on_why(self, message)
            case Load():
                events.on_load(self, message)
            case Counts():
                events.on_counts(self, message)
            case Unsaid():
                events.on_unsaid(self, message)
            case Finished():
                events.on_finished(self, message)
            case BeginSession() | EndSession() | UseSessions() | AskNode():
                events.on_ask(self, message)
            case Note():
                events.on_note(self, message)
            case Stacks() | Attached():
                events.on_look(self, message)
            case Patched():
                events.on_patched(self, message)
            case _:
                self.close(f"it sent {type(message).__name__} out of turn")

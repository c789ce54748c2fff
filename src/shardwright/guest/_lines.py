"""Which calls go the quick way (``transport/shm/_calls.c``), and what that way is made of.

A call goes it that is a plain call of a plain function: its proxy has made the call before, the slow way, so that context,
route and permission are known to be good; it goes over a ring to the only shard of its route; neither arguments nor result
travel beside the message, and no context variables go along. Functions that may be called twice for once, and generators, do
not go it. All others go the slow way, which is the reference (``_caller``, ``_incoming``). Where nothing was compiled, there is
no other.
"""

from __future__ import annotations

import contextvars
import threading
from types import CoroutineType
from typing import TYPE_CHECKING, Any, cast

from shardwright.guest._context import NOWHERE, CallContext, Life, current_call
from shardwright.guest._origin import origin
from shardwright.guest._output import end_lines, unended
from shardwright.guest._service import service_of_this_thread
from shardwright.model.envelope import PayloadCodec
from shardwright.model.scope import ScopeKind
from shardwright.model.shard import EntryKind, EntryPoint
from shardwright.transport import PickleCodec, TaggedCodec, shm

if TYPE_CHECKING:
    from shardwright.guest._caller import Caller
    from shardwright.guest._hub import Hub
    from shardwright.guest._link import Link
    from shardwright.guest._responder import Responder
    from shardwright.guest._ring_hub import RingHub
    from shardwright.guest._runtime import Runtime
    from shardwright.guest._stubs import Proxies
    from shardwright.transport.shm import Desk, Line


def desk_for(runtime: Runtime, hub: Hub | RingHub) -> Desk | None:
    """Where the threads of a shard call and answer the quick way; None where there is none."""
    if not shm.available() or runtime.private or getattr(hub, "transport", None) is None:
        return None
    from shardwright.guest._ring_hub import RingHub
    from shardwright.transport.shm import Desk

    assert isinstance(hub, RingHub)
    desk = Desk(hub.bell, threading.main_thread().ident or 0, runtime.mailbox)
    desk.arrived, desk.ear, desk.rest, desk.service = hub.arrived, hub.ear, hub.read, service_of_this_thread
    desk.context_get, desk.context_set = current_call.get, current_call.set
    desk.context_type, desk.context_class, desk.life_class = contextvars.Context, CallContext, Life
    desk.nowhere = NOWHERE
    # what serves everybody acts for itself, what serves a session for that; of requests it has to be asked, each time
    desk.outside = None if runtime.definition.scope.kind is ScopeKind.REQUEST else origin
    desk.of_session = runtime.definition.scope.kind is ScopeKind.SESSION
    desk.coroutine_class, desk.names = CoroutineType, runtime.sessions.names
    desk.dropped, desk.after_call = runtime.proxies.dropped_handles, runtime.proxies.release_dropped
    desk.unended, desk.end_lines = unended, end_lines
    desk.waiting_slowly, desk.stuck = runtime.chains.slowly
    desk.answer = runtime.responder.answer
    hub.desk = runtime.responder.desk = runtime.chains.desk = desk
    return desk


def desk_of_caller(caller: Caller, hub: Hub | RingHub, proxies: Proxies) -> Desk | None:
    """The same for who calls and answers nobody: a process beside shards. Before anything is read there."""
    if not shm.available() or getattr(hub, "transport", None) is None:
        return None
    from shardwright.guest._ring_hub import RingHub
    from shardwright.transport.shm import Desk

    assert isinstance(hub, RingHub)
    desk = Desk(hub.bell, threading.main_thread().ident or 0, None)
    desk.arrived, desk.ear, desk.rest, desk.service = hub.arrived, hub.ear, hub.read, service_of_this_thread
    desk.context_get, desk.context_set = current_call.get, current_call.set
    desk.context_type, desk.context_class, desk.life_class = contextvars.Context, CallContext, Life
    desk.nowhere, desk.outside = NOWHERE, None  # whose session it is, is said by whoever calls
    desk.coroutine_class = CoroutineType
    desk.dropped, desk.after_call = proxies.dropped_handles, proxies.release_dropped
    desk.unended, desk.end_lines = unended, end_lines
    desk.waiting_slowly, desk.stuck = caller.chains.slowly
    hub.desk = caller.desk = caller.chains.desk = desk
    return desk


def line_of(link: Link) -> Line | None:
    """The quick way of a link, not open yet; None where it has none."""
    desk = getattr(link.hub, "desk", None)
    if desk is None:
        return None
    from shardwright.transport.shm import Line, RingChannel

    channel = link.channel
    if not isinstance(channel, RingChannel) or channel.doorbell is not link.hub.bell:  # type: ignore[union-attr]
        return None
    plain = isinstance(link.codec, PickleCodec)
    codec = link.codec.plain if isinstance(link.codec, PickleCodec) else link.codec
    if type(codec) is not TaggedCodec:
        return None
    line = Line(desk, channel.ring, link, cast(Any, link.patience), int(PayloadCodec.TAGGED), plain)
    writes, reads = codec.forms
    line.write_request, line.write_reply = writes.write_request, writes.write_reply
    line.read_request, line.read_reply = reads.read_request, reads.read_reply
    line.peer_sessions = link.peer.sessions
    line.open = True
    return line


def serve_quickly(responder: Responder, link: Link, entry: EntryPoint) -> None:
    """That peer was permitted to call that entry point, and does: its next calls may be answered the quick way."""
    if (
        link.line is not None
        and entry.kind is EntryKind.FUNCTION
        and not entry.is_async
        and not entry.is_generator
        and "." not in entry.qualname
        and responder.quick
        and responder.carried is None
        and entry.method_id in link.permitted
    ):
        link.line.serves(entry.method_id, entry.module, entry.qualname)

"""Everything that one shard is made of, joined. Nothing here is global: several shards may live in one process (--inproc).

A little beyond 400 lines: where a shard's parts are put together, and what they need of each other.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import resource
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from contextvars import Context
from functools import lru_cache, partial
from types import ModuleType
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from msgspec import Struct, field
from msgspec.structs import replace

from shardwright.contracts.transport import Channel
from shardwright.errors import CallError, CutRefused, Fault, InternalError, NotPermitted, Overloaded
from shardwright.guest._caller import Caller
from shardwright.guest._carried import Carried
from shardwright.guest._chains import Chains
from shardwright.guest._context import NOWHERE, CallContext, Life, current_call
from shardwright.guest._control_messages import Counts
from shardwright.guest._data import DataModules, Hidden
from shardwright.guest._handles import Handle, HandleType
from shardwright.guest._hub import Hub
from shardwright.guest._hubs import make_hub
from shardwright.guest._kept import limits_within
from shardwright.guest._lines import desk_for
from shardwright.guest._link import Link
from shardwright.guest._mailbox import Mailbox
from shardwright.guest._objects import Held, Objects
from shardwright.guest._origin import NO_TRACE, origin
from shardwright.guest._output import end_lines
from shardwright.guest._permits import Permits, permits_of
from shardwright.guest._responder import Responder
from shardwright.guest._router import Binder, Route, Router
from shardwright.guest._shard_loop import ShardLoop
from shardwright.guest._streams import OpenStream
from shardwright.guest._stubs import Proxies
from shardwright.guest._testing import Patch, Patched
from shardwright.model.endpoint import Peer
from shardwright.model.envelope import Envelope
from shardwright.model.ids import ComponentName, SessionNumber, ShardId
from shardwright.model.scope import ScopeKind
from shardwright.model.shard import ShardPlan
from shardwright.transport import CallCodec, ClassTable, CodecLimits, HandleHook, PickleCodec, TaggedCodec

if TYPE_CHECKING:
    from shardwright.guest._cuts import Cuts
    from shardwright.guest._namespace import Namespace
    from shardwright.guest._ring_hub import RingHub
    from shardwright.guest._web import Web

LONG_SECRET = 8  # from so many characters on, a text that contains a secret shows it
Import = Callable[[str], ModuleType]
_FAREWELL_S = 2.0  # what applications have for their shutdown when a shard is closed within its process


class Patcher(Protocol):
    """Who changes this shard for a test: only in shards of a node that a test run started."""

    def apply(self, patch: Patch) -> str:
        """Why it could not be done; empty when it was."""
        ...


class NotRunning(CallError):
    """Another component was called while this one was imported: it has no peers yet, and in a template never will."""

    code = "SW421"
    fault: ClassVar[Fault] = "you"


class _Unbound(Struct):
    """The binder of a process that has no node yet. ``refused`` tells whether somebody tried."""

    refused: str = ""

    def bind(self, route: Route, context: CallContext, lost: Sequence[ShardId] = ()) -> Sequence[Link]:
        self.refused = f"{route.component} was called during import"
        raise NotRunning(self.refused, outcome="not started", remedy='call it from a function, or use start = "spawn"')

    def release(self, route: Route, link: Link) -> None:
        pass

    def why(self, peer: Peer) -> str:
        return ""


class Sessions(Struct):
    """Names of the sessions that a shard serves, for logs and for user code's questions."""

    names: dict[SessionNumber, str] = field(default_factory=dict)

    def name(self, number: SessionNumber) -> str:
        return self.names.get(number, "")


class Runtime:
    """One shard. Made before its code is imported; ``activate`` starts threads and so must come after any fork.

    ``inproc``: its modules are private (see ``Namespace``), for it shares this process with other shards.
    """

    def __init__(self, plan: ShardPlan, component: ComponentName, *, inproc: bool = False) -> None:
        self.plan = plan
        self.definition = plan.definition(component)
        self.component = component
        self.shard = ShardId("")
        self.patches: Patcher | None = None
        self.imported: Callable[[], None] = lambda: None  # called in a template that is about to fork shards,
        self.entered: Callable[[], None] = lambda: None  # and in a shard that has its output
        self.handles_of_links: Callable[[], LinkHandles] = lambda: LinkHandles(self)
        self.unbound = _Unbound()
        make_mailbox: type[Mailbox] = Mailbox
        if inproc:  # few shards need it
            from shardwright.guest._namespace import ImportingMailbox, Namespace

            make_mailbox = ImportingMailbox
        self.mailbox = make_mailbox(limit=self.definition.queue, name=component)
        self.router: Router[Link] = Router(self.unbound, per_session=self.definition.scope.kind is ScopeKind.SESSION)
        self.chains = Chains()
        self.caller = Caller(self.router, self.chains, self.mailbox)
        self.proxies = Proxies(plan, self.caller)
        self.cuts: Cuts | None = None  # functions of its own that run in other shards
        if any(cut.component == component for cut in plan.cuts):
            from shardwright.guest._cuts import Cuts  # few shards need it

            self.cuts = Cuts(plan, component, lambda: self.caller)
        self._namespace: Namespace | None = Namespace(plan, component, self.proxies) if inproc else None
        namespace = self._namespace
        self.data = DataModules(plan, component, self.proxies, self.class_named)
        self.import_module: Import = importlib.import_module if namespace is None else namespace.import_module
        self._reads = limits_within(self.definition.limits.ceiling.memory_bytes)
        self.objects = Objects()
        self.sessions = Sessions()
        self.loop = ShardLoop(self.mailbox, component)
        if any(entry.is_async for entry in self.definition.entry_points):
            self.loop.prepare()
        self.loop.begins = self.chains.loop_runs
        self.responder = Responder(
            self.definition,
            mailbox=self.mailbox,
            loop=self.loop,
            chains=self.chains,
            objects=self.objects,
            resolve=self.resolve_cut if self.definition.cut_of else self.resolve,
            session_name=self.sessions.name,
        )
        if plan.context_variables and not self.definition.cut_of:
            self.caller.carried = self.responder.carried = Carried(plan.context_variables, self.resolve)
        self._web: Web | None = None
        if any(route.component == component for route in plan.routes):
            self._make_web()
        else:
            self.responder.open_web = lambda link, envelope: self.web.admit(link, envelope)
            self.responder.hear_web = lambda link, envelope: self.web.hear(link, envelope)
        self.secrets: tuple[str, ...] = ()
        self.responder.permits = lru_cache(maxsize=1024)(self._permits)
        self.responder.is_secret = self._is_secret
        self.responder.after_call = self.proxies.release_dropped
        self.responder.before_answer = end_lines
        self.responder.let_go = self.let_go
        self.caller.outside_calls = self._outside_calls
        self._farewells: deque[list[Held]] = deque()
        self._hub: Hub | RingHub | None = None
        self._private = namespace is not None
        self._imported: set[str] = set()  # modules that were imported to their end, and are those of ``sys.modules``
        self._links: set[Link] = set()
        self._incoming: set[Link] = set()  # those by which others call
        self._mutex = threading.Lock()

    def __repr__(self) -> str:
        return f"<Runtime {self.shard or self.component}, {len(self._links)} links>"

    def open(self, *, rings: bool) -> Hub | RingHub:
        """What ``activate`` does first, for who has the time before: in the process that uses it, after any fork."""
        if self._hub is None:
            self._hub = self.mailbox.hub = make_hub(f"{self.shard or self.component}-hub", rings=rings)
            self.responder.quick = not self.definition.cut_of and self.patches is None
            self.caller.desk = desk_for(self, self._hub)
            self.caller.speaks = True
        return self._hub

    def activate(self, shard: ShardId, binder: Binder[Link], *, rings: bool = False) -> Hub | RingHub:
        """Begin to live as ``shard``. ``rings``: that is what most of its channels will be."""
        self.shard = shard
        self.router.binder = binder
        hub = self.open(rings=rings)
        if self.cuts is not None:
            self.cuts.active = True
        if self._web is not None and self._web.serves_applications:
            with contextlib.suppress(Overloaded):  # no thread to be had: the first request looks
                self.mailbox.submit(partial(Context().run, self._web.look))
        return hub

    @property
    def private(self) -> bool:
        """Whether its modules are its own, for it shares this process with other shards."""
        return self._private

    # -- links -------------------------------------------------------------------------------------------------

    def connect(self, channel: Channel, peer: Peer, *, outgoing: bool) -> Link:
        """Start a conversation with a peer that the node vouched for; ``outgoing`` when this shard is the caller."""
        if self._hub is None:
            raise InternalError("a shard that is not active has no links")
        caller, callee = (self.component, peer.component) if outgoing else (peer.component, self.component)
        if not outgoing and self._links_of(peer.shard) >= max_links_of_a_peer():
            channel.close()
            raise Overloaded(f"{peer.shard} has too many channels to {self.shard} already")
        enter = self._enter_outgoing if outgoing else self._enter_incoming
        return Link(channel, peer, self.codec(caller, callee), self._hub, self, enter)

    def _enter_outgoing(self, link: Link) -> None:
        link.hears_calls = False
        self._enter(link)

    def _enter_incoming(self, link: Link) -> None:
        with self._mutex:
            self._incoming.add(link)
        self._enter(link)

    def _enter(self, link: Link) -> None:
        if isinstance(link.codec, TaggedCodec) and isinstance(link.codec.handles, LinkHandles):
            link.codec.handles.link = link
        # what waits for a part of its own component goes on being serial: nothing comes back from there
        kin = self.cuts is not None and link.peer.component in self.cuts.parts
        link.parking = None if kin else self.mailbox
        with self._mutex:
            self._links.add(link)

    def _links_of(self, shard: ShardId) -> int:
        with self._mutex:
            return sum(link.peer.shard == shard for link in self._links)

    def _permits(self, peer: Peer) -> Permits:
        return permits_of(self.plan, self.definition, peer)

    def _is_secret(self, value: object) -> bool:
        """Whether a value is, or shows, a secret of this shard."""
        if isinstance(value, str):
            return any(secret == value or (len(secret) >= LONG_SECRET and secret in value) for secret in self.secrets)
        if isinstance(value, bytes | bytearray):
            secrets = [secret.encode() for secret in self.secrets]
            return any(secret == value or (len(secret) >= LONG_SECRET and secret in value) for secret in secrets)
        return False

    def codec(self, caller: ComponentName, callee: ComponentName) -> CallCodec:
        """What the edge permits."""
        return edge_codec(self.plan, caller, callee, self.value_class, self.handles_of_links(), reads=self._reads)

    def on_message(self, link: Link, envelope: Envelope) -> None:
        self.responder.on_message(link, envelope)

    def on_link_closed(self, link: Link) -> None:
        with self._mutex:
            self._links.discard(link)
            self._incoming.discard(link)
        self.router.lost(link)
        self.responder.link_closed(link)

    # -- sessions ----------------------------------------------------------------------------------------------

    def session_begins(self, number: SessionNumber, name: str) -> None:
        self.sessions.names[number] = name

    def session_ends(self, number: SessionNumber) -> None:
        self.sessions.names.pop(number, None)
        self.responder.session_ended(number)
        self.let_go(self.objects.session_ended(number))
        for link in self.router.session_ended(number):
            link.close()

    def forget(self, component: ComponentName, session: SessionNumber) -> None:
        """A session's shard was given back while the session goes on."""
        for link in self.router.forget(Route(component, session=session)):
            link.close()

    def _outside_calls(self, context: CallContext) -> CallContext:
        """The context of user code that no running call vouches for: its own threads, and tasks that outlived their call.

        Raises NotPermitted when it could be any session's.
        """
        began = origin() if context is NOWHERE else context  # who began this thread, or the call that this outlived
        trace = replace(NOWHERE, trace_id=began.trace_id if began.trace_id != NO_TRACE else os.urandom(16))
        if context is not NOWHERE and context.session in self.sessions.names:
            return replace(trace, session=context.session, session_name=context.session_name)
        match self.definition.scope.kind:
            case ScopeKind.SESSION:
                served = set(self.sessions.names)
            case ScopeKind.REQUEST:
                served = self.responder.sessions()
            case _:  # what serves everybody acts for itself
                return trace
        if context is not NOWHERE:
            if not context.session:
                return trace
            raise NotPermitted(
                f"the session of this background task has ended in {self.shard}",
                outcome="not started",
                remedy="end such tasks with the call that begins them",
            )
        if len(served) > 1:
            raise NotPermitted(
                f"{self.shard} serves {len(served)} sessions, and this thread does not say for which of them it calls",
                outcome="not started",
                remedy="begin it with contextvars.copy_context().run, or use asyncio.to_thread",
            )
        for number in served:
            return replace(trace, session=number, session_name=self.sessions.name(number))
        return trace

    def patched(self, patch: Patch) -> Patched:
        """Let a test change something here; refused unless this shard is under test."""
        refusal = "only shards of a node that a test run started can be patched"
        return Patched(patch.request, self.patches.apply(patch) if self.patches is not None else refusal)

    @property
    def called(self) -> bool:
        """Whether anybody has a link by which to call this shard."""
        with self._mutex:
            return bool(self._incoming)

    def doing(self) -> dict[int, str]:
        """What threads of this shard do, by their identity, as far as it knows."""
        does = dict.fromkeys(self.chains.threads(), "it waits for another shard")
        if (holder := self.mailbox.holder) is not None:
            does[holder] = "it runs: it has the shard's baton"
        return does

    def load(self) -> tuple[int, float]:
        """How many calls run or wait here, and for how many seconds none has."""
        running = self.responder.running
        return running, 0.0 if running else max(0.0, time.monotonic() - self.responder.idle_since)

    def counts(self, request: int) -> Counts:
        """What happened here so far."""
        responder, caller = self.responder, self.caller
        return Counts(
            request, responder.all_calls_in, caller.all_calls_out, dict(responder.refused), dict(caller.failed),
            responder.running, self.mailbox.depth, time.process_time(),
        )  # fmt: skip

    # -- the end of objects ------------------------------------------------------------------------------------

    def let_go(self, dropped: list[Held]) -> None:
        """Let user objects go that nobody holds any more, soon: on the mailbox, for it may run their ``__del__``."""
        if not dropped:
            return
        self._farewells.append(dropped)
        try:
            self.mailbox.submit(self._say_farewell)
        except Overloaded:
            try:
                threading.Thread(target=self._say_farewell_apart, name=f"{self.shard}-farewell", daemon=True).start()
            except RuntimeError:
                pass  # no thread to be had: the next farewell is theirs as well

    def _say_farewell(self) -> None:
        while self._farewells:
            try:
                dropped = self._farewells.popleft()
            except IndexError:
                return  # another thread was quicker
            for held in dropped:
                Context().run(self._clear, held)

    def _say_farewell_apart(self) -> None:
        self.mailbox.acquire()
        try:
            self._say_farewell()
        finally:
            self.mailbox.release()

    def _clear(self, held: Held) -> None:
        """Let one object go, in the session that made it while that lives."""
        life = Life()
        life.over = True
        current_call.set(CallContext(session=held.session, session_name=self.sessions.name(held.session), life=life))
        if type(held.value) is OpenStream:
            try:
                self.responder.streams.close(held.value)
            except BaseException:  # as where a generator is closed because nobody has it any more
                traceback.print_exc()
        held.value = None

    # -- code --------------------------------------------------------------------------------------------------

    def resolve(self, module: str, qualname: str) -> Any:
        """The object that an entry point names, in this shard's own modules."""
        found: Any = sys.modules.get(module) if module in self._imported else None
        if found is None:
            found = self.import_module(module)
            if not self._private:
                self._imported.add(module)
        if "." not in qualname:
            return getattr(found, qualname)
        for part in qualname.split("."):
            found = getattr(found, part)
        return found

    def class_named(self, name: str) -> Any:
        """What a message means by ``module:Qualname``: a class, with its code only where this component knows the module."""
        module, _, qualname = name.partition(":")
        found: Any = self.data.get(module)
        if found is None:
            return self.resolve(module, qualname)
        for part in qualname.split("."):
            found = getattr(found, part)
        if isinstance(found, Hidden):
            raise CutRefused(found.message)
        return found

    def resolve_cut(self, module: str, qualname: str) -> Any:
        """A function that was cut out of its component: below its decorators, which run where it is called."""
        from shardwright.guest._cut_code import function_at

        lines = {entry.qualname: entry.line for entry in self.definition.entry_points if entry.module == module}
        found = function_at(self.import_module(module), qualname, lines.get(qualname, 0))
        return found if found is not None else self.resolve(module, qualname)

    def value_class(self, name: str) -> type:
        """A class that the plan lets travel by copy."""
        found = self.class_named(name)
        if not isinstance(found, type):
            raise InternalError(f"{name} is not a class")
        return found

    def close_links(self) -> None:
        """End all conversations: whoever waits for this shard, or in it for another, hears of it now."""
        with self._mutex:
            links = list(self._links)
        for link in links:
            link.close()

    @property
    def web(self) -> Web:
        """What it shows to the gateway. Made before it is asked for where routes lead to it, as they do to few."""
        return self._web or self._make_web()

    def _make_web(self) -> Web:
        from shardwright.guest._web import Web

        self._web = Web(self.responder, self.plan.routes)
        if self._namespace is not None:
            self._web.visible = self._namespace.visible
        return self._web

    def going_away(self) -> None:
        """The shard is to end: applications hear that their WebSocket clients go. Any thread."""
        if self._web is not None:
            self._web.going_away()

    def shut_down(self, timeout_s: float) -> None:
        """Tell applications of the end, and wait for them; not with the baton, and not on the event loop."""
        if self._web is not None:
            self._web.shutdown(timeout_s)

    def close(self) -> None:
        """End all conversations and threads; user code that runs on is left behind."""
        self.going_away()
        self.shut_down(_FAREWELL_S)
        self.close_links()
        self.mailbox.close()
        self.loop.close()
        if self._hub is not None:
            self._hub.close()


def max_links_of_a_peer() -> int:
    """How many channels one caller may have open to us: a quarter of our descriptors, of which a channel takes three."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(32, min(1024, soft // 12))


class LinkHandles:
    """How handles cross one link (the codec's HandleHook)."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._stateful = frozenset(runtime.plan.stateful_classes)
        self._known: dict[type, str] = {}
        self.link: Link | None = None

    def reference(self, value: object) -> tuple[str, int, str] | None:
        if isinstance(value, Handle):
            handle_class = type(value)
            self._runtime.proxies.pass_on(value)
            return value._sw_shard, value._sw_object, f"{handle_class.__module__}:{handle_class._qualname}"
        name = self._stateful_name(type(value))
        if not name or self.link is None:
            return None
        object_id = self._runtime.objects.export(value, id(self.link), current_call.get().session)
        return self._runtime.shard, object_id, name

    def may_refer(self, cls: type) -> bool:
        return issubclass(cls, Handle) or bool(self._stateful_name(cls))

    def _stateful_name(self, cls: type) -> str:
        name = self._known.get(cls)
        if name is None:
            name = self._known[cls] = next(
                (
                    f"{base.__module__}:{base.__qualname__}"
                    for base in cls.__mro__
                    if f"{base.__module__}:{base.__qualname__}" in self._stateful
                ),
                "",
            )
        return name

    def resolve(self, shard: str, object_id: int, class_name: str) -> object:
        runtime = self._runtime
        if shard == runtime.shard:
            return runtime.objects.get(object_id)
        if class_name not in self._stateful:
            raise CallError(f"{class_name} is not a class that handles stand for", outcome="failed")
        cls = runtime.class_named(class_name)
        if not isinstance(cls, HandleType):
            raise CallError(f"{class_name} lives here, but its object is said to live in {shard}", outcome="failed")
        return runtime.proxies.handles.get(cls, ShardId(shard), object_id)  # type: ignore[arg-type]


def edge_codec(
    plan: ShardPlan,
    caller: ComponentName,
    callee: ComponentName,
    value_class: Callable[[str], type],
    handles: HandleHook,
    *,
    reads: CodecLimits | None = None,
) -> CallCodec:
    """What an edge of the plan permits: the tagged codec with the plan's classes, or pickle where the manifest opts in."""
    edge = plan.edge(caller, callee)
    if any(each.component == callee and each.cut_of for each in plan.definitions):
        from shardwright.transport.kin import KinCodec

        return KinCodec()  # nobody but the component it was cut out of, or a test run in its place, may call it
    if edge is not None and edge.pickle:
        return PickleCodec()
    allowed = plan.value_classes + (edge.classes if edge is not None else ())
    return TaggedCodec(ClassTable(allowed, value_class), handles=handles, reads=reads)


def peer_of(component: str, shard: str, sessions: Sequence[int] | None) -> Peer:
    return Peer(
        ComponentName(component),
        ShardId(shard),
        None if sessions is None else frozenset(SessionNumber(number) for number in sessions),
    )

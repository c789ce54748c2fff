"""The node's own client: calls from the process that started the node, through the same links that shards use.

The application's code is not imported here: data classes come from modules that the user's program has imported already,
or from private copies of just the generated and common modules that define them.

A little beyond 400 lines: what the program that started a node does in its process, calls, awaits and iterations alike.
"""

from __future__ import annotations

import asyncio
import contextlib
import difflib
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

from msgspec.structs import replace

from shardwright.contracts.transport import Transport
from shardwright.errors import CallError, CutRefused, InternalError, NodeError, NotPermitted
from shardwright.guest import (
    NOWHERE,
    RINGS,
    WHY_PATIENCE_S,
    Bind,
    CallContext,
    Caller,
    Chains,
    DataModules,
    Handle,
    Hidden,
    Link,
    Namespace,
    Proxies,
    Route,
    Router,
    Stream,
    async_generator_proxy,
    current_call,
    desk_of_caller,
    edge_codec,
    generator_proxy,
    make_hub,
    outlet_of,
    public_module,
    transport_of,
)
from shardwright.model.endpoint import Endpoint, Peer
from shardwright.model.envelope import Envelope
from shardwright.model.ids import ComponentName, SessionNumber, ShardId
from shardwright.model.shard import EntryKind, EntryPoint, ShardDefinition, ShardPlan
from shardwright.node._core import CLIENT, Core
from shardwright.transport.socket import SocketTransport

Call = Callable[[tuple[Any, ...], dict[str, Any]], Any]


class Incoming(Protocol):
    """Who answers shards that call the client: nobody but under test."""

    def on_message(self, link: Link, envelope: Envelope) -> None: ...

    def on_link_closed(self, link: Link) -> None: ...


class Client:
    """Calls into the node's shards from any thread but the node's, or awaits from any event loop.

    To be made on the node's loop.
    """

    def __init__(
        self,
        plan: ShardPlan,
        core: Core,
        loop: asyncio.AbstractEventLoop,
        transport: Transport,
        *,
        data_alone: bool = False,
    ) -> None:
        """``data_alone``: what comes is shown to somebody else, and no code of the application may run for it here."""
        self._data_alone = data_alone
        self._plan = plan
        self._made: dict[str, Call] = {}  # what calls what was called before
        self._core = core
        self._loop = loop
        self._loop_thread = threading.get_ident()
        self._hub = make_hub("client-hub", rings=transport.name == RINGS)
        self._transports: dict[str, Transport] = {"socket": SocketTransport(), transport.name: transport}
        own = transport_of(self._hub)
        if own is not None:
            self._transports[RINGS] = own
        self.router = Router(self)
        self.handle_sessions: dict[tuple[str, int], CallContext] = {}  # in which session each handle was received
        self._caller = _ClientCaller(self)
        self._caller.speaks = True
        self._proxies = Proxies(plan, self._caller)
        self._namespace = Namespace(plan, None, self._proxies)
        self._data = DataModules(plan, None, self._proxies, self.class_named)
        self._stateful = frozenset(plan.stateful_classes)
        # what a test run replaces: there the test process imports generated modules, and shards may call it
        self.import_module: Callable[[str], ModuleType] = self._namespace.import_module
        self.handles_of_links: Callable[[], ClientHandles] = lambda: ClientHandles(self)
        self.incoming: Incoming | None = None
        self.on_use: Callable[[ComponentName], None] = lambda component: None
        self.after_call: Callable[[], None] = lambda: None
        self.awaiting: list[asyncio.AbstractEventLoop] = []  # the loops on which calls are awaited now
        self._links: set[Link] = set()
        self._mutex = threading.Lock()
        if not data_alone:
            core.bindings.offer_client = self.offered

    @property
    def chains(self) -> Chains:
        """The threads of this process that wait for shards."""
        return self._caller.chains

    @property
    def proxies(self) -> Proxies:
        return self._proxies

    def outside_calls(self, find: Callable[[CallContext], CallContext]) -> None:
        """In which context to call where none of a session is running."""
        self._caller.outside_calls = find

    def around_calls(self, before: Callable[[], None], after: Callable[[], None]) -> None:
        """Have both called on the calling thread, around each call."""
        release = self._proxies.release_dropped

        def both() -> None:
            release()
            before()

        self._caller.before_call = both
        self.after_call = after

    def entry(self, target: str) -> tuple[ShardDefinition, EntryPoint]:
        """The entry point that ``component.name`` names. Raises NotPermitted with the nearest name, TypeError."""
        if not isinstance(target, str):
            raise TypeError(f"a call names 'component.function' as text, not {type(target).__name__}")
        component, _, name = target.partition(".")
        try:
            definition = self._plan.definition(component)
        except KeyError:
            names = [str(d.component) for d in self._plan.definitions]
            raise NotPermitted(
                f"there is no component {component!r}", outcome="not started", remedy=_nearest(component, names)
            ) from None
        if definition.cut_of:
            raise NotPermitted(
                f"{component} is a part of {definition.cut_of}, which alone may call it", outcome="not started",
                remedy=f"call {definition.cut_of}.{name or 'function'}",
            )  # fmt: skip
        if not name:
            name = definition.code.attribute or "main"
            entries = [e.name for e in definition.entry_points]
            if not definition.code.attribute and name not in entries:
                shown = ", ".join(f"{component}.{entry}" for entry in entries[:6] if "." not in entry)
                raise NotPermitted(
                    f"{target!r} names a component, and no function of it",
                    outcome="not started",
                    remedy=f"name one as component.function: {shown}" if shown else "",
                )
        try:
            entry = definition.entry(name)
        except KeyError:
            entries = [e.name for e in definition.entry_points]
            raise NotPermitted(
                f"{component} has no entry point {name!r}", outcome="not started", remedy=_nearest(name, entries)
            ) from None
        if entry.kind is EntryKind.METHOD and "." in entry.name:
            raise NotPermitted(
                f"{target} is a method: construct a {entry.name.rpartition('.')[0]} and call it on the handle",
                outcome="not started",
            )
        return definition, entry

    def call(self, context: CallContext, target: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        try:
            made = self._made[target]
        except (KeyError, TypeError):
            definition, entry = self.entry(target)
            if entry.is_generator:
                return generator_proxy(self._stream_of(definition, entry, context))(*args, **kwargs)
            made = self._made[target] = self._call_of(definition, entry)
        token = current_call.set(context)
        try:
            return made(args, kwargs)
        finally:
            current_call.reset(token)

    async def call_async(
        self, context: CallContext, target: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Any:
        definition, entry = self.entry(target)
        if entry.is_generator:
            return async_generator_proxy(self._stream_of(definition, entry, context))(*args, **kwargs)
        token = current_call.set(context)
        try:
            return await self._caller.call_async(definition, entry, args, kwargs)
        finally:
            current_call.reset(token)

    def _stream_of(self, definition: ShardDefinition, entry: EntryPoint, context: CallContext) -> Callable[..., Stream]:
        """What makes a generator of the application one of this process, all of it in that context."""

        def make(*args: Any, **kwargs: Any) -> Stream:
            self.on_use(definition.component)
            return Stream(self._caller, definition, entry, args, kwargs, context=context)

        return make

    def take_up(self, plan: ShardPlan) -> None:
        """Other code: targets, proxies and data classes are that plan's from now on. Links to shards that live stay."""
        self._plan = plan
        self._made = {}
        self._proxies = Proxies(plan, self._caller)
        if (desk := self._caller.desk) is not None:
            desk.dropped, desk.after_call = self._proxies.dropped_handles, self._proxies.release_dropped
        self._namespace = Namespace(plan, None, self._proxies)
        self._data = DataModules(plan, None, self._proxies, self.class_named)
        self._stateful = frozenset(plan.stateful_classes)

    def session_ended(self, number: SessionNumber) -> None:
        for key in [key for key, context in list(self.handle_sessions.items()) if context.session == number]:
            self.handle_sessions.pop(key, None)
        for link in self.router.session_ended(number):
            link.close()

    def close(self) -> None:
        with self._mutex:
            links = list(self._links)
        for link in links:
            link.close()
        self._hub.close()

    def hasten(self) -> None:
        """Calls go the quick way where there is one. To be called before the first; not where a test run looks on."""
        desk_of_caller(self._caller, self._hub, self._proxies)

    def _call_of(self, definition: ShardDefinition, entry: EntryPoint) -> Call:
        if self._caller.desk is None:
            return partial(self._caller.call, definition, entry)
        return outlet_of(self._caller, definition, entry)

    def lead(self, link: Link, session: SessionNumber) -> None:
        """That session's first calls of what was called by name before go the quick way by this link, which they will use."""
        if link.line is None:
            return
        definition = self._plan.definition(link.peer.component)
        prepared = False
        for target, made in self._made.items():
            if target.partition(".")[0] == link.peer.component and (outlet := getattr(made, "__self__", None)):
                self.router.lead(outlet, definition, Route(definition.component, session), session, link, link.line)
                if not prepared:  # one is enough: what calls of all functions share is most of it
                    prepared = True
                    link.line.prepares(self.entry(target)[1].method_id, session)

    def open_link(self, peer: Peer, endpoint: Endpoint) -> Link:
        """A conversation over an endpoint that the node gave us."""
        return self._link(peer, endpoint)

    # -- Binder ------------------------------------------------------------------------------------------------

    def bind(self, route: Route, context: CallContext, lost: Sequence[ShardId] = ()) -> Sequence[Link]:
        if threading.get_ident() == self._loop_thread:
            raise InternalError("a blocking call from the node's own event loop, which would wait for itself")
        bind = Bind(0, route.component, context.session, route.key, route.shard, tuple(lost))
        asked = self._core.bindings.bind(CLIENT, bind)
        try:
            pairs = asyncio.run_coroutine_threadsafe(asked, self._loop).result()
        except RuntimeError as error:
            asked.close()
            raise NodeError(f"the node has stopped: {error}") from None
        return [self._link(peer, endpoint) for peer, endpoint in pairs]

    def why(self, peer: Peer) -> str:
        asked = self._core.shards.why(peer.shard, peer.component)
        try:
            return asyncio.run_coroutine_threadsafe(asked, self._loop).result(2 * WHY_PATIENCE_S)
        except (RuntimeError, TimeoutError):
            asked.close()
            return ""

    def _link(self, peer: Peer, endpoint: Endpoint) -> Link:
        codec = edge_codec(self._plan, CLIENT.component, peer.component, self._value_class, self.handles_of_links())
        return Link(self._transports[endpoint.transport].open(endpoint), peer, codec, self._hub, self, self._enter)

    def _enter(self, link: Link) -> None:
        link.hears_calls = self.incoming is not None
        with self._mutex:
            self._links.add(link)

    def offered(self, peer: Peer, endpoint: Endpoint) -> None:
        """The node offers a further instance of a shared component. Called on the node's loop."""
        self.router.offered(Route(peer.component), self._link(peer, endpoint))

    def release(self, route: Route, link: Link) -> None:
        shard = link.peer.shard
        self._loop.call_soon_threadsafe(self._core.bindings.release_request, shard)
        link.close()

    # -- Incoming ----------------------------------------------------------------------------------------------

    def on_message(self, link: Link, envelope: Envelope) -> None:
        if self.incoming is not None:
            self.incoming.on_message(link, envelope)
        else:
            link.close()  # nobody calls the client

    def on_link_closed(self, link: Link) -> None:
        with self._mutex:
            self._links.discard(link)
        self.router.lost(link)
        if self.incoming is not None:
            self.incoming.on_link_closed(link)

    # -- classes -----------------------------------------------------------------------------------------------

    def class_named(self, name: str) -> Any:
        """What a message means by ``module:Qualname``."""
        module, _, qualname = name.partition(":")
        if self._data_alone:
            found: Any = self._data.get(module)
            if found is None:
                raise InternalError(f"nothing is known of the classes of {module}")
        else:
            found = self._imported(module) or self.import_module(module)
        for part in qualname.split("."):
            found = getattr(found, part)
        if isinstance(found, Hidden):
            raise CutRefused(found.message)
        return found

    def _value_class(self, name: str) -> type:
        found = self.class_named(name)
        if not isinstance(found, type):
            raise InternalError(f"{name} is not a class")
        return found

    def _imported(self, module: str) -> Any:
        """The user's own import of that module, if it is of the same file."""
        found = public_module(module)
        path = getattr(found, "__file__", None)
        if found is None or not path:
            return None
        base = Path(self._plan.root, *module.split("."))
        ours = (base / "__init__.py", base.with_suffix(".py"))
        return found if os.path.realpath(path) in {os.path.realpath(p) for p in ours} else None


class _ClientCaller(Caller):
    """Uses of a handle outside ``session.call`` belong to the session that the handle came from."""

    def __init__(self, client: Client) -> None:
        super().__init__(client.router, Chains(), None)
        self._client = client

    def context_of(self, target: tuple[ShardId, int] | None) -> CallContext | None:
        context = self._client.handle_sessions.get(target) if target is not None else None
        if context is None or current_call.get() is not NOWHERE:
            return None
        return replace(context, trace_id=os.urandom(16))

    @contextlib.contextmanager
    def _session_of(self, target: tuple[ShardId, int] | None) -> Iterator[None]:
        context = self.context_of(target)
        if context is None:
            yield
            return
        token = current_call.set(context)
        try:
            yield
        finally:
            current_call.reset(token)

    def call(
        self,
        definition: ShardDefinition,
        entry: EntryPoint,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        *,
        target: tuple[ShardId, int] | None = None,
        route: Route | None = None,
    ) -> Any:
        client = self._client
        if target is None:  # the usual call; each frame less counts where caches are cold
            client.on_use(definition.component)
            try:
                return self._call(definition, entry, args, kwargs, None, route, None)
            finally:
                client.after_call()
        with self._session_of(target):
            client.on_use(definition.component)
            try:
                return super().call(definition, entry, args, kwargs, target=target, route=route)
            finally:
                client.after_call()

    async def call_async(
        self,
        definition: ShardDefinition,
        entry: EntryPoint,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        *,
        target: tuple[ShardId, int] | None = None,
        route: Route | None = None,
    ) -> Any:
        loop = asyncio.get_running_loop()
        self._client.awaiting.append(loop)
        with self._session_of(target):
            self._client.on_use(definition.component)
            try:
                return await super().call_async(definition, entry, args, kwargs, target=target, route=route)
            finally:
                self._client.awaiting.remove(loop)
                self._client.after_call()

    def get(self, definition: ShardDefinition, route: Route, owner: str | int, name: str) -> Any:
        target = (route.shard, owner) if route.shard is not None and isinstance(owner, int) else None
        with self._session_of(target):
            return super().get(definition, route, owner, name)


class ClientHandles:
    """Handles in the hands of the user's program."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def reference(self, value: object) -> tuple[str, int, str] | None:
        if not isinstance(value, Handle):
            return None
        cls = type(value)
        self._client._proxies.pass_on(value)
        return value._sw_shard, value._sw_object, f"{cls.__module__}:{cls._qualname}"

    def resolve(self, shard: str, object_id: int, class_name: str) -> object:
        client = self._client
        if class_name not in client._stateful:
            raise CallError(f"{class_name} is not a class that handles stand for", outcome="failed")
        cls: Any
        if client._data_alone:
            cls = client.class_named(class_name)
        else:
            module, _, qualname = class_name.partition(":")
            cls = client.import_module(module)
            for part in qualname.split("."):
                cls = getattr(cls, part)
        client.handle_sessions[shard, object_id] = replace(NOWHERE, session=client._caller.context().session)
        return client._proxies.handles.get(cls, ShardId(shard), object_id)


def _nearest(name: str, names: list[str]) -> str:
    close = difflib.get_close_matches(name, names, 1)
    return f"did you mean {close[0]!r}?" if close else f"there are: {', '.join(sorted(names)) or 'none'}"

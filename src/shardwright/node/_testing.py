"""A node on the bench: what the test run that started it may do to its shards, and what they use of the test process.

Nothing here is reachable on a node that was started otherwise: its guests were not told to obey, its bindings lead to
nobody, and its client answers no call.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import itertools
import operator
import sys
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from functools import partial
from types import FunctionType
from typing import Any

import msgspec
from msgspec import Struct

from shardwright.errors import CallError, HandleExpired, NodeError
from shardwright.guest import (
    REFERENCE,
    TEST_PROCESS_DEFINITION,
    CallContext,
    Handle,
    Link,
    Mailbox,
    Objects,
    Patch,
    Patched,
    Proxies,
    Responder,
    ShardLoop,
    edge_codec,
)
from shardwright.model.endpoint import Endpoint, Peer
from shardwright.model.envelope import Envelope
from shardwright.model.ids import ComponentName, ShardId
from shardwright.model.scope import ScopeKind, StateKind
from shardwright.model.shard import GATEWAY_COMPONENT, ShardPlan
from shardwright.node._client import Client, ClientHandles
from shardwright.node._core import CLIENT, Core
from shardwright.node._port import ShardPort
from shardwright.transport import ClassTable, TaggedCodec

PATCH_TIMEOUT_S = 30.0

_SPECIAL: dict[str, Callable[..., Any]] = {
    "__bool__": bool, "__len__": len, "__iter__": iter, "__next__": next, "__str__": str, "__int__": int,
    "__float__": float, "__contains__": operator.contains, "__getitem__": operator.getitem,
    "__setitem__": operator.setitem, "__delitem__": operator.delitem, "__lt__": operator.lt, "__le__": operator.le,
    "__gt__": operator.gt, "__ge__": operator.ge, "__add__": operator.add, "__radd__": lambda a, b: b + a,
    "__sub__": operator.sub, "__mul__": operator.mul, "__truediv__": operator.truediv, "__neg__": operator.neg,
}  # fmt: skip


class _Held(Struct):
    """An object that shards may use. ``age`` counts ``forget_since``: what a test passed is let go with the test."""

    value: object
    age: int


class Bench:
    """Patches shards, and serves them objects of this process. To be made on the node's loop; used from any other thread."""

    def __init__(self, plan: ShardPlan, core: Core, client: Client, loop: asyncio.AbstractEventLoop) -> None:
        self._plan = plan
        self._core = core
        self._client = client
        self._loop = loop
        self._owners = {surface.module: surface.owner for surface in plan.modules}
        self._values = frozenset(plan.value_classes)
        self._copies = TaggedCodec(ClassTable(plan.value_classes, client._value_class))
        self._numbers = itertools.count(1)
        self._active: dict[tuple[str, str], Patch] = {}  # what shards that start later must be told
        self._asked: dict[tuple[int, ShardId], asyncio.Future[str]] = {}
        self._mutex = threading.Lock()
        self._held: dict[int, _Held] = {}
        self._ids: dict[int, int] = {}
        self._age = 0
        mailbox = Mailbox(limit=1024, name="test-process")
        self._mailbox = mailbox
        self._responder = Responder(
            TEST_PROCESS_DEFINITION,
            mailbox=mailbox,
            loop=ShardLoop(mailbox, "test-process"),
            chains=client.chains,
            objects=Objects(),
            resolve=lambda module, name: self._use if name == "use" else self._use_async,
            session_name=lambda number: "",
        )
        client.import_module = importlib.import_module
        client.handles_of_links = lambda: _BenchHandles(client, self)
        client.incoming = self
        core.bench = self
        core.bindings.serve_from_client = self._serve

    def __repr__(self) -> str:
        return f"<Bench, {len(self._active)} patches, {len(self._held)} objects of tests>"

    @property
    def proxies(self) -> Proxies:
        """What generated modules of this process are made of."""
        return self._client.proxies

    def act_for(self, find: Callable[[], CallContext], used: Callable[[ComponentName], None]) -> None:
        """In which context this process calls where no call of a session is running; ``used`` hears which component."""
        self._client.outside_calls(lambda context: find())
        self._client.on_use = used

    def around_calls(self, before: Callable[[], None], after: Callable[[], None]) -> None:
        """Have both called on the calling thread, around each call of this process to a shard."""
        self._client.around_calls(before, after)

    def close(self) -> None:
        """End the threads that served shards; the node is closed already."""
        self._mailbox.close()
        self._responder.loop.close()

    # -- patching ----------------------------------------------------------------------------------------------

    def patch(self, module: str, name: str, value: object, *, everywhere: bool = False) -> None:
        """Set an attribute where its owner is, and in shards that start later; returns when all have obeyed.

        ``everywhere``: also in the generated modules of the other components, where it is a constant. Raises NodeError.
        """
        self._tell(self._patch(module, name, "set", value, everywhere))

    def fill(self, module: str, name: str, value: object) -> None:
        """Make the container that the owner has there hold what this one holds. It is not undone."""
        self._tell(self._patch(module, name, "fill", value))

    def _patch(self, module: str, name: str, action: str, value: object, everywhere: bool = False) -> Patch:
        codec = edge_codec(
            self._plan, CLIENT.component, CLIENT.component, self._client._value_class, self._client.handles_of_links()
        )
        payload, buffers, _ = codec.encode_request(value)
        kept = tuple(bytes(buffer) for buffer in buffers)
        owner = self._owners.get(module, "")
        return Patch(next(self._numbers), module, name, action, owner, everywhere, bytes(payload), kept)

    def content(self, value: object) -> bytes | None:
        """The bytes that a value crosses by, to compare it with itself later; None if it does not cross by copy."""
        try:
            payload, buffers, _ = self._copies.encode_request(value)
        except CallError:
            return None
        return b"".join((payload, *buffers))

    def is_shared(self, module: str) -> bool:
        """Whether the module belongs to a component of which there is one for all sessions."""
        owner = self._owners.get(module)
        return owner is not None and self._plan.definition(owner).scope.kind is ScopeKind.SHARED

    def delete(self, module: str, name: str) -> None:
        """The same, deleting it."""
        self._tell(Patch(next(self._numbers), module, name, "delete", self._owners.get(module, "")))

    def undo(self, module: str, name: str) -> None:
        """Give back the attribute that was there before the first ``patch``."""
        self._tell(Patch(next(self._numbers), module, name, "undo", self._owners.get(module, ""), True))

    def _tell(self, patch: Patch) -> None:
        asyncio.run_coroutine_threadsafe(self._broadcast(patch), self._loop).result()

    async def _broadcast(self, patch: Patch) -> None:
        if patch.action == "undo":
            self._active.pop((patch.module, patch.name), None)
        elif patch.action != "fill":
            self._active[patch.module, patch.name] = patch
        asked: list[asyncio.Future[str]] = []
        for port in list(self._core.ports().values()):
            if port.component == GATEWAY_COMPONENT:  # it has no code of the application
                continue
            future: asyncio.Future[str] = self._loop.create_future()
            self._asked[patch.request, port.shard] = future
            asked.append(future)
            port.patch(patch)
        if not asked:
            return
        await asyncio.wait(asked, timeout=PATCH_TIMEOUT_S)
        errors = [f.result() if f.done() else f"no answer within {PATCH_TIMEOUT_S:g} s" for f in asked]
        for key in [key for key in self._asked if key[0] == patch.request]:
            del self._asked[key]
        if failed := [error for error in errors if error]:
            if patch.action in ("set", "delete"):
                self._active.pop((patch.module, patch.name), None)
            raise NodeError(failed[0], remedy="patch it through a function of its component, or run the test uncut")

    # -- the core's events -------------------------------------------------------------------------------------

    def shard_ready(self, port: ShardPort) -> None:
        for patch in self._active.values() if port.component != GATEWAY_COMPONENT else ():
            port.patch(msgspec.structs.replace(patch, request=0))

    def patched(self, port: ShardPort, patched: Patched) -> None:
        future = self._asked.get((patched.request, port.shard))
        if future is not None and not future.done():
            future.set_result(patched.error)
        elif patched.error:
            self._core.record_of(port, "note", patched.error)

    def gone(self, port: ShardPort) -> None:
        for (_, shard), future in self._asked.items():
            if shard == port.shard and not future.done():
                future.set_result("")

    # -- fresh shards ------------------------------------------------------------------------------------------

    def replace(self, used: Iterable[ComponentName], *, keep: Iterable[ComponentName] = ()) -> None:
        """End all shards that outlive a session and have state, of these components and of those that they may call.

        But for those that ``keep`` may call. Whoever calls next gets fresh ones.
        """
        plan = self._plan
        reached = {name for component in used for name in plan.closure(component)}
        reached -= {name for component in keep for name in plan.closure(component)}
        lasting = {
            d.component
            for d in plan.definitions
            if d.component in reached
            and d.state is not StateKind.NONE
            and d.scope.kind in (ScopeKind.SHARED, ScopeKind.KEY)
        }

        async def end() -> None:
            shards = [port.shard for port in self._core.ports().values() if port.component in lasting]
            await asyncio.gather(*(self._core.shards.stop(shard) for shard in shards))

        if lasting:
            asyncio.run_coroutine_threadsafe(end(), self._loop).result()

    # -- objects of this process -------------------------------------------------------------------------------

    def reference(self, value: object) -> tuple[str, int, str]:
        """The name under which shards may use that object."""
        with self._mutex:
            number = self._ids.get(id(value))
            if number is None:
                number = next(self._numbers)
                self._ids[id(value)] = number
                self._held[number] = _Held(value, self._age)
        kind = "function" if isinstance(value, FunctionType) else "object"
        return CLIENT.shard, number, f"{REFERENCE}{kind}{' async' if _is_async(value) else ''}"

    def object(self, number: int) -> object:
        held = self._held.get(number)
        if held is None:
            raise HandleExpired(
                "an object of a test that has ended is used in a shard",
                outcome="not started",
                remedy="what a shard keeps beyond a test must not come from that test",
            )
        return held.value

    def newest(self) -> int:
        """A mark for ``forget_since``."""
        self._age += 1
        return self._age

    def keep_since(self, mark: int) -> None:
        """What was passed since that mark lasts as long as the node does."""
        with self._mutex:
            for held in self._held.values():
                if held.age >= mark:
                    held.age = 0

    def forget_since(self, mark: int) -> None:
        """Let go of what was passed to shards since that mark."""
        with self._mutex:
            for number, held in [item for item in self._held.items() if item[1].age >= mark]:
                del self._held[number]
                self._ids.pop(id(held.value), None)

    def _serve(self, peer: Peer, endpoint: Endpoint) -> None:
        self._client.open_link(peer, endpoint)

    def on_message(self, link: Link, envelope: Envelope) -> None:
        self._responder.on_message(link, envelope)

    def on_link_closed(self, link: Link) -> None:
        self._responder.link_closed(link)

    def _use(self, number: int, operation: str, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Runs on the thread that waits for the shard, else on a thread of its own, else on the loop that awaits it."""
        work = partial(_perform, self.object(number), operation, name, args, kwargs)
        loop = self._awaiting_loop()
        if loop is None:
            return work()
        done: Future[Any] = Future()

        def run() -> None:
            try:
                done.set_result(work())
            except BaseException as error:
                done.set_exception(error)

        loop.call_soon_threadsafe(run)
        return done.result()

    async def _use_async(
        self, number: int, operation: str, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        async def work() -> Any:
            result = _perform(self.object(number), operation, name, args, kwargs)
            return await result if inspect.isawaitable(result) else result

        loop = self._awaiting_loop()
        if loop is None:
            return await work()
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work(), loop))

    def _awaiting_loop(self) -> asyncio.AbstractEventLoop | None:
        """The test's own loop, where it awaits a shard and is not this thread's."""
        for loop in reversed(self._client.awaiting):
            if loop.is_running() and getattr(loop, "_thread_id", None) != threading.get_ident():
                return loop
        return None


class _BenchHandles(ClientHandles):
    """Handles, and references to whatever else does not cross."""

    def __init__(self, client: Client, bench: Bench) -> None:
        super().__init__(client)
        self._bench = bench

    def reference(self, value: object) -> tuple[str, int, str] | None:
        if isinstance(value, Handle):
            return super().reference(value)
        cls = type(value)
        if isinstance(value, BaseException):
            return None
        if f"{cls.__module__}:{cls.__qualname__}" in self._bench._values:
            return None
        return self._bench.reference(value)

    def resolve(self, shard: str, object_id: int, class_name: str) -> object:
        if class_name.startswith(REFERENCE):
            return self._bench.object(object_id)
        return super().resolve(shard, object_id, class_name)


def _perform(thing: Any, operation: str, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    match operation:
        case "call":
            return thing(*args, **kwargs)
        case "get":
            return getattr(thing, name)
        case "set":
            return setattr(thing, name, args[0])
        case _:
            special = _SPECIAL.get(name)
            return special(thing, *args) if special is not None else getattr(thing, name)(*args)


def _is_async(value: object) -> bool:
    if inspect.iscoroutinefunction(value):
        return True
    mock = sys.modules.get("unittest.mock")
    return mock is not None and isinstance(value, mock.AsyncMock)

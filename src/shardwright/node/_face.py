"""The public face of a node: plan, start, astart, sessions, calls. Blocking or awaiting, over the same core."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Coroutine, Generator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from msgspec import Struct

from shardwright.errors import NotPermitted
from shardwright.guest import CallContext, beyond, note_shards
from shardwright.model.ids import SessionId, ShardId
from shardwright.model.limits import Limits
from shardwright.model.shard import ShardPlan
from shardwright.node._live_session import LiveSession
from shardwright.node._reload import Reloaded
from shardwright.node._running import Options, Running
from shardwright.node._status import ShardStatus


def _outside(error: BaseException, running: Running) -> None:
    """An exception leaves the application: without our frames, and with a note of the components that it crossed."""
    error.__traceback__ = beyond(error.__traceback__)
    note_shards(error, running.plan)


class Session:
    """One lived use: the shards that it needs, composed whole, given back at its end."""

    def __init__(self, running: Running, live: LiveSession) -> None:
        self._running = running
        self._live = live
        self._ended = False

    def __repr__(self) -> str:
        return f"<session {self._live.name}{', ended' if self._ended else ''}>"

    @property
    def name(self) -> SessionId:
        return SessionId(self._live.name)

    def call(self, target: str, /, *args: Any, **kwargs: Any) -> Any:
        """Call ``component.function``. Raises what the function raises, or a CallError with the outcome."""
        try:
            return self._running.client.call(self.context(), target, args, kwargs)
        except BaseException as error:
            _outside(error, self._running)
            raise

    def context(self, timeout_s: float | None = None) -> CallContext:
        live = self._live
        if self._ended:
            raise NotPermitted(f"session {live.name} has ended", outcome="not started", remedy="begin a new one")
        return CallContext.of_session(live.number, live.name).within(timeout_s)

    def with_timeout(self, timeout_s: float) -> Deadline:
        """``session.with_timeout(0.5).call(...)``: the same with a deadline, which travels with the call.

        Raises TypeError, ValueError for what is no number of seconds.
        """
        if isinstance(timeout_s, bool) or not isinstance(timeout_s, int | float):
            raise TypeError(f"with_timeout() takes seconds as a number, not {type(timeout_s).__name__}")
        if timeout_s != timeout_s:
            raise ValueError("with_timeout() takes seconds as a number, not nan")
        return Deadline(self, timeout_s)

    def end(self) -> None:
        """Give the shards back. Idempotent."""
        if not self._ended:
            self._ended = True
            self._running.end(self._live.number)

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()


class Deadline(Struct, frozen=True):
    """A session's calls under a deadline."""

    session: Session
    timeout_s: float

    def call(self, target: str, /, *args: Any, **kwargs: Any) -> Any:
        context = self.session.context(self.timeout_s)
        try:
            return self.session._running.client.call(context, target, args, kwargs)
        except BaseException as error:
            _outside(error, self.session._running)
            raise


class Node:
    """A running node, blocking. ``with shardwright.start(path) as node: ...``"""

    def __init__(self, running: Running) -> None:
        self.running = running

    def __repr__(self) -> str:
        return repr(self.running)

    @property
    def plan(self) -> ShardPlan:
        return self.running.plan

    def session(
        self, name: str | None = None, *, keys: Mapping[str, Any] | None = None, timeout_s: float | None = None
    ) -> Session:
        """Compose a session. ``keys``: the key of each keyed component that it will use, to have those ready as well.

        Raises CompositionRefused when it cannot have all its shards within ``timeout_s`` (10 s); then it has none.
        """
        if (live := self.running.begin_at_once(name, keys)) is not None:
            return Session(self.running, live)
        beginning = self.running.begin_soon(name, keys, timeout_s)
        try:
            return Session(self.running, beginning.future.result())
        except BaseException:
            beginning.give_up()
            raise

    @property
    def urls(self) -> tuple[str, ...]:
        """Where the gateway answers; empty when there is none."""
        ingress = self.running.ingress
        return ingress.urls if ingress is not None else ()

    def shards(self) -> list[ShardStatus]:
        return self.running.submit(self.running.status()).result()

    def metrics(self, accept: str = "") -> bytes:
        """All numbers as a scraper reads them: Prometheus' text, or OpenMetrics where ``accept`` asks for it."""
        return self.running.submit(self.running.metrics(accept)).result().body

    def resize(
        self,
        target: str,
        *,
        guarantee: Mapping[str, Any] | None = None,
        ceiling: Mapping[str, Any] | None = None,
    ) -> dict[ShardId, Limits]:
        """Change limits of a shard, or of all shards of a component, while they run; returns what reads back."""
        from shardwright.node._resize import resize

        return self.running.submit(resize(self.running.core, target, guarantee or {}, ceiling or {})).result()

    def pause(self, target: str) -> tuple[ShardId, ...]:
        """Stop a shard, or all shards of a component, where they are: calls to them wait. Returns those that stand still."""
        from shardwright.node._hold import pause

        return self.running.submit(pause(self.running.core, target)).result()

    def unpause(self, target: str) -> tuple[ShardId, ...]:
        """Let them go on."""
        from shardwright.node._hold import unpause

        return self.running.submit(unpause(self.running.core, target)).result()

    def pin(self, target: str, cpus: Collection[int]) -> dict[ShardId, frozenset[int]]:
        """Hold a shard, or all shards of a component, to these processors of the machine; returns what reads back."""
        from shardwright.node._hold import pin

        return self.running.submit(pin(self.running.core, target, cpus)).result()

    def reload(self) -> Reloaded:
        """Take up what changed in the application's code and manifest, once; blocks until old shards have ended.

        Shards of components whose code changed are replaced, without state new before old; all others run on, and so do
        sessions. Those that had state in a replaced shard get ShardLost with their next call. Raises ManifestError,
        PlanError, ComponentImportError, StartFailed, NodeError; then the node goes on with the old code.
        """
        return self.running.submit(self.running.reload()).result()

    def close(self) -> None:
        self.running.close()

    def __enter__(self) -> Node:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class AsyncSession(Session):
    """The same, awaiting."""

    async def call(self, target: str, /, *args: Any, **kwargs: Any) -> Any:
        try:
            return await self._running.client.call_async(self.context(), target, args, kwargs)
        except BaseException as error:
            _outside(error, self._running)
            raise

    async def __aenter__(self) -> AsyncSession:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.shield(asyncio.get_running_loop().run_in_executor(None, self.end))


class Opening(Coroutine[Any, Any, AsyncSession]):
    """A session that begins: awaited it is the session, entered with ``async with`` it also ends."""

    def __init__(self, beginning: Coroutine[Any, Any, AsyncSession]) -> None:
        self._beginning = beginning
        self._session: AsyncSession | None = None

    def __await__(self) -> Generator[Any, Any, AsyncSession]:
        return self._beginning.__await__()

    def send(self, value: Any) -> Any:
        return self._beginning.send(value)

    def throw(self, *raised: Any) -> Any:
        return self._beginning.throw(*raised)

    def close(self) -> None:
        self._beginning.close()

    async def __aenter__(self) -> AsyncSession:
        self._session = await self._beginning
        return self._session

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._session is not None
        await self._session.__aexit__(kind, error, trace)


class AsyncNode:
    """A running node, awaiting. ``async with shardwright.astart(path) as node: ...``"""

    def __init__(self, path: str | Path, options: Options) -> None:
        self._path = path
        self._options = options
        self.running: Running

    async def __aenter__(self) -> AsyncNode:
        loop = asyncio.get_running_loop()
        self.running = await loop.run_in_executor(None, Running, self._path, self._options)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.shield(asyncio.get_running_loop().run_in_executor(None, self.running.close))

    @property
    def plan(self) -> ShardPlan:
        return self.running.plan

    def __repr__(self) -> str:
        return repr(self.running) if hasattr(self, "running") else f"<node of {self._path}, not entered>"

    @property
    def urls(self) -> tuple[str, ...]:
        """As ``Node.urls``."""
        return Node(self.running).urls

    def session(
        self, name: str | None = None, *, keys: Mapping[str, Any] | None = None, timeout_s: float | None = None
    ) -> Opening:
        """As ``Node.session``, awaiting: ``async with node.session() as session``, or ``await node.session()``."""
        return Opening(self._session(name, keys, timeout_s))

    async def _session(self, name: str | None, keys: Mapping[str, Any] | None, timeout_s: float | None) -> AsyncSession:
        if (live := self.running.begin_at_once(name, keys)) is not None:
            return AsyncSession(self.running, live)
        beginning = self.running.begin_soon(name, keys, timeout_s)
        try:
            # shielded: what is cancelled may have begun already, and then nobody else would end it
            return AsyncSession(self.running, await asyncio.shield(asyncio.wrap_future(beginning.future)))
        except BaseException:
            beginning.give_up()
            raise

    async def metrics(self, accept: str = "") -> bytes:
        return (await asyncio.wrap_future(self.running.submit(self.running.metrics(accept)))).body

    async def shards(self) -> list[ShardStatus]:
        return await asyncio.wrap_future(self.running.submit(self.running.status()))

    async def resize(
        self,
        target: str,
        *,
        guarantee: Mapping[str, Any] | None = None,
        ceiling: Mapping[str, Any] | None = None,
    ) -> dict[ShardId, Limits]:
        """As ``Node.resize``, awaiting."""
        from shardwright.node._resize import resize

        applied = resize(self.running.core, target, guarantee or {}, ceiling or {})
        return await asyncio.wrap_future(self.running.submit(applied))

    async def pause(self, target: str) -> tuple[ShardId, ...]:
        """As ``Node.pause``, awaiting."""
        from shardwright.node._hold import pause

        return await asyncio.wrap_future(self.running.submit(pause(self.running.core, target)))

    async def unpause(self, target: str) -> tuple[ShardId, ...]:
        """As ``Node.unpause``, awaiting."""
        from shardwright.node._hold import unpause

        return await asyncio.wrap_future(self.running.submit(unpause(self.running.core, target)))

    async def pin(self, target: str, cpus: Collection[int]) -> dict[ShardId, frozenset[int]]:
        """As ``Node.pin``, awaiting."""
        from shardwright.node._hold import pin

        return await asyncio.wrap_future(self.running.submit(pin(self.running.core, target, cpus)))

    async def reload(self) -> Reloaded:
        """As ``Node.reload``, awaiting."""
        return await asyncio.wrap_future(self.running.submit(self.running.reload()))


def start(
    path: str | Path,
    *,
    inproc: bool = False,
    profile: str | None = None,
    environment: Mapping[str, str] | None = None,
    state: str | Path | None = None,
) -> Node:
    """Start a node for the application at ``path``; returns when its minimum of shards is ready.

    The node lives in a thread of this process, its shards in processes of their own (with ``inproc``, in this one).
    Raises ManifestError, PlanError, ComponentImportError, StartFailed, NodeError; then nothing was left running.
    """
    return Node(Running(path, Options(inproc, profile, environment, Path(state) if state else None)))


def astart(
    path: str | Path,
    *,
    inproc: bool = False,
    profile: str | None = None,
    environment: Mapping[str, str] | None = None,
    state: str | Path | None = None,
) -> AsyncNode:
    """The same for asyncio: ``async with astart(path) as node``."""
    return AsyncNode(path, Options(inproc, profile, environment, Path(state) if state else None))

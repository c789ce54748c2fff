"""Sessions that the gateway began: they are the node's, and so outlive a gateway; they end when nobody uses them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Mapping
from typing import Any, Protocol

from shardwright.errors import CompositionRefused, NodeError, NotPermitted, ShardwrightError
from shardwright.guest import BeginSession, EndSession, FromGateway, SessionBegun, UseSessions
from shardwright.model.ids import ComponentName, SessionNumber, ShardId
from shardwright.model.manifest import Gateway
from shardwright.model.scope import ScopeKind
from shardwright.model.shard import GATEWAY_COMPONENT, ShardPlan
from shardwright.node._port import ShardPort

OWN_NAME = "gateway"  # of the session of requests that need none: it lives as long as the node
MOST_SESSIONS = 65536
# Where each brings a shard to life and the manifest says no ``max_instances``: anybody may begin one, without a cookie.
MOST_WITH_SHARDS = 1024
MOST_PENDING = 1024  # that a gateway may wait for at once
LONGEST_NAME = 200
EXPIRY_S = 5.0


class Begun(Protocol):
    """A session that has begun."""

    @property
    def number(self) -> SessionNumber: ...


class SessionsOfNode(Protocol):
    """What is asked of the node's core."""

    async def begin_session(
        self, name: str, keys: Mapping[str, str], *, components: Iterable[str] | None = None
    ) -> Begun: ...

    def end_session(self, number: SessionNumber) -> None: ...

    def session_lives(self, number: SessionNumber) -> bool: ...

    def introduce(self, number: SessionNumber, shard: ShardId) -> None: ...

    def touch(self, number: SessionNumber) -> None: ...

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]: ...

    def record(self, kind: str, reason: str, *, session: str = "") -> None: ...

    def record_of(self, port: ShardPort, kind: str, reason: str) -> None: ...


class GatewaySessions:
    """What the gateway asked for. Use from the node's event loop alone."""

    def __init__(
        self,
        plan: ShardPlan,
        gateway: Gateway | None,
        node: SessionsOfNode,
        is_bounded: Callable[[ComponentName], bool],
    ) -> None:
        """``is_bounded``: the manifest says how many shards that component may have."""
        self._node = node
        self._loop = asyncio.get_running_loop()
        self._idle_s = gateway.session_idle_s if gateway is not None else 0.0
        self._entries = _components(plan, with_sessions=True)
        reached = frozenset().union(*(plan.closure(name) for name in self._entries))
        bringing = [
            d.component for d in plan.definitions if d.component in reached and d.scope.kind is ScopeKind.SESSION
        ]
        self._most = MOST_SESSIONS if all(map(is_bounded, bringing)) else MOST_WITH_SHARDS
        self._own_entries = _components(plan, with_sessions=False)
        self._names: dict[str, SessionNumber] = {}
        self._used_s: dict[SessionNumber, float] = {}
        self._beginning: dict[str, asyncio.Future[SessionNumber]] = {}
        self._pending = 0
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    def __repr__(self) -> str:
        return f"<GatewaySessions {len(self._names)}>"

    def close(self) -> None:
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()

    def on_ask(self, port: ShardPort, message: FromGateway) -> None:
        """A shard asks for sessions: the gateway may, and nobody else."""
        if port.component != GATEWAY_COMPONENT:
            self._node.record_of(port, "refuse", f"{port.component} asked for sessions, and is not the gateway")
            if isinstance(message, BeginSession):
                refused = NotPermitted(f"{port.component} is not the gateway", outcome="not started")
                port.begun(_refused(message, refused))
            return
        match message:
            case BeginSession():
                if self._pending >= MOST_PENDING:
                    port.close(f"it asked for more than {MOST_PENDING} sessions at once")
                    return
                self._pending += 1
                self._node.spawn(self._begin(port, message))
            case EndSession():
                number = self._living(message.name)
                if number is not None and message.name != OWN_NAME:
                    self._forget(message.name)
                    self._node.end_session(number)
            case UseSessions():
                now = self._loop.time()
                for session in message.sessions:
                    number = SessionNumber(session)
                    if number in self._used_s:
                        self._used_s[number] = now
                        self._node.touch(number)

    async def _begin(self, port: ShardPort, message: BeginSession) -> None:
        try:
            number = await self._number(message.name)
        except ShardwrightError as error:
            port.begun(_refused(message, error))
        except Exception as defect:  # whoever asked must get an answer
            port.begun(_refused(message, NodeError(f"the session could not begin: {defect!r}")))
            raise
        else:
            self._node.introduce(number, port.shard)
            port.begun(SessionBegun(message.request, number))
        finally:
            self._pending -= 1

    async def _number(self, name: str) -> SessionNumber:
        """The session of that name, alive. Raises CompositionRefused, NotPermitted."""
        number = self._living(name)
        if number is not None:
            self._used_s[number] = self._loop.time()
            return number
        beginning = self._beginning.get(name)
        if beginning is None:
            if not name or len(name) > LONGEST_NAME or not name.isprintable():
                raise NotPermitted("that is no name of a session", outcome="not started")
            if len(self._names) >= self._most and name != OWN_NAME:
                raise CompositionRefused(
                    f"{self._most} sessions of the gateway live already",
                    remedy="lower [gateway] session_idle, or say usage.max_instances of what has a shard for each",
                )
            beginning = self._beginning[name] = asyncio.ensure_future(self._compose(name))
            beginning.add_done_callback(lambda done: self._composed(name, done))
        return await asyncio.shield(beginning)

    async def _compose(self, name: str) -> SessionNumber:
        entries = self._own_entries if name == OWN_NAME else self._entries
        session = await self._node.begin_session(name, {}, components=entries)
        self._names[name] = session.number
        self._used_s[session.number] = self._loop.time()
        self._arm()
        return session.number

    def _composed(self, name: str, done: asyncio.Future[SessionNumber]) -> None:
        self._beginning.pop(name, None)
        if not done.cancelled():
            done.exception()  # looked at: whoever asked may have gone

    def _living(self, name: str) -> SessionNumber | None:
        number = self._names.get(name)
        if number is not None and not self._node.session_lives(number):
            self._forget(name)
            return None
        return number

    def _forget(self, name: str) -> None:
        number = self._names.pop(name, None)
        if number is not None:
            self._used_s.pop(number, None)

    def _arm(self) -> None:
        if self._timer is None and not self._closed:
            self._timer = self._loop.call_later(min(EXPIRY_S, self._idle_s / 4), self._expire)

    def _expire(self) -> None:
        """End what has not been used for a while, and forget what others ended."""
        self._timer = None
        end_s = self._loop.time() - self._idle_s
        for name, number in list(self._names.items()):
            if self._living(name) is None or name == OWN_NAME or self._used_s[number] > end_s:
                continue
            self._forget(name)
            self._node.record("expire", f"no request for {self._idle_s:g} s", session=name)
            self._node.end_session(number)
        if self._names:
            self._arm()


def _components(plan: ShardPlan, *, with_sessions: bool) -> tuple[ComponentName, ...]:
    """What routes lead to; without ``with_sessions`` what needs no session alone."""
    found = (route.component for route in plan.routes if with_sessions or not route.needs_session)
    return tuple(dict.fromkeys(found))


def _refused(message: BeginSession, error: ShardwrightError) -> SessionBegun:
    return SessionBegun(message.request, 0, error.message, error.code, error.remedy)

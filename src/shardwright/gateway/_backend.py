"""The seam inside the gateway: what the front asks, whatever answers it.

``_shards.ShardBackend`` answers over links to shards; a test may answer in its own process. Everything here runs on the
gateway's one event loop, and nothing here blocks it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from msgspec import Struct

from shardwright.errors import MessageTooLarge, NodeError, Outcome, RemoteError
from shardwright.model.manifest import Gateway
from shardwright.model.shard import RouteTarget
from shardwright.monitoring import Family

if TYPE_CHECKING:
    from shardwright.guest import FunctionReply, FunctionRequest

__all__ = [
    "OWN_SESSION",
    "Backend",
    "Begun",
    "Exchange",
    "GatewaySettings",
    "HeadTooLarge",
    "NodeView",
    "Raised",
    "RouteTarget",
    "SessionRefused",
]

OWN_SESSION = 0
"""The session of requests that need none: one for all of them, and it lives as long as the node."""


class SessionRefused(NodeError):
    """The node does not begin that session. ``reason_code`` is the code of the error that hindered it (SW601: no room)."""

    code = "SW602"

    def __init__(self, message: str, *, reason_code: str = "", remedy: str = "") -> None:
        super().__init__(message, remedy=remedy)
        self.reason_code = reason_code


class HeadTooLarge(MessageTooLarge):
    """The head of a request for an application is larger than what opens an exchange may be. Nothing was sent."""


class Raised(RemoteError):
    """A function or application raised. ``type_name`` and ``message`` are for the log, never for the client.

    ``status`` is what the exception itself asks to be answered, 400 to 499, if it does.
    """

    def __init__(
        self,
        message: str,
        *,
        type_name: str = "",
        outcome: Outcome = "failed",
        remedy: str = "",
        status: int | None = None,
    ) -> None:
        super().__init__(message, type_name=type_name, outcome=outcome, remedy=remedy)
        self.status = status


@dataclass(frozen=True, slots=True, repr=False)
class GatewaySettings:
    """What the node tells the gateway at its start. ``cookie_key`` and ``token`` are secrets: they are never logged."""

    app: str
    gateway: Gateway
    routes: tuple[RouteTarget, ...]
    cookie_key: bytes
    token: str = ""  # empty: no client off this machine reads the pages about the node

    def __repr__(self) -> str:
        return f"<GatewaySettings of {self.app}, {len(self.routes)} routes>"


class NodeView(Struct, frozen=True):
    """The node as the gateway sees it: ``alive`` it can go on, ``ready`` it serves all that it should, else ``reasons``."""

    alive: bool
    ready: bool
    reasons: tuple[str, ...] = ()
    families: tuple[Family, ...] = ()


class Exchange(Protocol):
    """One open conversation with an application: events both ways, until it returns, raises, or is cancelled."""

    async def send(self, event: dict[str, Any]) -> None:
        """An event to the application. Waits while it does not read.

        Raises ShardLost, HeadTooLarge (the first event alone, or the first ``receive``); nothing once it has ended.
        """

    async def receive(self) -> dict[str, Any] | None:
        """The next event from it; None when it returned.

        Raises Raised when it raised, another CallError when it was not run, ShardLost. For one task at a time.
        """

    def cancel(self) -> None:
        """The client is gone: the application hears of the disconnect and is then cancelled. Idempotent; also after
        the end, when it does nothing. Whoever opened an exchange calls it in the end."""


class Begun(Protocol):
    """A call that runs, and whose outcome somebody will be told."""

    def cancel(self) -> object:
        """Nobody wants to be told any more. Idempotent."""


class Backend(Protocol):
    """Shards, as the front sees them."""

    @property
    def on_session_ended(self) -> Callable[[str], None] | None:
        """Called with the name of a session that the node ended."""

    @on_session_ended.setter
    def on_session_ended(self, heard: Callable[[str], None] | None) -> None: ...

    def session(self, name: str) -> int | None:
        """The number of a session that lives, as far as is known here; None: ``begin_session`` asks the node."""

    async def begin_session(self, name: str) -> int:
        """Begin that session, or find it alive: its number. Raises SessionRefused, ShardLost (the node is gone)."""

    async def end_session(self, name: str) -> None:
        """End it. Idempotent."""

    def begin(
        self,
        route: RouteTarget,
        session: int,
        request: FunctionRequest,
        heard: Callable[[Any], None],
        *,
        deadline_ns: int = 0,
        trace_id: bytes = b"\0" * 16,
    ) -> Begun | None:
        """Begin what ``call`` does, without waiting for anything; ``heard`` is told the FunctionReply, or the error.

        It is told once, not before this returns, and not after ``cancel``; it must not raise. None: something must be waited
        for first, and nothing was begun. Raises what ``call`` raises before it sends.
        """

    async def call(
        self,
        route: RouteTarget,
        session: int,
        request: FunctionRequest,
        *,
        deadline_ns: int = 0,
        trace_id: bytes = b"\0" * 16,
    ) -> FunctionReply:
        """Run a function. ``session`` 0 is the gateway's own; ``deadline_ns`` as CLOCK_MONOTONIC, 0 means none.

        Raises ShardLost, Overloaded, DeadlineExceeded, NotPermitted (the session has ended: begin it again), MessageTooLarge,
        Raised (it raised), CompositionRefused (no room for its shard). Cancelling the caller cancels the call.
        """

    async def open(
        self, route: RouteTarget, session: int, scope: dict[str, Any], *, trace_id: bytes = b"\0" * 16
    ) -> Exchange:
        """Open an exchange with an application. Raises what ``call`` raises before it sends."""

    async def node(self, *, numbers: bool = False) -> NodeView:
        """How the node is, and, with ``numbers``, what it counts. Raises ShardLost when it is gone, or does not answer."""

    async def describe(self, route: RouteTarget, method: str) -> dict[str, Any]:
        """The operation of OpenAPI that a function is by that method, and under ``schemas`` what it refers to."""

    async def status(self) -> dict[str, Any]:
        """What the node tells of itself, for the page: plain data with ``ready``, ``reasons``, ``shards``, ``sessions`` and
        ``decisions``. Raises ShardLost when it is gone, or does not answer."""

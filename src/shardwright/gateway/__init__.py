"""The way in from outside: HTTP and WebSocket requests become calls of shards. A shard of its own, least privileged."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from shardwright.gateway._backend import (
    OWN_SESSION,
    Backend,
    Exchange,
    GatewaySettings,
    NodeView,
    Raised,
    RouteTarget,
    SessionRefused,
)
from shardwright.gateway._thread import GatewayThread

if TYPE_CHECKING:
    from shardwright.gateway._server import serve

__all__ = [
    "OWN_SESSION",
    "Backend",
    "Exchange",
    "GatewaySettings",
    "GatewayThread",
    "NodeView",
    "Raised",
    "RouteTarget",
    "SessionRefused",
    "serve",
]


def __getattr__(name: str) -> Any:
    if name == "serve":  # a node that has no gateway needs no server library
        return import_module("shardwright.gateway._server").serve
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
